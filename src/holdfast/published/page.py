"""The files of a comparison: a page that opens offline, its rows as CSV, and the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from holdfast.files import require_place
from holdfast.files import write as write_file
from holdfast.published import words
from holdfast.published.comparing import Comparison
from holdfast.published.drawing import picture
from holdfast.published.standing import HARM, Pair
from holdfast.records import HoldfastError
from holdfast.report.figures import draw
from holdfast.report.page import asset, render
from holdfast.report.text import csv_text, visible

_BEGINS = b"table,standing,attack,"


def write(comparison: Comparison, out: Path) -> list[Path]:
    """Write the page to `out`, and next to it its rows (`.csv`) and the picture (`.svg`, `.png`); return the paths.

    Raises:
        HoldfastError: a place cannot be written, or holds a table that is not such a page's.
    """
    if out.suffix.lower() in (".csv", ".svg", ".png"):
        raise HoldfastError(f"{out}: the page's table and picture go there; give it another ending, such as .html")
    sheet = out.with_suffix(".csv")
    for place in (out, sheet):
        require_place(place)
    if sheet.exists() and not sheet.read_bytes().startswith(_BEGINS):
        raise HoldfastError(f"{sheet}: would be overwritten, and is not a comparison's; give the page another name")
    spec = picture(comparison)
    svg = draw(spec, "svg").decode() if spec is not None else ""
    rows = words.rows(comparison)
    written = [write_file(sheet, csv_text(rows, list(rows[0])).encode())]
    if spec is not None:
        for form in ("svg", "png"):
            require_place(out.with_suffix(f".{form}"))
            written.append(write_file(out.with_suffix(f".{form}"), draw(spec, form)))
    return [*written, write_file(out, page(comparison, svg).encode())]


def page(comparison: Comparison, svg: str) -> str:
    """The page with the picture as inline SVG; every text of the runs is escaped."""
    metrics = list(dict.fromkeys((*(m for m in (HARM,) if m in comparison.table.metrics), *comparison.table.metrics)))
    context = {
        "title": f"Reported and measured: {comparison.table.name}",
        "style": asset("page.css"),
        "table": comparison.table,
        "beside": comparison.beside,
        "headline": words.headline(comparison),
        "remarks": list(words.remarks(comparison)),
        "sentences": words.sentences(comparison),
        "reversals": [words.of_reversal(each) for shape in comparison.shapes for each in shape.reversals],
        "misses": [_line(pair, metrics) for pair in comparison.misses],
        "every": [_line(pair, metrics) for pair in comparison.pairs],
        "metrics": [words.name(metric) for metric in metrics],
        "swept": any(pair.row.settings for pair in comparison.pairs),
        "picture": Markup(svg),
    }
    return render(context, show=visible, package="holdfast.published")


def _line(pair: Pair, metrics: list[str]) -> Mapping[str, Any]:
    own = pair.measured.estimates.get(metrics[0]) if pair.measured is not None else None
    return {
        "standing": pair.standing,
        "attack": pair.row.attack,
        "dataset": pair.row.dataset or "",
        "defense": pair.row.defense,
        "setting": words.swept(pair.row),
        "numbers": [(words.reported(pair, metric), words.measured(pair, metric)) for metric in metrics],
        "reported_n": pair.row.n if pair.row.n is not None else "not stated",
        "n": own.n if own is not None else 0,
        "runs": pair.measured.runs if pair.measured is not None else 0,
        "ended": pair.ended,
        "why": pair.why,
        "ambiguous": pair.row.ambiguous,
    }
