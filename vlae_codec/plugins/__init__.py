"""The codec inside other libraries: import ``pillow``, ``imageio`` or ``numcodecs`` from here to register it there."""
