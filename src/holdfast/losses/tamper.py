"""What a tamper-resistant model should keep losing at while somebody trains it, and how that is weighed.

Shapes: `B` sequences, `S` tokens, `V` vocabulary, `H` hidden size, `L` layers, `P` pairs. Logits at position `t`
predict token `t + 1`. Source of all of them: Tamirisa et al. 2024 (arXiv 2408.00761) and its code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.tensors import masked_mean, masked_mean_per_sequence

PreferenceForm = Literal["sigmoid", "hinge", "ipo", "kto_pair"]


def log_p(logprobs: Tensor, mask: Tensor, num_tokens: Tensor | None = None) -> Tensor:
    """Mean of `-log p(token)` over the masked targets, a scalar: what the adversary lowers.

    Args:
        logprobs: (B, S - 1) of each target (`tensors.token_logprobs`).
        mask: (B, S - 1), 1 on the targets that count.
        num_tokens: what to divide by; the number of masked targets unless given.
    """
    return masked_mean(-logprobs, mask, num_tokens)


def log_1_minus_p(
    logits: Tensor, targets: Tensor, mask: Tensor, *, threshold: float = -15.0, num_tokens: Tensor | None = None
) -> Tensor:
    """Mean of `-log(1 - p(token))` over the masked targets, a scalar, at least 0.

    A target whose `log p` is below `threshold` costs nothing any more and is still counted in the denominator.

    Args:
        logits: (B, T, V), those that predict `targets`.
        targets: (B, T); anything where `mask` is 0.
        mask: (B, T), 1 on the targets that count.
        threshold: in nats.
        num_tokens: what to divide by; the number of masked targets unless given.
    """
    every, place = logits.logsumexp(-1), targets[..., None]
    # From the other tokens' logits rather than from p itself, which rounds to 1 long before 1 - p is 0.
    others = logits.scatter(-1, place, -torch.inf).logsumexp(-1) - every
    likely = logits.gather(-1, place).squeeze(-1) - every >= threshold
    return masked_mean(torch.where(likely, -others, 0.0), mask, num_tokens)


def max_entropy(logits: Tensor, mask: Tensor | None = None, total: Tensor | None = None) -> Tensor:
    """Minus the mean entropy in nats of the distributions over the next token, a scalar in [-ln V, 0].

    Args:
        logits: (B, S, V).
        mask: (B, S), 1 on the positions that count; all of them, prompt and padding too, unless given.
        total: what to divide by; the number of masked positions unless given.
    """
    logprobs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return -masked_mean(entropy, torch.ones_like(entropy) if mask is None else mask, total)


def sequence_logprobs(logprobs: Tensor, mask: Tensor, *, average: bool = False) -> Tensor:
    """Sum, or mean, of the log-probabilities of each row's masked targets, (B,)."""
    mean = masked_mean_per_sequence(logprobs, mask)
    return mean if average else mean * mask.sum(-1)


def preference(
    margins: tuple[Tensor, Tensor], ref_margins: tuple[Tensor, Tensor], *, beta: float, form: PreferenceForm = "sigmoid"
) -> Tensor:
    """The loss of each pair, (P,); of each answer, first all chosen, then all rejected, (2 P,), for `kto_pair`.

    With `z = (chosen - rejected) - (ref_chosen - ref_rejected)`: `-log sigmoid(beta z)` (DPO, Rafailov et al. 2023,
    arXiv 2305.18290), `max(0, 1 - beta z)` (`hinge`, Zhao et al. 2023, arXiv 2305.10425), `(z - 1 / (2 beta))^2`
    (`ipo`, Azar et al. 2023, arXiv 2310.12036); `kto_pair` holds each answer against the others' mean log-ratio
    (Ethayarajh et al. 2023).

    Args:
        margins: log-probabilities (P,) of the chosen and of the rejected answers under the policy.
        ref_margins: the same under the reference.
        beta: above 0.
        form: which of them.
    """
    chosen, rejected = (ours - theirs for ours, theirs in zip(margins, ref_margins, strict=True))
    if form == "kto_pair":
        others = rejected.mean().clamp(min=0), chosen.mean().clamp(min=0)
        return torch.cat([1 - (beta * (chosen - others[0])).sigmoid(), 1 - (beta * (others[1] - rejected)).sigmoid()])
    gap = chosen - rejected
    if form == "hinge":
        return (1 - beta * gap).relu()
    return (gap - 1 / (2 * beta)).square() if form == "ipo" else -functional.logsigmoid(beta * gap)


def representation_distance(
    hidden: Sequence[Tensor], reference: Sequence[Tensor], mask: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Mean over layers and positions of the L2 norm between hidden states, a scalar.

    The norm is not squared, so its gradient has length 1 however small the difference and is undefined at 0, which is
    where training starts; `smoothing` `s` makes it `sqrt(|d|^2 + s^2) - s`.

    Args:
        hidden: one (B, S, H) a layer.
        reference: the same, without gradient.
        mask: (B, S), 1 on the positions that count; all of them, padding too, unless given.
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
        mask: (B, S), 1 on the positions that count; all of them unless given.
    """
    wanted = table[input_ids]
    cosines = [functional.cosine_similarity(layer, wanted, dim=-1).abs() for layer in hidden]
    return torch.stack([masked_mean(1 - c, torch.ones_like(c) if mask is None else mask) for c in cosines]).mean()


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of the gradient of `loss` over all `parameters` together, a scalar with a gradient of its own.

    Where the norm is 0 its own gradient is taken to be 0. Parameters that the loss does not depend on count nothing.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients if g is not None]
    squared = torch.stack([g.square().sum() for g in wide]).sum()
    return squared.clamp(min=torch.finfo(torch.float32).tiny).sqrt()


def step_weights(steps: int, decay: float | None) -> list[float]:
    """The weight of each inner step: `exp(decay (i - (steps - 1)))`, so that the last weighs 1; 1 / steps for `None`.

    Args:
        steps: the length of the inner run, at least 1.
        decay: at least 0.
    """
    if decay is None:
        return [1 / steps] * steps
    return [math.exp(decay * (i - (steps - 1))) for i in range(steps)]
