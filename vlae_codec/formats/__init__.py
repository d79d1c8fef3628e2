"""One module a kind of .vlae file. Uses images/, coding/ and what stands below them."""
