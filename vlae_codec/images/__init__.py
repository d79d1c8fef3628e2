"""What a picture is: pixels, files, metadata, sets, forms without a model. Uses no network."""
