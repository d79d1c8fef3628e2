"""The page that ``vlae-codec explore`` serves: what z tells of an image, and what the decoder's window does."""
