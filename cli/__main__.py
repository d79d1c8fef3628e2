"""``python -m vlae_codec.cli``."""

from . import main

main()
