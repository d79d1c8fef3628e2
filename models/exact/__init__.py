"""The networks in exact integers, as coding runs them: by torch, by numpy, in compiled loops. Uses plan.py."""
