"""Training: the plan of a run, the training loop, and the protocols of methods."""
