"""The networks: float for training, exact integers for coding. Uses entropy/ and what stands below it."""
