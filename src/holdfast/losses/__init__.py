"""Losses as pure functions of tensors. They know nothing of models, data or the loop."""
