"""Losses of tamper resistance and retention, and the weights of inner steps.

Shapes: `B` sequences, `S` tokens, `V` vocabulary, `H` hidden size, `L` layers, `P` pairs. Logits at position `t`
predict token `t + 1`. Source of all of them: Tamirisa et al. 2024 (arXiv 2408.00761) and its code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.tensors import masked_mean


def max_entropy(logits: Tensor, mask: Tensor | None = None, total: Tensor | None = None) -> Tensor:
    """Minus the mean entropy in nats of the distributions over the next token, a scalar in [-ln V, 0].

    Args:
        logits: (B, S, V).
        mask: (B, S), 1 on the positions that count; by default all of them, including prompt and padding.
        total: the divisor, by default the number of masked positions.
    """
    logprobs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return -masked_mean(entropy, torch.ones_like(entropy) if mask is None else mask, total)


def representation_distance(
    hidden: Sequence[Tensor], reference: Sequence[Tensor], mask: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Mean over layers and positions of the L2 norm between hidden states, a scalar.

    The norm is not squared, so its gradient has norm 1 for any small difference and is undefined at 0, where training
    starts; with `smoothing` `s` it is `sqrt(|d|^2 + s^2) - s`.

    Args:
        hidden: one (B, S, H) a layer.
        reference: the same, without gradient.
        mask: (B, S), 1 on the positions that count; by default all of them, including padding.
        smoothing: at least 0, in units of the norm.
    """
    terms = []
    for ours, theirs in zip(hidden, reference, strict=True):
        difference = ours - theirs
        if smoothing:
            distance = (difference.square().sum(-1) + smoothing**2).sqrt() - smoothing
        else:
            distance = difference.norm(dim=-1)
        terms.append(masked_mean(distance, torch.ones_like(distance) if mask is None else mask))
    return torch.stack(terms).mean()


def random_mapping(hidden: Sequence[Tensor], table: Tensor, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over layers and positions of `1 - |cos(h, R[token])|`, a scalar in [0, 1].

    Args:
        hidden: one (B, S, H) a layer.
        table: (V, H), the fixed random vector of each token.
        input_ids: (B, S).
        mask: (B, S), 1 on the positions that count; by default all of them.
    """
    wanted = table[input_ids]
    cosines = [functional.cosine_similarity(layer, wanted, dim=-1).abs() for layer in hidden]
    return torch.stack([masked_mean(1 - c, torch.ones_like(c) if mask is None else mask) for c in cosines]).mean()


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of the gradient of `loss` over all `parameters` together, a differentiable scalar.

    If the norm is 0 its gradient is taken as 0. Parameters that the loss does not depend on are ignored.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients if g is not None]
    squared = torch.stack([g.square().sum() for g in wide]).sum()
    return squared.clamp(min=torch.finfo(torch.float32).tiny).sqrt()


def step_weights(steps: int, decay: float | None) -> list[float]:
    """The weight of each inner step: `exp(decay (i - (steps - 1)))`, so that the last weight is 1; 1 / steps for
    `None`.

    Args:
        steps: the length of the inner run, at least 1.
        decay: at least 0.
    """
    if decay is None:
        return [1 / steps] * steps
    return [math.exp(decay * (i - (steps - 1))) for i in range(steps)]
