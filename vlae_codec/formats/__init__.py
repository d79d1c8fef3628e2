"""One module a kind of .vlae file; `kinds` asks which. Uses registry.py, images/, coding/ and below."""
