"""Losses on hidden states: their distance from the targets of a defense.

Shapes: `B` sequences, `S` tokens, `H` hidden, `V` vocabulary. A `mask` is (B, S), 1 where a position counts. Everything
is computed in at least float32. Formulas: RepNoise (Rosati et al. 2024, arXiv 2405.14577), Circuit Breakers (Zou et al.
2024, arXiv 2406.04313), RMU (Li et al. 2024, arXiv 2403.03218), and the form common to the three in Rosati et al. 2024
(arXiv 2409.12914).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.distributions import Distributions, Logits, LogProb, Projected
from holdfast.tensors import masked_mean, target_mask

Distance = Literal["mmd", "cosine", "mse"]
EPS = 1e-8


class Targets(NamedTuple):
    """The `N` tokens to predict: `chosen` (B, S - 1) marks them, `tokens` (N,) are their ids.

    `visible` (N,) is 0 where the logits that predict the token are taken as zero, `None` if there are no such
    positions.
    """

    chosen: Tensor
    tokens: Tensor
    visible: Tensor | None

    @property
    def places(self) -> Tensor:
        """The positions that predict the targets, (B, S)."""
        return functional.pad(self.chosen, (0, 1))

    def before(self, values: Tensor) -> Tensor:
        """The values (B, S, D) at the positions that predict the targets, (N, D)."""
        return values[:, :-1][self.chosen]


def targets(
    input_ids: Tensor, mask: Tensor, *, drop_token_zero: bool = False, zero_unmasked_logits: bool = False
) -> Targets:
    """The tokens under a mask as targets.

    `drop_token_zero` and `zero_unmasked_logits` follow RepNoise's published code: token 0 is never a target, and logits
    at positions outside the mask count as zero, so that the first token under a mask costs `ln V` and has no gradient.
    """
    counted = mask * (input_ids != 0) if drop_token_zero else mask
    chosen = target_mask(counted) > 0
    visible = mask[:, :-1][chosen] if zero_unmasked_logits else None
    return Targets(chosen, input_ids[:, 1:][chosen], visible)


def target_loss(logits: Tensor, wanted: Targets) -> Tensor:
    """Mean cross entropy of the targets under their logits (N, V), a scalar; 0 if there are none."""
    if wanted.visible is not None:
        logits = logits * wanted.visible[:, None].to(logits.dtype)
    return functional.cross_entropy(_exact(logits), wanted.tokens, reduction="sum") / max(len(wanted.tokens), 1)


def predicted_loss(distributions: Distributions, wanted: Targets) -> Tensor:
    """`target_loss` of the distributions (N,) that predict the targets, whose logits need not be in memory."""
    if isinstance(distributions, Logits):
        return target_loss(distributions.values, wanted)
    assert isinstance(distributions, Projected)
    (logprobs,) = distributions.measure(LogProb(wanted.tokens))
    losses = -logprobs
    if wanted.visible is not None:
        # Logits that are all zero.
        losses = torch.where(wanted.visible > 0, losses, math.log(distributions.head.vocabulary))
    return losses.sum() / max(len(wanted.tokens), 1)


def masked_cross_entropy(
    logits: Tensor,
    input_ids: Tensor,
    mask: Tensor,
    *,
    drop_token_zero: bool = False,
    zero_unmasked_logits: bool = False,
) -> Tensor:
    """Mean cross entropy of the tokens under the mask, a scalar, from logits (B, S, V); options: see `targets`.

    For training loops of one's own; Holdfast's methods call `predicted_loss`, which needs no logits in memory.
    """
    wanted = targets(input_ids, mask, drop_token_zero=drop_token_zero, zero_unmasked_logits=zero_unmasked_logits)
    return target_loss(wanted.before(logits), wanted)


def ascent(losses: Sequence[Tensor], num_layers: int) -> Tensor:
    """`log(1 + sum(losses) / (L + 1))`, to be maximised: RepNoise's term on the cross entropies of every layer.

    It grows more slowly for large losses, but has no upper bound.
    """
    return (torch.stack(list(losses)).sum() / (num_layers + 1)).log1p()


def mmd(source: Tensor, target: Tensor, *, kernels: int = 5, factor: float = 2.0) -> Tensor:
    """Squared maximum mean discrepancy of two samples (B, D), a scalar: biased, Gaussian kernels of several widths.

    The middle width is the mean squared distance of all `2 B` points, each other one `factor` times the one below;
    widths have no gradient. Samples of the same distribution in many dimensions do not give 0 but 6.19 / B with the
    defaults, so values are comparable only at the same batch size.
    """
    points = _exact(torch.cat([source, target]))
    with torch.autocast(points.device.type, enabled=False):
        # By inner products, since differences of B sequences would need 4 B^2 times the memory of a sequence.
        lengths = points.square().sum(-1)
        distances = (lengths[:, None] + lengths[None] - 2 * points @ points.T).clamp(min=0)
    count = len(points)
    width = (distances.detach().sum() / (count * count - count)).clamp(min=EPS) / factor ** (kernels // 2)
    kernel = torch.stack([(-distances / (width * factor**i)).exp() for i in range(kernels)]).sum(0)
    (same, across), (_, other) = ((part.chunk(2, 1)) for part in kernel.chunk(2, 0))
    return (same + other - across - across.T).mean()


def masked_mmd(states: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """`mmd` of states (B, S, H) and their targets, with a sequence's positions under the mask concatenated to one
    point."""
    shown = mask[..., None].to(states.dtype)
    return mmd((states * shown).flatten(1), (target * shown).flatten(1))


def cosine(states: Tensor, target: Tensor, mask: Tensor, *, away: bool) -> Tensor:
    """Mean under the mask of `1 - cos`, or, `away`, of `relu(cos)`: 1 at the target, 0 if orthogonal to it."""
    similarity = functional.cosine_similarity(_exact(states), _exact(target), dim=-1, eps=EPS)
    return masked_mean(similarity.relu() if away else 1 - similarity, mask)


def mse(states: Tensor, target: Tensor, mask: Tensor, *, away: bool) -> Tensor:
    """Mean under the mask of the mean squared difference over `H`.

    `away`: of `relu(1 - |z - t|^2 / |t|^2)` instead, 1 if states equal the target and 0 if their distance exceeds the
    target's norm; maximising the squared distance itself would be unbounded.
    """
    squares = (_exact(states) - _exact(target)).square().mean(-1)
    if away:
        squares = (1 - squares / _exact(target).square().mean(-1).clamp(min=EPS)).relu()
    return masked_mean(squares, mask)


def removal(states: Tensor, target: Tensor, mask: Tensor, *, distance: Distance, away: bool) -> Tensor:
    """The loss that moves states (B, S, H) towards a target, or, `away`, from it, a scalar.

    The discrepancy between batches is bounded, so `away` negates it; see `cosine` and `mse` for the other two.
    """
    if distance == "mmd":
        value = masked_mmd(states, target, mask)
        return -value if away else value
    return {"cosine": cosine, "mse": mse}[distance](states, target, mask, away=away)


def drift(
    states: Sequence[Tensor], originals: Sequence[Tensor], mask: Tensor, *, count_padding: bool = False
) -> Tensor:
    """Mean over layers and positions of `|z - z_original|`, not squared, a scalar: the retain loss of Circuit Breakers.

    `count_padding` divides by all positions instead of those under the mask, as its published code does.
    """
    norms = torch.stack(
        [
            (mask[..., None] * (_exact(state) - _exact(other))).norm(dim=-1)
            for state, other in zip(states, originals, strict=True)
        ]
    )
    counted = torch.ones_like(mask) if count_padding else mask
    return masked_mean(norms, counted.expand_as(norms))


def control_vector(draw: Tensor, length: float) -> Tensor:
    """RMU's fixed target: a sample (..., H) of U[0, 1), scaled to norm `length`."""
    return draw / draw.norm(dim=-1, keepdim=True) * length


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
