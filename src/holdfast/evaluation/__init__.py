"""Evaluation of a model: scores with their intervals, and the criterion of a break."""
