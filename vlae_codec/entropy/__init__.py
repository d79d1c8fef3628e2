"""The ANS message, integer CDFs and codecs. Uses `errors` alone."""
