"""Reinforcement learning: rewards, rollouts, experience, policies, and guidance by an expert."""
