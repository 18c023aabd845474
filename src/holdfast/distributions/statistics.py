"""What losses need of a distribution over the next token: one number a position, and its derivative by the logits.

Shapes: `N` positions, `n` rows and `v` columns of a part of them, `V` vocabulary. All numbers are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from holdfast.distributions.head import Head
from holdfast.tensors import exact, target_logprobs


class Part(NamedTuple):
    """Some rows and some columns of the logits (N, V)."""

    rows: slice
    columns: slice


class Statistic(Protocol):
    """A number for each distribution."""

    @property
    def whole(self) -> bool:
        """Whether every part has to be whole rows, and the first pass over them in their order."""

    def plain(self, logits: Tensor, temperature: float) -> Tensor:
        """The numbers (...) of logits (..., V)."""

    def chosen(self, mask: Tensor) -> Statistic:
        """The same for the positions in a mask, in one row."""

    def value(self, logprobs: Tensor, part: Part) -> Tensor:
        """The numbers (n,) of whole rows (n, V) of logits less their normaliser."""

    def slope_(self, logprobs: Tensor, value: Tensor, part: Part) -> Tensor:
        """Derivatives (n, v) of `value` (n,) by the logits over the temperature; overwrites `logprobs` (n, v)."""


@dataclass(frozen=True)
class LogProb:
    """The log-probability of a token: `tokens` (...) has one for each position."""

    tokens: Tensor
    whole: bool = False

    def plain(self, logits: Tensor, temperature: float) -> Tensor:
        """See `tensors.target_logprobs`."""
        return target_logprobs(logits, self.tokens, temperature=temperature)

    def chosen(self, mask: Tensor) -> LogProb:
        """The same for the positions in a mask."""
        return LogProb(self.tokens[mask])

    def value(self, logprobs: Tensor, part: Part) -> Tensor:
        """The token's entry."""
        return logprobs.gather(-1, self.tokens[part.rows, None]).squeeze(-1)

    def slope_(self, logprobs: Tensor, value: Tensor, part: Part) -> Tensor:  # noqa: ARG002
        """1 at the token less the probabilities."""
        slopes = logprobs.exp_().neg_()
        place = self.tokens[part.rows] - part.columns.start
        inside = ((place >= 0) & (place < slopes.shape[1])).nonzero().squeeze(1)
        slopes[inside, place[inside]] += 1
        return slopes


@dataclass(frozen=True)
class Entropy:
    """`-sum_v p_v log p_v`."""

    whole: bool = False

    def plain(self, logits: Tensor, temperature: float) -> Tensor:
        """The entropies (...)."""
        return self.value(_log_softmax(logits, temperature), WHOLE)

    def chosen(self, mask: Tensor) -> Entropy:  # noqa: ARG002
        """The same for the positions in a mask."""
        return self

    def value(self, logprobs: Tensor, part: Part) -> Tensor:  # noqa: ARG002
        """The entropies."""
        return -(logprobs.exp() * logprobs).sum(-1)

    def slope_(self, logprobs: Tensor, value: Tensor, part: Part) -> Tensor:  # noqa: ARG002
        """`-p (log p + H)`."""
        probabilities = logprobs.exp()
        return logprobs.add_(value[:, None]).mul_(probabilities).neg_()


