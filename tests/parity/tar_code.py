"""Losses of TAR's code that no method here uses, compared with the published numbers all the same.

Shapes: `B` sequences, `S` tokens, `V` vocabulary, `P` pairs. Source: Tamirisa et al. 2024 (arXiv 2408.00761), its code.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.tensors import masked_mean

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
