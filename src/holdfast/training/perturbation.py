"""Training under worst-case small perturbations of attention outputs: a backward rule of two passes over a batch.

Attention here includes the state-space or linear-attention part of layers that have one instead.

The first pass finds the direction in which the loss grows fastest, over the outputs `a_l` of all attentions at once;
the second uses `a_l + e_l`, and its gradient is the one for training. To first order this is
`min over weights of max over sum_l |e_l|^2 <= radius^2 of L(a_1 + e_1, ..., a_L + e_L)` (Vaccine, Huang et al. 2024,
arXiv 2402.01109).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from holdfast.network.anatomy import Anatomy, anatomy
from holdfast.records import HoldfastError
from holdfast.tensors import Batch
from holdfast.training.plan import Backward, Metrics, Objective, Propagate, backprop

EPSILON = 1e-7
"""From the published code: keeps the division defined if the gradient is 0."""

Calls = Sequence[Sequence[Tensor]]
"""A tensor (B, S, H) for each call of the network and each attention in it, first to last."""


def perturbations(slopes: Calls, radius: float, *, per_token: bool = False) -> list[list[Tensor]]:
    """The perturbations of attention outputs that raise the loss most, in the shape of its gradients `slopes` there.

    All perturbations together have the norm `radius`: the larger the batch, the smaller each token's share. With
    `per_token` those of each token have, over all attentions; a token with gradient 0 is not perturbed.
    """
    if per_token:
        squares = [torch.stack([_square(slope, -1).to(call[0].device) for slope in call]).sum(0) for call in slopes]
        scales = [torch.where(square > 0, radius * square.rsqrt(), 0.0)[..., None] for square in squares]
    else:
        first = slopes[0][0]
        square = torch.stack([_square(slope, None).to(first.device) for call in slopes for slope in call]).sum()
        scales = [radius / (square.sqrt() + EPSILON)] * len(slopes)
    return [
        [(slope * scale.to(slope.device)).to(slope.dtype) for slope in call]
        for call, scale in zip(slopes, scales, strict=True)
    ]


def two_pass(radius: float, *, per_token: bool = False, inner: Backward = backprop) -> Backward:
    """A backward rule that runs `inner` with perturbed attention outputs; its loss is the perturbed one.

    Existing gradients are kept: the first pass computes none for parameters. Both passes use the same random numbers
    (dropout), and the rule consumes as many as `inner` alone. Calls of the network without gradients (a reference's)
    are not perturbed. `groups` are removed from the batch, so that a batch is one call of the network. Hooks are
    removed on return.

    Raises:
        HoldfastError: the architecture is unknown; or activations are checkpointed in a way that records no gradients
            (`use_reentrant`), or for an objective that calls the network more than once per batch.
    """

    def rule(
        objective: Objective, network: torch.nn.Module, batch: Batch, propagate: Propagate
    ) -> tuple[Tensor, Metrics]:
        ungrouped = {name: value for name, value in batch.items() if name != "groups"}
        device = next(network.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _without_exchange(network):
            clean, slopes = slopes_of(objective, network, ungrouped)
        if not slopes:
            return inner(objective, network, ungrouped, propagate)
        changes = perturbations(slopes, radius, per_token=per_token)
        del slopes
        with _changed(anatomy(network), _adding(changes)):
            loss, metrics = inner(objective, network, ungrouped, propagate)
        return loss, {**metrics, "clean_loss": float(clean)}

    return rule


def require_attentions(network: torch.nn.Module) -> None:
    """Check that the network has attentions to perturb.

    Raises:
        HoldfastError: the architecture is unknown, or no layer has an attention or a replacement of it.
    """
    _ = anatomy(network).mixers


def slopes_of(objective: Objective, network: torch.nn.Module, batch: Batch) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The objective's loss, detached, and its gradient at attention outputs; empty if it does not depend on them.

    No gradient of a parameter is computed or touched.
    """
    parts = anatomy(network)
    seen: list[list[Tensor]] = [[] for _ in parts.mixers]
    reading = True

    def record(place: int, output: Tensor) -> Tensor:
        # Below the first trained weight outputs do not require gradients, but the loss depends on them.
        output = output if output.requires_grad else output.detach().requires_grad_()
        if reading:
            seen[place].append(output)
        elif len(seen[place]) > 1:
            raise HoldfastError(
                "vaccine: with gradient_checkpointing the network can be called only once per batch, and another part "
                "of the loss calls it too; disable gradient_checkpointing"
            )
        return output

    with _changed(parts, record) as unrecorded:
        loss, _ = objective(network, batch)
        reading = False
        if not any(seen) and unrecorded and any(getattr(m, "gradient_checkpointing", False) for m in parts.layers):
            raise HoldfastError(
                "vaccine: activations are checkpointed in a way that records no gradients in the first pass; "
                "checkpoint without `use_reentrant`"
            )
        if not loss.requires_grad or not any(seen):
            return loss.detach(), []
        outputs = [output for calls in seen for output in calls]
        gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True))
    by_place = [[next(gradients) for _ in calls] for calls in seen]
    return loss.detach(), list(zip(*by_place, strict=True))


def _adding(changes: Calls) -> Callable[[int, Tensor], Tensor]:
    """A function that adds the perturbations to outputs, call by call, and restarts for a rule of several passes."""
    calls = [0] * len(changes[0])

    def add(place: int, output: Tensor) -> Tensor:
        change = changes[calls[place] % len(changes)][place]
        calls[place] += 1
        return output + change

    return add


@contextmanager
def _changed(parts: Anatomy, change: Callable[[int, Tensor], Tensor]) -> Iterator[list[int]]:
    """Within this context attention `i` returns `change(i, output)` wherever gradients are recorded.

    Yields a list of the other calls: an `i` for each call without gradients.
    """
    unrecorded: list[int] = []

    def hook(place: int) -> Callable[..., object]:
        def act(module: torch.nn.Module, inputs: object, output: object) -> object:  # noqa: ARG001
            if not torch.is_grad_enabled():
                unrecorded.append(place)
                return None
            if isinstance(output, tuple | list):
                return (change(place, output[0]), *output[1:])
            assert isinstance(output, Tensor)
            return change(place, output)

        return act

    handles = [attention.register_forward_hook(hook(i)) for i, attention in enumerate(parts.mixers)]
    try:
        yield unrecorded
    finally:
        for handle in handles:
            handle.remove()


def _without_exchange(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Without data parallelism's gradient synchronisation, which the first pass does not need."""
    quiet = getattr(network, "no_sync", None)
    return nullcontext() if quiet is None else quiet()


def _square(slope: Tensor, dim: int | None) -> Tensor:
    """The sum of squares over a dimension or all, in float32 at least."""
    return (slope if slope.dtype == torch.float64 else slope.float()).square().sum(dim)
