"""Statistics of next-token distributions from hidden states, without the whole logits in memory.

Logits (N, V) of a large vocabulary are the largest tensors of a training step, and a loss needs one number of each row.
Here they are computed a part at a time and computed again in the backward pass, by blocks of tokens, so that the
weight's gradient is written once. If the head has no gradient (an adapter on the rest of the network), the derivative
by the states is computed with the numbers themselves, and the backward pass only multiplies it.

Values and gradients are those of plain autograd up to rounding. A second derivative is computed plainly, with all of
the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from holdfast.distributions.head import Head
from holdfast.distributions.statistics import Part, Statistic, at_temperature
from holdfast.tensors import exact

PART = 2**23
"""The number of logits that are in memory at a time; a few tensors of this size are."""
BLOCK_ROWS = 8192


def chunked(
    states: Tensor, head: Head, statistics: Sequence[Statistic], *, temperature: float = 1.0
) -> tuple[Tensor, ...]:
    """Each statistic of each position's distribution at `temperature`, (N,) in float32 at least.

    Args:
        states: (N, H + r), as the head needs them.
        head: its tensors get gradients where they require them.
        statistics: any number of them, for which the logits are computed once.
        temperature: above 0.
    """
    work = _Work(
        head=head,
        statistics=tuple(at_temperature(one, temperature) for one in statistics),
        temperature=temperature,
        graded=torch.is_grad_enabled(),
    )
    return _Statistics.apply(work, states, *head.tensors)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What to compute; `graded` says whether there will be a backward pass."""

    head: Head
    statistics: tuple[Statistic, ...]
    temperature: float
    graded: bool

    def of(self, weight: Tensor, bias: Tensor | None, low: Tensor | None) -> _Work:
        """The same with these tensors, which autograd tracks."""
        return replace(self, head=replace(self.head, weight=weight, bias=bias, low=low))

    def plainly(self, states: Tensor) -> tuple[Tensor, ...]:
        """The statistics by plain operations, with all of the logits."""
        logits = self.head.logits(states)
        return tuple(one.plain(logits, self.temperature) for one in self.statistics)

    def scaled(self, states: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """Logits of a part, and those over the temperature, two tensors only if they differ."""
        logits = exact(self.head.logits(states[part.rows], part.columns))
        return logits, logits if self.temperature == 1 else logits / self.temperature

    def rows(self, count: int) -> Iterator[Part]:
        """Parts of whole rows."""
        size = max(1, PART // self.head.vocabulary)
        for start in range(0, count, size):
            yield Part(slice(start, min(start + size, count)), slice(0, self.head.vocabulary))

    def blocks(self, count: int) -> Iterator[Part]:
        """Parts of many rows and few tokens."""
        for start in range(0, count, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, count))
            size = max(1, PART // (rows.stop - rows.start))
            for token in range(0, self.head.vocabulary, size):
                yield Part(rows, slice(token, min(token + size, self.head.vocabulary)))


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, states: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        work = work.of(*tensors)  # type: ignore[arg-type]
        trained = any(ctx.needs_input_grad[2:])
        at_once = work.graded and ctx.needs_input_grad[1] and not trained
        with torch.autocast(states.device.type, enabled=False):
            values, normalisers, slopes = _walk(work, states, at_once=at_once)
        if work.graded:
            ctx.work, ctx.at_once = work, at_once
            ctx.save_for_backward(states, *tensors, normalisers, *(slopes if at_once else values))
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, bias, low, normalisers, *kept = ctx.saved_tensors
        work, needed = ctx.work.of(weight, bias, low), ctx.needs_input_grad[1:]
        if all(gradient is None for gradient in gradients):
            return (None,) * 5
        with torch.autocast(states.device.type, enabled=False):
            if torch.is_grad_enabled():
                return None, *_differentiable(work, (states, weight, bias, low), gradients, needed)
            if ctx.at_once:
                terms = [g[:, None] * slope for g, slope in zip(gradients, kept, strict=True) if g is not None]
                return None, sum(terms[1:], terms[0]).to(states.dtype), None, None, None
            return None, *_Gradients(work, states, needed).walk(normalisers, kept, gradients)


def _walk(work: _Work, states: Tensor, *, at_once: bool) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The statistics' values (N,), the logits' normalisers (N,), and, `at_once`, slopes by the states (N, H + r)."""
    kind = torch.promote_types(work.head.dtype, torch.float32)
    values = [states.new_empty(len(states), dtype=kind) for _ in work.statistics]
    slopes = [states.new_empty(states.shape, dtype=kind) for _ in work.statistics if at_once]
    normalisers = states.new_empty(len(states), dtype=kind)
    for part in work.rows(len(states)):
        logits, scaled = work.scaled(states, part)
        logprobs = scaled.log_softmax(-1)
        # The normaliser is taken where the logit is largest, since rounding is smallest there.
        normalisers[part.rows] = scaled.amax(-1) - logprobs.amax(-1)
        for i, one in enumerate(work.statistics):
            values[i][part.rows] = one.value(logprobs, part)
        for i, one in enumerate(work.statistics if at_once else ()):
            last = i == len(work.statistics) - 1
            slope = one.slope_(logprobs if last else logprobs.clone(), values[i][part.rows], part)
            slopes[i][part.rows] = _by_states(work, _by_products(work, slope, logits), part)
    return values, normalisers, slopes


def _by_products(work: _Work, slopes: Tensor, logits: Tensor) -> Tensor:
    """Derivatives by the head's products from those by logits over the temperature; overwrites `slopes`."""
    if work.temperature != 1:
        slopes.div_(work.temperature)
    return work.head.before_cap_(slopes, logits).to(work.head.dtype)


def _by_states(work: _Work, slopes: Tensor, part: Part) -> Tensor:
    """Derivatives (n, H + r) by the states from those by a part's products (n, v)."""
    head = work.head
    own = slopes @ head.weight[part.columns].to(head.dtype)
    if head.low is None:
        return own
    return torch.cat([own, slopes @ head.low[part.columns].to(head.dtype)], -1)


class _Gradients:
    """The gradients of states, weight, bias and adapters, summed part after part in float32 at least."""

    def __init__(self, work: _Work, states: Tensor, needed: Sequence[bool]) -> None:
        self.work, self.states = work, states
        self.sums = [
            torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
            if wanted and tensor is not None
            else None
            for tensor, wanted in zip((states, *work.head.tensors), needed, strict=True)
        ]

    def walk(
        self, normalisers: Tensor, values: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients, `None` where they are not needed."""
        work, count = self.work, len(self.states)
        wanted = [(s, v, g) for s, v, g in zip(work.statistics, values, gradients, strict=True) if g is not None]
        by_rows = any(statistic.whole for statistic, *_ in wanted)
        for part in work.rows(count) if by_rows else work.blocks(count):
            logits, scaled = work.scaled(self.states, part)
            in_use = scaled is logits and work.head.cap is not None
            logprobs = (scaled.clone() if in_use else scaled).sub_(normalisers[part.rows, None])
            total: Tensor | None = None
            for i, (one, value, gradient) in enumerate(wanted):
                own = logprobs if i == len(wanted) - 1 else logprobs.clone()
                slope = one.slope_(own, value[part.rows], part).mul_(gradient[part.rows, None])
                total = slope if total is None else total.add_(slope)
            if total is not None:
                self._add(_by_products(work, total, logits), part)
        tensors = (self.states, *work.head.tensors)
        return [None if s is None or t is None else s.to(t.dtype) for s, t in zip(self.sums, tensors, strict=True)]

    def _add(self, slopes: Tensor, part: Part) -> None:
        by_states, by_weight, by_bias, by_low = self.sums
        size, states = self.work.head.weight.shape[1], self.states[part.rows].to(slopes.dtype)
        if by_states is not None:
            by_states[part.rows] += _by_states(self.work, slopes, part)
        if by_bias is not None:
            by_bias[part.columns] += slopes.sum(0, dtype=by_bias.dtype)
        for target, inner in ((by_weight, states[:, :size]), (by_low, states[:, size:])):
            if target is not None and target.dtype == slopes.dtype:
                target[part.columns].addmm_(slopes.T, inner)
            elif target is not None:
                target[part.columns] += slopes.T @ inner


def _differentiable(
    work: _Work, tensors: Sequence[Tensor | None], gradients: Sequence[Tensor | None], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients as plain operations, which can be differentiated again."""
    differentiable = [t for t, n in zip(tensors, needed, strict=True) if n and t is not None]
    pairs = [(v, g) for v, g in zip(work.plainly(tensors[0]), gradients, strict=True) if g is not None]  # type: ignore[arg-type]
    values, given = zip(*pairs, strict=True)
    own_gradients = iter(torch.autograd.grad(values, differentiable, given, create_graph=True, allow_unused=True))
    return [next(own_gradients) if n and t is not None else None for t, n in zip(tensors, needed, strict=True)]
