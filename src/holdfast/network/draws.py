"""Draw tokens from logits by given numbers, without waiting for the device.

A row's token depends only on its own logits and number, so that other rows in the batch do not change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.methods.ranges import Count, NonNegative, PositiveShare, Whole, ranged


@dataclass(frozen=True, kw_only=True)
@ranged
class Sampling:
    """Sampling settings. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 disable truncation."""

    max_new_tokens: Count = 128
    temperature: NonNegative = 1.0
    top_p: PositiveShare = 1.0
    top_k: Whole = 0


class SamplingError(ArithmeticError):
    """The model's probabilities are not finite, so that nothing can be sampled."""


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """One token per row by inverting the distribution function at `uniform`, (N,).

    Raises:
        SamplingError: a logit is NaN or plus infinity, or all of a row's are minus infinity.
    """
    tokens, sound = choose(logits, uniform, sampling)
    _require(sound)
    return tokens


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token per row as `draw` gives it, and whether the row's logits allow one, both (N,), on the device."""
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.argmax(-1), logits.amax(-1).isfinite()
    return _inverted(_cut_off(logits / sampling.temperature, sampling).softmax(-1), uniform)


def invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One token per row of `probabilities` (N, V) at `uniform`, (N,); they need not sum to exactly 1.

    Raises:
        SamplingError: a row's sum is not finite.
    """
    tokens, sound = _inverted(probabilities, uniform)
    _require(sound)
    return tokens


def _inverted(probabilities: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, (uniform * total).unsqueeze(1), right=True).squeeze(1)
    # Rounding can push the target past the last token that has any probability.
    tokens = torch.where(tokens < probabilities.shape[-1], tokens, probabilities.argmax(-1))
    # A NaN or plus infinity, or only minus infinities, make a row's sum NaN or infinite.
    return tokens, total.isfinite()


def _require(sound: Tensor) -> None:
    if not bool(sound.all()):
        raise SamplingError("non-finite logits while sampling")


def _cut_off(logits: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k > 0:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(
            -1, order, (before >= sampling.top_p) & (before > 0)
        )
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits
