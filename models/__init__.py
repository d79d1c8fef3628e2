"""The networks: float for training, exact integers for coding."""
