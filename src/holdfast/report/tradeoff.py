"""Harm against help: what each row ends with, as points for a chart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from holdfast.report.summarise import ReportRow


def points(rows: Iterable[ReportRow]) -> list[dict[str, Any]]:
    """A point for each attacked row that has both: `harm` is its peak, `help` that at the end, with their intervals."""
    return [
        {
            **{name: getattr(row.label, name) for name in ("model", "attack", "defense")},
            "threshold": row.threshold,
            **_ends("harm", row.peak_harmfulness),
            **_ends("help", row.after["helpfulness"]),
            "runs": row.runs,
            "outcomes": ", ".join(f"{count} {outcome}" for outcome, count in row.outcomes.items()),
        }
        for row in rows
        if row.time_to_break is not None
        and row.peak_harmfulness.value is not None
        and "helpfulness" in row.after
        and row.after["helpfulness"].value is not None
    ]


def _ends(name: str, estimate: Any) -> dict[str, float | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
