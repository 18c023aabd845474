"""What the page shows, as plain files next to it: the heatmap, the points of all charts, and the rest as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import __version__, files

if TYPE_CHECKING:
    from holdfast.report.drawings import ChartsByPanel

_SUMMARY = (
    *("words", "gate", "failures", "customers", "panel", "defense_pairs", "longer_pairs", "agreements", "costs"),
    "cheapest_breaks",
)


def write(out: Path, charts: ChartsByPanel, context: Mapping[str, Any]) -> None:
    """Write them next to the page `out`; `charts` are its charts, its `context` has the rest."""
    from holdfast.report.heatmap import COLUMNS, heatmap_rows
    from holdfast.report.text import clean, csv_text

    heat = heatmap_rows(context["grids_of_tiles"])
    files.write(out.with_suffix(".heatmap.csv"), csv_text(heat, COLUMNS).encode())
    points = chart_rows(charts)
    columns = list(dict.fromkeys(("chart", "panel", *(name for point in points for name in point))))
    together = [dict.fromkeys(columns) | point for point in points]
    files.write(out.with_suffix(".charts.csv"), csv_text(together, columns).encode())
    summary = {"written_by": f"holdfast {__version__}", **{name: plain(context[name]) for name in _SUMMARY}}
    files.write(out.with_suffix(".summary.json"), f"{json.dumps(clean(summary), indent=1, allow_nan=False)}\n".encode())


def chart_rows(charts: ChartsByPanel) -> list[dict[str, Any]]:
    """The points of every chart, each with the chart and the panel that it is in."""
    return [
        {"chart": name, "panel": title, **point}
        for name, panels in charts.items()
        for title, (_, rows) in panels.items()
        for point in rows.get("points", ())
    ]


def plain(value: Any) -> Any:
    """A value of the page as JSON: of a row of results its names only, since it is in a CSV file."""
    if hasattr(value, "label") and hasattr(value, "curves"):
        return plain(value.label)
    parts = _parts(value)
    if parts is not None:
        return {str(name): plain(item) for name, item in parts.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The named parts of a value that has such."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "_asdict"):
        named: Mapping[Any, Any] = value._asdict()
        return named
    return value if isinstance(value, Mapping) else None
