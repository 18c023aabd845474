"""The memory that the activations of a run's passes may take, with `gradient_checkpointing: auto`."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.network.activations import HEADROOM, Activations, free_memory, refuse_unrepeatable
from holdfast.records import HoldfastError
from holdfast.training.plan import Plan, backprop

ADAM_STATES = 2
"""Tensors of a weight's size that an optimizer makes in its first step: as many as Adam."""


def refuse_unboundable(plan: Plan) -> None:
    """Refuse `gradient_checkpointing: auto` for a plan with a backward rule of its own, or an architecture whose layers
    cannot be computed again.

    Raises:
        HoldfastError: says what to do instead.
    """
    if plan.optim.gradient_checkpointing != "auto":
        return
    if plan.backward is not backprop:
        raise HoldfastError(
            "optim.gradient_checkpointing: `auto` is only for one forward and one backward pass a batch, and a method "
            "here has passes of its own; set it to true or false"
        )
    refuse_unrepeatable(plan.model.network)


def activations_of(plan: Plan, loop: Any) -> Activations | None:
    """What keeps the run's activations within memory, `None` unless it is asked for; `loop` has the `optimizer`.

    Raises:
        HoldfastError: the run is spread over several processes.
    """
    optim = plan.optim
    if optim.gradient_checkpointing != "auto":
        return None
    if loop.accelerator.num_processes > 1:
        raise HoldfastError("optim.gradient_checkpointing: `auto` is for a single process; set it to true or false")
    limit_mb, network = optim.max_activation_mb, plan.model.network

    def memory() -> float:
        if limit_mb is not None:
            return limit_mb * 2**20
        later = unallocated(network, stepped=bool(loop.state.global_step or loop.optimizer.state))
        return (1 - HEADROOM) * (free_memory(plan.model.device) - later)

    return Activations(network, memory)


def unallocated(network: torch.nn.Module, *, stepped: bool) -> int:
    """The bytes that training will still take for gradients, and, before the first step, for the optimizer."""
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained if p.grad is None)
    return gradients if stepped else gradients + ADAM_STATES * sum(p.nbytes for p in trained)
