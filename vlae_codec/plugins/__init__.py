"""The codec in other libraries: import ``pillow``, ``imageio`` or ``numcodecs`` to register it there. Uses formats/."""
