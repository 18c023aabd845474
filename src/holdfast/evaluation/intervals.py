"""95 % intervals: of shares, of means over few values, and by bootstrap. Import needs the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
"""Number of resamples for a bootstrap of plain means; costlier statistics use fewer."""
NORMAL = 1.96
"""Half-width of a normal interval in standard errors."""


def wilson(mean: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval for a mean of `n` values in [0, 1] (Wilson 1927).

    Meant for shares; for values between 0 and 1 it is conservative, since their variance is at most that of a Bernoulli
    variable with the same mean.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    scale = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / scale
    half = z / scale * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def normal_half_width(values: Sequence[float]) -> float:
    """Half-width of a normal interval of the mean; 0 for a single value, which has no variance estimate."""
    return NORMAL * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def t_half_width(values: np.ndarray) -> float:
    """Half-width of Student's interval of the mean of `values` (n,), n at least 2."""
    from scipy.special import stdtrit

    quantile = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))


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
