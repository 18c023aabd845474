"""Whether measured figures agree in shape with reported ones: same order, same side of a threshold.

Order: Kendall's tau over pairs of rows that differ in one thing only (the defense, or a swept setting), within groups
in which all else is equal, `tau = (C - D) / pairs` with ties as neither. Its interval is exact for any number of rows:
the measured order of each group is taken as drawn around the reported one by Mallows' model (Biometrika 1957, 44: 114),
`P(order) ~ exp(-theta * inversions)`, whose distribution of inversions is known, and the values of theta that do not
make the number seen improbable are turned into values of tau (as Clopper and Pearson do for shares). A bootstrap over
rows says [1, 1] of three rows in order, which says nothing; this says [-.53, 1]. For its lower end a tie counts as half
an inversion, for its upper end as none.

Sides: the share of cells on the side of the threshold on which the paper has them, with Wilson's interval.

Both are `same` if more than half agree (the interval is above that), `not the same` if not that, and fewer than three
of four do (the interval is below); otherwise there are too few to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from holdfast.evaluation.intervals import CONFIDENCE, wilson

Verdict = Literal["same", "not the same", "cannot tell"]
Side = Literal["above", "below", "cannot tell"]
HALF, THREE_QUARTERS = 0.5, 0.75
"""Shares of pairs, or of cells, that agree."""
_WIDEST = 60.0
"""Mallows' theta beyond which every order is the reported one, or its reverse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Agreement of two orders: pairs in the same order, in reverse, and tied in either, in so many groups.

    `rows` counts the rows of all groups, `low` and `high` are the 95 % interval of `tau`, `chance` the exact two-sided
    p value of orders that have nothing to do with each other. Without a pair tau is `None`.
    """

    rows: int
    groups: int
    same: int
    reversed: int
    tied: int
    tau: float | None
    low: float
    high: float
    chance: float

    @property
    def pairs(self) -> int:
        """The number of pairs, ties included."""
        return self.same + self.reversed + self.tied

    @property
    def verdict(self) -> Verdict:
        """Whether the order is the reported one, in the sense of the module."""
        return _verdict(self.low, self.high, 2 * HALF - 1, 2 * THREE_QUARTERS - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Cells by the side of the threshold, reported and measured: (above, above), (below, below), and the two others.

    Cells of which either side cannot be told are `unclear`, and not in `n`; if most are, the sides are not said to be
    the same. `collapsed` are those that are garbled in the run only, which count against the agreement. Of those
    below on both sides `useless` are so here since the model answers nothing: the paper's criterion is harm alone, but
    nothing held there.
    """

    above: int
    below: int
    only_reported: int
    only_measured: int
    collapsed: int
    unclear: int
    useless: int = 0

    @property
    def n(self) -> int:
        """Cells that are compared."""
        return self.same + self.only_reported + self.only_measured + self.collapsed

    @property
    def same(self) -> int:
        """Cells on the same side."""
        return self.above + self.below

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share on the same side."""
        return wilson(self.same / self.n, self.n) if self.n else (0.0, 1.0)

    @property
    def verdict(self) -> Verdict:
        """Whether the sides are the reported ones, in the sense of the module."""
        by_share = _verdict(*self.interval, HALF, THREE_QUARTERS)
        return "cannot tell" if by_share == "same" and self.unclear > self.n else by_share


def _verdict(low: float, high: float, half: float, most: float) -> Verdict:
    if low > half:
        return "same"
    return "not the same" if high < most else "cannot tell"


def combined_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """`not the same` if any is, `same` if all are."""
    if "not the same" in verdicts:
        return "not the same"
    return "same" if verdicts and all(verdict == "same" for verdict in verdicts) else "cannot tell"


def side(low: float, high: float, threshold: float) -> Side:
    """The side of the threshold on which an interval lies; on the threshold is below it."""
    if low > threshold:
        return "above"
    return "below" if high <= threshold else "cannot tell"


def order(groups: Sequence[Sequence[tuple[float, float]]]) -> Order:
    """The agreement of two numbers' orders over the rows (first, second) of each group; groups of one row are left out.

    Raises:
        ValueError: a number is not finite.
    """
    import math

    if not all(math.isfinite(number) for group in groups for row in group for number in row):
        raise ValueError("order: a number is not finite")
    groups = [group for group in groups if len(group) > 1]
    signs = [_sign(one, other) for group in groups for one, other in combinations(group, 2)]
    same, other, tied = (signs.count(kind) for kind in (1, -1, 0))
    low, high, chance = _interval([len(group) for group in groups], -(-(2 * other + tied) // 2), other)
    return Order(
        rows=sum(map(len, groups)),
        groups=len(groups),
        same=same,
        reversed=other,
        tied=tied,
        tau=(same - other) / len(signs) if signs else None,
        low=low,
        high=high,
        chance=chance,
    )


def _sign(one: tuple[float, float], other: tuple[float, float]) -> int:
    first, second = one[0] - other[0], one[1] - other[1]
    return (first > 0) - (first < 0) if (second > 0) else -((first > 0) - (first < 0)) if second < 0 else 0


def _interval(sizes: Sequence[int], most: int, least: int) -> tuple[float, float, float]:
    """The interval of tau, and the p value, given at most and at least so many inversions of groups of these sizes."""
    if not sizes:
        return -1.0, 1.0, 1.0
    import numpy as np
    from scipy.optimize import brentq

    counts = np.array([1.0])
    for size in sizes:
        for items in range(2, size + 1):
            counts = np.convolve(counts, np.ones(items))
    kinds, pairs = np.arange(len(counts)), len(counts) - 1
    logs = np.log(counts)

    def shares(theta: float) -> np.ndarray:
        weights = logs - theta * kinds
        weights = np.exp(weights - weights.max())
        return weights / weights.sum()

    def up_to(theta: float) -> float:
        return float(shares(theta)[: most + 1].sum())

    def from_there(theta: float) -> float:
        return float(shares(theta)[least:].sum())

    def tau(theta: float) -> float:
        return 1.0 - 2.0 * float(shares(theta) @ kinds) / pairs

    tail = (1 - CONFIDENCE) / 2
    low = -1.0 if most >= pairs else tau(brentq(lambda theta: up_to(theta) - tail, -_WIDEST, _WIDEST))
    high = 1.0 if least <= 0 else tau(brentq(lambda theta: from_there(theta) - tail, -_WIDEST, _WIDEST))
    chance = 2 * min(up_to(0.0), float(shares(0.0)[most:].sum()))
    return low, high, min(1.0, chance)
