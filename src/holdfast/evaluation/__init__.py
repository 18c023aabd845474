"""What is measured of a model, and what follows from it: scores, breaks, outcomes, intervals."""
