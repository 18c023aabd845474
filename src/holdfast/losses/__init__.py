"""Losses as pure functions of tensors, independent of models, data and the training loop."""
