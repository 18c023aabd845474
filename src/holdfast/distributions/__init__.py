"""Distributions over the next token: as logits, or, for a large vocabulary, as hidden states and the head.

A loss that needs a number of each distribution (a token's log-probability, an entropy, a divergence) asks for it here,
and does not see which of the two it gets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from holdfast.distributions.chunked import chunked
from holdfast.distributions.head import Head
from holdfast.distributions.statistics import Divergence, Entropy, LogProb, NoiseTerm, Statistic, divergence
from holdfast.tensors import exact

__all__ = ["Distributions", "Divergence", "Entropy", "Head", "LogProb", "Logits", "NoiseTerm", "Projected", "Statistic"]


class Distributions(Protocol):
    """Distributions at positions (...)."""

    def measure(self, *statistics: Statistic, temperature: float = 1.0) -> tuple[Tensor, ...]:
        """Each statistic of every distribution at `temperature`, (...), float32 at least."""

    def rows(self, rows: slice) -> Distributions:
        """Those at some of the positions (n,)."""

    def divergence(self, other: Distributions, *, temperature: float = 1.0, forward: bool = False) -> Tensor:
        """`KL(self || other)`, or, `forward`, `KL(other || self)`, (...); `other` has no gradient."""


@dataclass(frozen=True)
class Logits:
    """As logits (..., V)."""

    values: Tensor

    def measure(self, *statistics: Statistic, temperature: float = 1.0) -> tuple[Tensor, ...]:
        """Each statistic, by plain operations."""
        return tuple(one.plain(self.values, temperature) for one in statistics)

    def rows(self, rows: slice) -> Logits:
        """Those at some positions."""
        return Logits(self.values[rows])

    def divergence(self, other: Distributions, *, temperature: float = 1.0, forward: bool = False) -> Tensor:
        """The divergence from whole distributions."""
        own, theirs = (one.logprobs(temperature) for one in (self, as_logits(other)))
        return divergence(own, theirs.detach(), forward=forward)

    def logprobs(self, temperature: float = 1.0) -> Tensor:
        """Log-distributions (..., V), float32 at least."""
        logits = exact(self.values)
        return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


@dataclass(frozen=True)
class Projected:
    """As the `n` hidden states (n, H + r) from which a head computes logits.

    With `places` (...), a mask with `n` ones, they belong to those positions, and statistics are 0 elsewhere; without,
    positions are (n,).
    """

    states: Tensor
    head: Head
    places: Tensor | None = None

    def measure(self, *statistics: Statistic, temperature: float = 1.0) -> tuple[Tensor, ...]:
        """Each statistic, without the whole logits in memory."""
        places = self.places
        chosen = statistics if places is None else [one.chosen(places) for one in statistics]
        values = chunked(self.states, self.head, chosen, temperature=temperature)
        if places is None:
            return values
        return tuple(value.new_zeros(places.shape).masked_scatter(places, value) for value in values)

    def rows(self, rows: slice) -> Projected:
        """Those at some positions, if they have no `places`."""
        assert self.places is None
        return replace(self, states=self.states[rows])

    def divergence(self, other: Distributions, *, temperature: float = 1.0, forward: bool = False) -> Tensor:
        """The divergence, without the whole logits of either in memory, if `other` has states too."""
        if not isinstance(other, Projected):
            return as_logits(self).divergence(other, temperature=temperature, forward=forward)
        term = Divergence(other.states.detach(), other.head, forward)
        return self.measure(term, temperature=temperature)[0]


def as_logits(distributions: Distributions) -> Logits:
    """The same with all of its logits in memory; those of positions without a state are 0."""
    if isinstance(distributions, Logits):
        return distributions
    assert isinstance(distributions, Projected)
    logits, places = distributions.head.logits(distributions.states), distributions.places
    if places is None:
        return Logits(logits)
    return Logits(logits.new_zeros(*places.shape, logits.shape[-1]).masked_scatter(places[..., None], logits))
