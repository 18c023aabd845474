"""The zero point of returns, and the gain of one curve over another.

A ratio of areas is meaningful only if returns are measured from a zero point of no skill. That is 0 if the random
policy's mean return is not negative, as in the paper, and otherwise the return of the random policy: Reacher has only
penalties, and a learner that halves them would otherwise show a gain of -50 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.control.tasks_and_arms import Quality
from holdfast.evaluation.intervals import bootstrap

SHARES: Mapping[Quality, float] = {"good": 1.0, "medium": 0.5, "poor": 0.25}
"""The share of the best checkpoint's return that each quality has."""

Curve = Sequence[tuple[float, float]]
"""(step, return) pairs in order of increasing step."""


def floor_of(random_return: float) -> float:
    """The zero point of returns: 0, or the random policy's return if that is negative."""
    return min(random_return, 0.0)


def reaches(value: float, best: float, share: float, floor: float) -> bool:
    """Whether a return's height above the floor is at least that share of the best one's."""
    return value - floor >= share * (best - floor)


def height(curve: Curve, start: float, end: float, floor: float = 0.0) -> float:
    """Mean height of a curve above `floor` between two steps: its area, interpolated linearly, divided by its width.
    Before its first point and after its last one a curve is constant.
    """
    steps, values = (np.array(column, dtype=float) for column in zip(*curve, strict=True))
    inner = [step for step in steps if start < step < end]
    at = np.array([start, *inner, end])
    return float(np.trapezoid(np.interp(at, steps, values) - floor, at) / (end - start))


def gain(ours: float, theirs: float) -> float | None:
    """`ours / theirs - 1` of two heights above the floor; `None` if `theirs` is not above it."""
    return ours / theirs - 1 if theirs > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A mean over pairs of runs with the same seed, with its 95 % bootstrap interval over pairs.

    `value` is `None` if a pair is `undefined` (the plain run is not above the floor): omitting such pairs would bias
    the mean.
    """

    value: float | None
    low: float | None
    high: float | None
    pairs: int
    undefined: int


def mean_gain(values: Sequence[float | None]) -> Gain:
    """The mean over pairs; the interval needs at least two."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    undefined = len(values) - len(known)
    if not known or undefined:
        return Gain(value=None, low=None, high=None, pairs=len(values), undefined=undefined)
    low, high = bootstrap(np.array(known)) if len(known) > 1 else (None, None)
    return Gain(value=float(np.mean(known)), low=low, high=high, pairs=len(known), undefined=0)
