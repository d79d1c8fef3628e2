"""Training: data, objective, loop, and export to integers. Uses the float networks and exact/."""
