"""What a picture is: pixels, files, metadata, fallbacks. Uses coding/ and what stands below it."""