@dataclass(frozen=True)
class Divergence:
    """`KL(p || q)` to the distributions `q` of states (N, H + r) and their head; `forward`: `KL(q || p)`.

    The other distributions have no gradient. They are at the temperature of the call.
    """

    states: Tensor
    head: Head
    forward: bool = False
    whole: bool = False
    temperature: float = 1.0
    _normalisers: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def plain(self, logits: Tensor, temperature: float) -> Tensor:
        """The divergences (...)."""
        whole = replace(self, temperature=temperature, _normalisers={})
        return whole.value(_log_softmax(logits, temperature), Part(slice(0, len(logits)), slice(0, logits.shape[-1])))

    def chosen(self, mask: Tensor) -> Divergence:  # noqa: ARG002
        """The same; the other states are of the positions in the mask already."""
        return self

    def value(self, logprobs: Tensor, part: Part) -> Tensor:
        """The divergences; keeps the other distributions' normalisers, which parts of rows need."""
        other = self._logits(part)
        self._normalisers[part.rows.start] = other.logsumexp(-1)
        return divergence(logprobs, other.log_softmax(-1), forward=self.forward)

    def slope_(self, logprobs: Tensor, value: Tensor, part: Part) -> Tensor:
        """`p (log p - log q - KL)`, or `p - q`."""
        normalisers = torch.cat([self._normalisers[start] for start in sorted(self._normalisers)])
        other = self._logits(part).sub_(normalisers[part.rows, None])
        if self.forward:
            return logprobs.exp_().sub_(other.exp_())
        probabilities = logprobs.exp()
        return logprobs.sub_(other).sub_(value[:, None]).mul_(probabilities)

    def _logits(self, part: Part) -> Tensor:
        with torch.no_grad(), torch.autocast(self.states.device.type, enabled=False):
            logits = exact(self.head.logits(self.states[part.rows], part.columns))
            return logits if self.temperature == 1 else logits / self.temperature


@dataclass(frozen=True)
class NoiseTerm:
    """`sum_(v != y) z_v log p_v` with uniform noise `z` on all tokens but `tokens` (N,), normalised to sum 1.

    The noise is sampled row after row from the seed.
    """

    tokens: Tensor
    seed: int
    whole: bool = True
    _before: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def plain(self, logits: Tensor, temperature: float) -> Tensor:
        """The terms (N,) of logits (N, V)."""
        return self.value(_log_softmax(logits, temperature), Part(slice(0, len(logits)), slice(0, logits.shape[-1])))

    def chosen(self, mask: Tensor) -> NoiseTerm:
        """The same for the positions in a mask."""
        return NoiseTerm(self.tokens[mask], self.seed)

    def value(self, logprobs: Tensor, part: Part) -> Tensor:
        """The terms."""
        return (self._noise(logprobs, part) * logprobs).sum(-1)

    def slope_(self, logprobs: Tensor, value: Tensor, part: Part) -> Tensor:  # noqa: ARG002
        """The noise less the probabilities."""
        return self._noise(logprobs, part).sub_(logprobs.exp_())

    def _noise(self, like: Tensor, part: Part) -> Tensor:
        # The state before each part is kept, so that the same noise can be sampled again.
        generator = torch.Generator(like.device).manual_seed(self.seed)
        if part.rows.start:
            generator.set_state(self._before[part.rows.start])
        noise = torch.rand(like.shape, generator=generator, device=like.device).to(like.dtype)
        self._before[part.rows.start + len(noise)] = generator.get_state()
        noise.scatter_(-1, self.tokens[part.rows, None], 0.0)
        return noise.div_(noise.sum(-1, keepdim=True))


WHOLE = Part(slice(None), slice(None))


def divergence(logprobs: Tensor, other: Tensor, *, forward: bool = False) -> Tensor:
    """`KL(p || q)` (...) from log-distributions (..., V), or, `forward`, `KL(q || p)`; 0 log 0 is 0."""
    first, second = (other, logprobs) if forward else (logprobs, other)
    return torch.where(first.isneginf(), 0.0, first.exp() * (first - second)).sum(-1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (exact(logits) if temperature == 1 else exact(logits) / temperature).log_softmax(-1)


def at_temperature(statistic: Any, temperature: float) -> Any:
    """The statistic for a call at that temperature, with its own memory."""
    if isinstance(statistic, NoiseTerm):
        return replace(statistic, _before={})
    return (
        replace(statistic, temperature=temperature, _normalisers={}) if isinstance(statistic, Divergence) else statistic
    )
