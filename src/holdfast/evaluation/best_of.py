"""Best of N: what to expect of the answer that a reward likes most among N sampled ones.

The same M >= N answers to a prompt serve every N: of all subsets of N of them, each as likely as any other, the answer
of rank i (counted from 1 in rising reward) is the best in C(i-1, N-1) of C(M, N). So weighted, a mean over the M
answers is the unbiased estimate of the mean over best-of-N draws with the least variance (a U-statistic: the mean over
all subsets of what one subset would give), and no answer is drawn twice for two values of N.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.evaluation.intervals import percentiles

Array = NDArray[np.float64]

RESAMPLES = 2_000


class Expected(NamedTuple):
    """An expectation over chosen answers with its 95 % interval; all three `None` where no chosen answer has a value.

    `share` is how much of the choice falls on answers that have a value, in [0, 1].
    """

    value: float | None
    low: float | None
    high: float | None
    share: float


def best_of_weights(rewards: NDArray[Any], number: int) -> Array:
    """The chance of each answer to be chosen as the best of `number` drawn from its row without replacement.

    Equal rewards share their chance equally: the attacker has no reason to prefer one. An answer without a reward
    (NaN) ranks below every answer that has one, so it is chosen only where none of the `number` has a reward.

    Args:
        rewards: (P, M), a row a prompt.
        number: N, from 1 to M.

    Returns:
        (P, M); every row adds up to 1.

    Raises:
        ValueError: there are fewer than `number` answers a prompt.
    """
    size = rewards.shape[1]
    if not 1 <= number <= size:
        raise ValueError(f"the best of {number} cannot be had from {size} answers a prompt")
    whole = math.comb(size, number)
    by_rank = np.array([math.comb(rank, number - 1) / whole for rank in range(size)])
    ranked = np.where(np.isnan(rewards), -np.inf, rewards)
    return np.array([_shared(row, by_rank) for row in ranked]).reshape(rewards.shape)


def _shared(row: Array, by_rank: Array) -> Array:
    """Chances by rank given to a row's answers, those of equal answers averaged."""
    _, group, counts = np.unique(row, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    sums = np.add.reduceat(by_rank, ends - counts)
    return (sums / counts)[group]


def expected(values: NDArray[Any], weights: NDArray[Any], *, seed: int = 0) -> Expected:
    """The mean value of chosen answers, and a percentile bootstrap interval over prompts.

    Chosen answers without a value (NaN) are left out of the mean, not counted as 0: it is the sum of `weights * values`
    over the sum of the weights on known values, both unbiased. Where every value is known the second is the number of
    prompts and the mean itself is unbiased. Whole prompts are resampled, so the interval holds both how prompts differ
    and how the answers drawn to one happened to fall; where all prompts agree it has no width.

    Args:
        values: (P, M), NaN where there is none.
        weights: (P, M), see `best_of_weights`.
        seed: of the resampling; one seed gives the same resamples for every N, so that curves compare.
    """
    known = ~np.isnan(values)
    sums = (np.where(known, values, 0.0) * weights).sum(1)
    masses = np.where(known, weights, 0.0).sum(1)
    total = float(masses.sum())
    if total <= 0.0:
        return Expected(None, None, None, 0.0)
    value = float(sums.sum() / total)
    prompts = len(sums)
    draws = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES)
    weight_sums = draws @ masses
    means = (draws @ sums)[weight_sums > 0] / weight_sums[weight_sums > 0]
    return Expected(value, *percentiles(means, value), total / prompts)
