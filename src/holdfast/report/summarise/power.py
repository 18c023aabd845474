"""How many pairs of runs it takes until a defense that holds twice as long is called better."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from holdfast.evaluation.survival import Runs
from holdfast.report.summarise.comparisons import LEVEL

DELAY, POWER, MOST = 2.0, 0.8, 200


def pairs_for_delay(
    models: Sequence[Runs],
    horizon: float,
    *,
    comparisons: int = 1,
    delay: float = DELAY,
    power: float = POWER,
) -> int | None:
    """The least number of pairs with which the sign test finds so great a delay with this power, at most 200.

    `models` are the runs of the undefended model, one group each. The defense is taken to multiply these times; a pair
    has two different runs of one model, one of them delayed, both observed up to the horizon. Runs of the same seed are
    more alike, so fewer pairs may do. The test's level is divided by the number of `comparisons`, the most that Holm's
    correction asks. That several models agree is asked besides and is not in it, nor are pairs without an order. `None`
    if no such number is enough: above all if the undefended model breaks at once, or hardly ever.
    """
    wins, losses = _chances(models, horizon, delay)
    allowed = _allowed_losses(LEVEL / comparisons)
    return next((n for n in range(1, MOST + 1) if power_of(n, wins, losses, allowed) >= power), None)


def power_of(n: int, wins: float, losses: float, allowed: np.ndarray) -> float:
    """How often n pairs, won and lost with these chances, are called better; `allowed` (at least n + 1,) are losses."""
    from scipy.special import bdtr, gammaln, xlogy

    if wins <= losses:
        return 0.0
    decided = np.arange(n + 1)
    some = wins + losses
    logs = gammaln(n + 1) - gammaln(decided + 1) - gammaln(n - decided + 1)
    weights = np.exp(logs + xlogy(decided, some) + xlogy(n - decided, max(0.0, 1 - some)))
    limits = allowed[: n + 1]
    chances = np.where(limits < 0, 0.0, bdtr(np.maximum(limits, 0), np.maximum(decided, 1), losses / some))
    return float(weights @ chances)


@cache
def _allowed_losses(level: float) -> np.ndarray:
    """For each number of decided pairs from 0 to `MOST` the most losses with which the sign test is at the level."""
    from scipy.special import bdtr

    return np.array(
        [max((k for k in range(n // 2 + 1) if 2 * bdtr(k, n, 0.5) <= level), default=-1) for n in range(MOST + 1)]
    )


def _chances(models: Sequence[Runs], horizon: float, delay: float) -> tuple[float, float]:
    """How often a delayed run lasts longer than another of its model, and how often shorter."""
    wins, losses = [], []
    for runs in models:
        one, other = np.where(runs.broke, runs.times, np.inf), np.where(runs.broke, delay * runs.times, np.inf)
        other[other > horizon] = np.inf
        different = ~np.eye(len(one), dtype=bool) if len(one) > 1 else np.ones((1, 1), dtype=bool)
        wins.append(np.mean((other[None, :] > one[:, None])[different]))
        losses.append(np.mean((other[None, :] < one[:, None])[different]))
    return float(np.mean(wins)), float(np.mean(losses))
