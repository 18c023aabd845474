"""Training: the plan of a run, the one loop that follows it, and what a method has to offer."""
