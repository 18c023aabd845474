"""Terms that keep a model close to its initial state: shares of a mix, weights of tokens, the distance of parameters.

Shapes: `B` sequences, `T` targets. A `mask` is (B, T), 1 on the targets that are learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.tensors import masked_mean


def token_share(tokens: Tensor, others: Tensor, weight: float = 1.0) -> Tensor:
    """The share that `others` tokens have in one mean over two batches, if each of them counts `weight` times."""
    return weight * others / (tokens + weight * others).clamp(min=1)


def position_betas(mask: Tensor, *, beta: float, first: float, early: float, num_early: int) -> Tensor:
    """The beta of each target, (B, T), by its position in its answer.

    `beta * first` for the first token, `beta * early` for the following ones up to the `num_early`-th, `beta` after.
    """
    place = mask.cumsum(-1)
    factors = torch.where(place <= num_early, early, 1.0)
    return (beta * torch.where(place <= 1, first, factors)).to(mask.dtype)


def constrained_weights(logprobs: Tensor, ref_logprobs: Tensor, betas: Tensor, *, floor: float = 0.0) -> Tensor:
    """The weight of each target in the cross entropy, (B, T), without a gradient.

    `max(2 (1 - sigmoid(beta_t d_t)), floor)` with `d_t = logprobs - ref_logprobs`: 1 if the token is as likely as under
    the reference, less if it is more likely, at most 2 (Qi et al. 2024, arXiv 2406.05946, and its code).
    """
    return (2 * (-betas * (logprobs - ref_logprobs).detach()).sigmoid()).clamp(min=floor)


def constrained_cross_entropy(
    logprobs: Tensor, weights: Tensor, mask: Tensor, num_tokens: Tensor | None = None
) -> Tensor:
    """Mean of `-w_t log p(token)` over the masked targets, a scalar; divided by `num_tokens` if given."""
    return masked_mean(-weights * logprobs, mask, num_tokens)


def squared_distance(
    parameters: Sequence[Tensor], start: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> Tensor:
    """`sum_i w_i (p_i - a_i)^2` over all elements, a scalar in float32 at least; by default every weight is 1.

    Its gradient at the start is 0. Weights that are sharded over devices stay there: each device sums its own, and one
    number per tensor is exchanged. No difference is kept for the backward pass.
    """
    total: Any = 0.0
    for i, (own, then) in enumerate(zip(parameters, start, strict=True)):
        distance = _SquaredDistance.apply(own, then, None if weights is None else weights[i])
        distance = distance.full_tensor() if hasattr(distance, "full_tensor") else distance
        total = total + (distance if i == 0 else distance.to(total.device))
    return total


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, start: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(own, start, weight)
        squares = _gap(own, start).square()
        return (squares if weight is None else weight * squares).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own, start, weight = ctx.saved_tensors
        gradient = 2 * gradients[0] * _gap(own, start)
        return (gradient if weight is None else weight * gradient).to(own.dtype), None, None


def _gap(own: Tensor, start: Tensor) -> Tensor:
    exact = torch.promote_types(own.dtype, torch.float32)
    return own.detach().to(exact) - start.to(exact)
