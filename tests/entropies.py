"""The entropy of each target's distribution, as Holdfast measures it where whole logits are there."""

from __future__ import annotations

from torch import Tensor

from holdfast.distributions import Entropy, Logits


def token_entropy(logits: Tensor) -> Tensor:
    """In nats, (B, S - 1), from logits (B, S, V)."""
    (entropies,) = Logits(logits[:, :-1]).measure(Entropy())
    return entropies
