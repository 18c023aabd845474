"""Reinforcement learning: rewards, rollouts, what is learned from them, and guidance by an expert."""
