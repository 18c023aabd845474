"""Means over seeds and models, and their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from holdfast.evaluation import survival
from holdfast.evaluation.breaking import DIFFERENCES
from holdfast.evaluation.intervals import bootstrap, clustered, t_half_width
from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Outcome, Record, Score, digest
from holdfast.records.hashing import unlabelled


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over `seeds` cells with `n` judged completions in total, with its 95 % interval.

    `basis` is the basis of the interval: with two models or more a t-interval over `models` (see `clustered`), with two
    seeds of one model or more over `seeds`, both never narrower than the seeds' own; with one seed the evaluation's own
    interval over `completions`; `none` if there is none of these.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    n: int = 0
    basis: Literal["models", "seeds", "completions", "none"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """`held` of `n` cells, with the 95 % interval of their share; `by_model` has (held, n) of each model.

    The interval is that of survival curves (`survival.share_of_runs`): with one model Clopper and Pearson's over its
    cells, with several Gaffke's over the models' shares, which needs no estimate of how alike the runs of a model are.
    Wilson's is narrower and covers some shares of 3 to 10 cells in 83 to 86 of 100 cases only.
    """

    held: int
    n: int
    by_model: tuple[tuple[int, int], ...]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakTime:
    """Restricted mean time to break in attack steps, with its 95 % interval.

    That is a bootstrap percentile interval over seeds, with several models widened to the t-interval over models (see
    `clustered`).

    Times are cut at `budget`, the least step at which a seed was censored (`None` if all broke), so that
    every seed's min(T, budget) is known exactly. `seeds` enter the mean, `censored` of them never broke; with
    any censored the true mean is at least `steps`. `excluded` counts cells without a time, by outcome; they
    are never robust.
    """

    steps: float | None
    low: float | None
    high: float | None
    seeds: int
    censored: int
    budget: int | None
    excluded: Mapping[str, int]


def finite(value: float | None) -> float | None:
    """The value, or `None` for NaN and infinities as well."""
    return value if value is not None and math.isfinite(value) else None


def is_rate(scores: Sequence[Score]) -> bool:
    """Whether a score is in [0, 1], as are each seed's value and interval."""
    return all(
        s.name not in DIFFERENCES and None not in (s.low, s.high) and 0.0 <= (s.low or 0.0) <= (s.high or 0.0) <= 1.0
        for s in scores
    )


def estimate(scores: Iterable[Score | None], models: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of one score over seeds; seeds without a value are excluded. `models` are those of the scores, in order.

    t-interval: mean +- t(0.975, k - 1) * sd / sqrt(k) for k seeds, or over models (see `clustered`), clipped to [0, 1]
    if the score is a rate. It is extended to the means of the ends of the seeds' own intervals, which are over prompts:
    alone it would have no width where all seeds agree, as if nothing were left to chance.
    """
    every = list(scores)
    of = models if models is not None else [None] * len(every)
    pairs = [(s, model) for s, model in zip(every, of, strict=True) if s is not None and finite(s.value) is not None]
    known = [score for score, _ in pairs]
    n = sum(score.n for score in known)
    if len(known) < 2:
        return _single(known[0]) if known else Estimate()
    values = np.array([score.value for score in known], dtype=float)
    clusters = [model for _, model in pairs]
    several = len(set(clusters)) > 1
    mean, half = clustered(values.tolist(), clusters) if several else (float(values.mean()), t_half_width(values))
    low, high = mean - half, mean + half
    if is_rate(known):
        low, high = max(low, 0.0), min(high, 1.0)
    if ends := [(s.low, s.high) for s in known if s.low is not None and s.high is not None]:
        low, high = min(low, fmean(low for low, _ in ends)), max(high, fmean(high for _, high in ends))
    basis: Literal["models", "seeds"] = "models" if several else "seeds"
    return Estimate(value=mean, low=low, high=high, seeds=len(known), n=n, basis=basis)


def share_held(records: Sequence[Record]) -> Share | None:
    """The share of a row's cells that held; `None` where none can: without an attack or a defense, or of a customer."""
    attacked = [record for record in records if control_of(record.cell) is not None and defended(record.cell)]
    if not attacked:
        return None
    groups: dict[str, list[bool]] = {}
    for record in attacked:
        groups.setdefault(model_of(record), []).append(record.outcome is Outcome.HELD)
    share = survival.share_of_runs(list(groups.values()))
    by_model = tuple((sum(group), len(group)) for group in groups.values())
    return Share(
        held=sum(map(sum, groups.values())), n=len(attacked), by_model=by_model, low=share.low, high=share.high
    )


def model_of(record: Record) -> str:
    """A name for the model of a record, another for each of its seeds."""
    return digest(unlabelled(record.cell.model))


def break_time(records: Sequence[Record]) -> BreakTime | None:
    """Time to break over the seeds of one row; `None` without an attack."""
    if all(record.cell.attack is None for record in records):
        return None
    timed = [(r.time_to_break, model_of(r)) for r in records if r.time_to_break is not None and _is_timed(r)]
    limits = [time.steps for time, _ in timed if time.censored]
    budget = min(limits, default=None)
    steps = np.array([t.steps if budget is None else min(t.steps, budget) for t, _ in timed], dtype=float)
    mean, low, high = _mean_time(steps, [model for _, model in timed], all_held=len(limits) == len(timed))
    return BreakTime(
        steps=mean,
        low=low,
        high=high if high is None or budget is None else min(high, float(budget)),
        seeds=len(timed),
        censored=len(limits),
        budget=budget,
        excluded=Counter(str(record.outcome) for record in records if not _is_timed(record)),
    )


def _mean_time(
    steps: np.ndarray, models: Sequence[str], *, all_held: bool
) -> tuple[float | None, float | None, float | None]:
    """The mean of the times with its interval, which needs two times of which one is exact."""
    if not len(steps):
        return None, None, None
    several = len(set(models)) > 1
    mean, half = clustered(steps.tolist(), models) if several else (float(steps.mean()), 0.0)
    if len(steps) < 2 or all_held:
        return mean, None, None
    low, high = bootstrap(steps)
    return mean, max(0.0, min(low, mean - half)) if several else low, max(high, mean + half) if several else high


def _single(score: Score) -> Estimate:
    low, high = finite(score.low), finite(score.high)
    basis: Literal["completions", "none"] = "none" if low is None or high is None else "completions"
    return Estimate(value=score.value, low=low, high=high, seeds=1, n=score.n, basis=basis)


def _is_timed(record: Record) -> bool:
    return record.time_to_break is not None and record.outcome in (Outcome.HELD, Outcome.BROKE)
