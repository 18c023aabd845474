"""Tune an attack within a budget, and report the result on unseen prompts, with another judge and new seeds."""
