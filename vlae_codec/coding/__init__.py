"""Pixels and z into a message and back: one bits-back for photographs and binary images. Uses entropy/ and models/."""
