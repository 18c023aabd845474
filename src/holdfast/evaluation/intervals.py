"""95 % intervals: of shares, of means over few values, and by bootstrap. Import needs the standard library only."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist, fmean, pstdev, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
"""Number of resamples for a bootstrap of plain means; costlier statistics use fewer."""
_WEIGHTS = 2_000
NORMAL = 1.96
"""Half-width of a normal interval in standard errors, rounded; `normal_quantile` has all digits."""


def normal_quantile(confidence: float = CONFIDENCE) -> float:
    """Half-width of a normal interval in standard errors."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(mean: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval for a mean of `n` values in [0, 1] (Wilson 1927).

    Meant for shares; for values between 0 and 1 it is conservative, since their variance is at most that of a Bernoulli
    variable with the same mean.
    """
    z = normal_quantile(confidence)
    scale = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / scale
    half = z / scale * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def normal_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """A normal interval of the mean of `values` (n,); none for a single value, which has no variance estimate."""
    if len(values) < 2:
        return None, None
    mean, half = fmean(values), NORMAL * stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def t_half_width(values: np.ndarray, confidence: float = CONFIDENCE) -> float:
    """Half-width of Student's interval of the mean of `values` (n,), n at least 2."""
    from scipy.special import stdtrit

    quantile = stdtrit(len(values) - 1, (1 + confidence) / 2)
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """The mean of clusters' means, and the half-width of its interval, for values (n,) of at least two clusters.

    Runs of one model are not independent of each other, so that the sample is that of models: Student's t over the
    clusters' means, with one degree of freedom less than there are (Ibragimov and Müller 2010: valid for few clusters
    whose variances differ; a bootstrap over few clusters is too narrow, Cameron, Gelbach and Miller 2008). Means that
    agree by chance would make that too narrow, so it is never narrower than Student's over all values.
    """
    import numpy as np

    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    means = np.array([fmean(group) for group in groups.values()])
    return float(means.mean()), max(t_half_width(means), t_half_width(np.array(values, dtype=float)))


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (n,), deterministic.

    The resamples are those of `scipy.stats.bootstrap` with the same generator, whose import is slow.
    """
    import numpy as np

    draws = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws.mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def percentiles(estimates: Sequence[float] | np.ndarray, value: float) -> tuple[float, float]:
    """The percentile interval of resampled estimates of `value`, without NaN; widened to include the value itself."""
    import numpy as np

    low, high = np.nanpercentile(np.asarray(estimates), [2.5, 97.5])
    return min(value, float(low)), max(value, float(high))


def clopper_pearson(mean: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact binomial interval of a share of `n` (Clopper and Pearson 1934): never narrower than its confidence.

    For a mean of `n` values between 0 and 1 it is that of as many whole hits: the variance of such values is at most
    that of hits with the same mean.
    """
    from scipy.special import betaincinv

    hits, tail = mean * n, (1 - confidence) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return min(mean, low), max(mean, high)


def bounded_mean(values: Sequence[float]) -> tuple[float, float]:
    """An interval of the mean of `values` (n,) in [0, 1] that is never of no width, however alike they are.

    Gaffke's bound (2005, Mathematical Methods of Statistics 14: 451-467): quantiles of means with weights uniform over
    all that sum to 1, a share of which is of what was not seen, 0 below and 1 above. Of zeros and ones it is Clopper
    and Pearson's.
    """
    import numpy as np

    weights = np.random.default_rng(0).dirichlet(np.ones(len(values) + 1), size=_WEIGHTS)
    lows = weights[:, 1:] @ np.asarray(values, dtype=float)
    tail = 100 * (1 - CONFIDENCE) / 2
    mean = fmean(values)
    return min(mean, float(np.percentile(lows, tail))), max(
        mean, float(np.percentile(lows + weights[:, 0], 100 - tail))
    )


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """The mean difference of paired values in [0, 1], `first` less `second`, with its interval, in [-1, 1].

    Of yes-or-no values it is Newcombe's square-and-add interval (Newcombe 1998, Stat Med 17:2635, method 10): Wilson's
    intervals of both means, combined by the pairs' correlation. Values in between enter by the same formula. It keeps a
    width where all pairs agree, as Student's over the differences does not.
    """
    n = len(first)
    (one, other), correlation = (fmean(first), fmean(second)), _corrected_correlation(first, second)
    (low, high), (other_low, other_high) = wilson(one, n), wilson(other, n)
    down, up = (one - low, other_high - other), (high - one, other - other_low)
    half = [max(0.0, a * a + b * b - 2 * correlation * a * b) ** 0.5 for a, b in (down, up)]
    difference = one - other
    return difference, max(-1.0, difference - half[0]), min(1.0, difference + half[1])


def _corrected_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of pairs, a positive one with Newcombe's correction for continuity; 0 if a side is equal
    throughout."""
    scale = pstdev(first) * pstdev(second)
    if scale == 0:
        return 0.0
    shared = fmean(a * b for a, b in zip(first, second, strict=True)) - fmean(first) * fmean(second)
    return max(shared - 0.5 / len(first), 0.0) / scale if shared > 0 else max(shared / scale, -1.0)
