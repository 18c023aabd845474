"""Intervals of shares. Standard library only."""

from __future__ import annotations

from statistics import NormalDist


def wilson(mean: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a mean of `n` values in [0, 1] (Wilson 1927).

    Exact in shape for shares; for values between 0 and 1 it is too wide rather than too narrow, since none of them
    varies more than a coin of the same mean.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    scale = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / scale
    half = z / scale * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))
