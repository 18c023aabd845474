"""Best of N: the expected value of the answer with the highest reward among N sampled ones.

The same M >= N answers to a prompt serve every N: of all C(M, N) equally likely subsets, the answer of rank i (counted
from 1 in increasing reward) is the best in C(i-1, N-1). With these weights, a mean over the M answers is the
minimum-variance unbiased estimate of the mean over best-of-N samples (a U-statistic: the mean over all subsets), and
all values of N share the same samples.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.evaluation.intervals import percentiles

Array = NDArray[np.float64]

RESAMPLES = 2_000


class Expected(NamedTuple):
    """An expectation over chosen answers with its 95 % interval; all three are `None` if no chosen answer has a value.

    `share` is the probability that the chosen answer has a value, in [0, 1].
    """

    value: float | None
    low: float | None
    high: float | None
    share: float


def best_of_weights(rewards: NDArray[Any], number: int) -> Array:
    """The probability of each answer to be the best of `number` sampled from its row without replacement.

    Answers with equal rewards share their probability equally: the attacker has no reason to prefer one. An answer
    without a reward (NaN) ranks below every answer that has one, so it is chosen only if none of the `number` has a
    reward.

    Args:
        rewards: (P, M), one row per prompt.
        number: N, from 1 to M.

    Returns:
        (P, M); every row adds up to 1.

    Raises:
        ValueError: `number` is below 1, or there are fewer answers per prompt.
    """
    size = rewards.shape[1]
    if not 1 <= number <= size:
        raise ValueError(f"the best of {number} needs at least so many answers per prompt, and there are {size}")
    subsets = math.comb(size, number)
    by_rank = np.array([math.comb(rank, number - 1) / subsets for rank in range(size)])
    ranked = np.where(np.isnan(rewards), -np.inf, rewards)
    return np.array([_shared(row, by_rank) for row in ranked]).reshape(rewards.shape)


def _shared(row: Array, by_rank: Array) -> Array:
    """Assign probabilities by rank to a row's answers, averaged over equal answers."""
    _, group, counts = np.unique(row, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    sums = np.add.reduceat(by_rank, ends - counts)
    return (sums / counts)[group]


def expected(values: NDArray[Any], weights: NDArray[Any], *, seed: int = 0) -> Expected:
    """The mean value of chosen answers, and a percentile bootstrap interval over prompts.

    Chosen answers without a value (NaN) are excluded from the mean, not counted as 0: it is the sum of `weights *
    values` over the sum of the weights on known values, both unbiased. If every value is known the latter is the number
    of prompts and the mean itself is unbiased. Whole prompts are resampled, so the interval covers the variation
    between prompts and that of the answers to one prompt; if all prompts agree it has no width.

    Args:
        values: (P, M), NaN where there is none.
        weights: (P, M), see `best_of_weights`.
        seed: seed of the resampling; it gives the same resamples for every N, so that curves are comparable.
    """
    known = ~np.isnan(values)
    sums = (np.where(known, values, 0.0) * weights).sum(1)
    masses = np.where(known, weights, 0.0).sum(1)
    total = float(masses.sum())
    if total <= 0.0:
        return Expected(None, None, None, 0.0)
    value = float(sums.sum() / total)
    prompts = len(sums)
    draws = _resamples(prompts, seed)
    weight_sums = draws @ masses
    means = (draws @ sums)[weight_sums > 0] / weight_sums[weight_sums > 0]
    return Expected(value, *percentiles(means, value), total / prompts)


@lru_cache(maxsize=2)  # 16 kB a prompt each
def _resamples(prompts: int, seed: int) -> NDArray[np.int64]:
    """How often each prompt is in each resample, (RESAMPLES, P); not to be changed."""
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES)
