"""Training: data, objective, loop, and export to integers."""
