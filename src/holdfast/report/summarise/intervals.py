"""Means over seeds, and their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from holdfast.evaluation.intervals import bootstrap, t_half_width
from holdfast.records import Outcome, Record, Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over `seeds` cells with `n` judged completions in total, with its 95 % interval.

    `basis` is the basis of the interval: with two seeds or more a t-interval over `seeds`, with one seed
    the evaluation's own interval over `completions`; `none` if there is neither.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    n: int = 0
    basis: Literal["seeds", "completions", "none"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakTime:
    """Restricted mean time to break in attack steps, with a 95 % bootstrap percentile interval over seeds.

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


def is_rate(scores: Iterable[Score]) -> bool:
    """Whether a score is in [0, 1], as are each seed's value and interval."""
    return all(None not in (s.low, s.high) and 0.0 <= (s.low or 0.0) <= (s.high or 0.0) <= 1.0 for s in scores)


def estimate(scores: Iterable[Score | None]) -> Estimate:
    """Mean of one score over seeds; seeds without a value are excluded.

    t-interval: mean +- t(0.975, k - 1) * sd / sqrt(k) for k seeds, clipped to [0, 1] if the score is a rate.
    """
    known = [score for score in scores if score is not None and finite(score.value) is not None]
    n = sum(score.n for score in known)
    if len(known) < 2:
        return _single(known[0]) if known else Estimate()
    values = np.array([score.value for score in known], dtype=float)
    mean, half = float(values.mean()), t_half_width(values)
    low, high = mean - half, mean + half
    if is_rate(known):
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(value=mean, low=low, high=high, seeds=len(known), n=n, basis="seeds")


def break_time(records: Sequence[Record]) -> BreakTime | None:
    """Time to break over the seeds of one row; `None` without an attack."""
    if all(record.cell.attack is None for record in records):
        return None
    times = [r.time_to_break for r in records if r.time_to_break is not None and _is_timed(r)]
    limits = [time.steps for time in times if time.censored]
    budget = min(limits, default=None)
    steps = np.array([t.steps if budget is None else min(t.steps, budget) for t in times], dtype=float)
    low, high = bootstrap(steps) if len(times) > 1 and len(limits) < len(times) else (None, None)
    return BreakTime(
        steps=float(steps.mean()) if times else None,
        low=low,
        high=high,
        seeds=len(times),
        censored=len(limits),
        budget=budget,
        excluded=Counter(str(record.outcome) for record in records if not _is_timed(record)),
    )


def _single(score: Score) -> Estimate:
    low, high = finite(score.low), finite(score.high)
    basis: Literal["completions", "none"] = "none" if low is None or high is None else "completions"
    return Estimate(value=score.value, low=low, high=high, seeds=1, n=score.n, basis=basis)


def _is_timed(record: Record) -> bool:
    return record.time_to_break is not None and record.outcome in (Outcome.HELD, Outcome.BROKE)
