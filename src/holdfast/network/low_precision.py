"""A copy of a network in lower precision, to sample from; the network itself is trained and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from holdfast.network.models import Model, clone
from holdfast.network.precision import mark, refuse_overflow

Low = Literal["bfloat16"]


def low_precision_copy(dtype: Low) -> Callable[[Model], Model]:
    """A function that gives a model with its present weights rounded to `dtype`.

    The copy is kept and brought up to date at each call. Only weights are rounded: buffers, such as those of rotary
    positions, stay as they are, as in a model that is loaded in that type. It raises `HoldfastError` if a weight of a
    network that it has not seen is too large for the type.
    """
    latest: list[tuple[torch.nn.Module, Model]] = []

    def copy(model: Model) -> Model:
        if not latest or latest[0][0] is not model.network:
            latest[:] = [(model.network, _rounded(model, dtype))]
        twin = latest[0][1].network
        with torch.no_grad():
            for weight, low in zip(model.network.parameters(), twin.parameters(), strict=True):
                if weight.requires_grad:
                    low.copy_(weight)
        return replace(model, network=twin)

    return copy


def _rounded(model: Model, dtype: Low) -> Model:
    twin = clone(model)
    # What a run in mixed precision has put around `forward` would read the original's weights.
    for name in ("forward", "_original_forward"):
        vars(twin.network).pop(name, None)
    mark(twin.network, bf16=False)
    for name, weight in twin.network.named_parameters():
        if weight.is_floating_point():
            low = weight.data.to(getattr(torch, dtype))
            refuse_overflow(name, weight.data, low, dtype)
            weight.data = low
        weight.requires_grad_(False)
    return twin
