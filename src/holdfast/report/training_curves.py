"""Training metrics, reduced to what a chart can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

LIMIT = 150


def thin(rows: Sequence[Mapping[str, Any]], metric: str, limit: int = LIMIT) -> list[tuple[float, float]]:
    """(step, value) pairs of one metric, at most `limit`: means over windows of equally many logged steps.

    Rows without the metric or with a non-finite one are skipped.
    """
    pairs = [(float(row["step"]), float(row[metric])) for row in rows if _is_number(row.get(metric))]
    width = max(1, math.ceil(len(pairs) / limit))
    windows = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [(fmean(step for step, _ in window), fmean(value for _, value in window)) for window in windows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
