"""Helpers for one instance of a trainer and its networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def bound(own: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """`ours` with the name and signature of the trainer's own method."""

    @functools.wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return method


def is_scaled(trainer: Any, items: Any) -> bool:
    """Whether the trainer leaves the division by accumulation steps to its loss."""
    is_scaled_by_loss = getattr(trainer, "loss_is_scaled_for_ga", None)
    if is_scaled_by_loss is not None:
        return bool(is_scaled_by_loss)
    return (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None


def hooks_of(trainer: Any) -> dict[torch.nn.Module, set[int]]:
    """The forward hooks on the trainer's networks, by their numbers."""
    networks = [trainer.model, getattr(trainer, "ref_model", None)]
    modules = [part for network in networks if isinstance(network, torch.nn.Module) for part in network.modules()]
    return {module: set(module._forward_hooks) for module in modules}
