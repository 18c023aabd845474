"""Finished run folders -> one HTML page that opens offline, a CSV file and its versions beside it, and figures.

This module joins the parts, which know nothing of one another: `read` (files -> records), `summarise` (records ->
rows over seeds), `cells`, `counts`, `flips`, `spending`, `training`, `samples`, `accounting` and `versions` (what
sentences, tables and lists show), `charts` and `figures` (rows -> charts -> bytes), `page` (everything -> HTML), `text`
(text that others wrote, made safe).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.records import HoldfastError, Record

if TYPE_CHECKING:
    from holdfast.report.charts import Style, Width
    from holdfast.report.read import Finished
    from holdfast.report.summarise import Row
    from holdfast.report.summarise.labels import Label

__all__ = ["write_figures", "write_report"]

_HEADLINE = ("harmfulness", "helpfulness", "refusal_rate")
_CURVES = ("harmfulness", "helpfulness")
_METRICS = ("reward", "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Findings:
    """What the run folders hold, read and summarised once.

    `labels` has one entry per cell; `shown` are the labels of what gets panels and samples, see `flips.drawn`.
    """

    cells: tuple[Finished, ...]
    labels: Sequence[Label]
    rows: Sequence[Row]
    shown: Set[Label]
    looks: dict[str, Style]
    grids: tuple[tuple[str, str], ...]
    unfinished: int

    @property
    def records(self) -> list[Record]:
        return [cell.record for cell in self.cells]


def write_report(runs: Sequence[Path], out: Path, *, title: str = "Holdfast report", samples_per_cell: int = 6) -> Path:
    """Write the page to `out` and the same cells as CSV beside it (`<out stem>.csv`); return `out`.

    What the CSV file rests on (versions, seeds, numbers of cells and answers) stands in `<out stem>.versions.json`.
    `samples_per_cell` prompts of each cell are shown with their completions, hidden until clicked.
    Raises HoldfastError naming a run folder without a record, a damaged file, or a place that cannot be written.
    """
    from holdfast.report import page, text
    from holdfast.report.counts import counts
    from holdfast.report.versions import versions_of

    out = Path(out)
    if out.suffix.lower() == ".csv":
        raise HoldfastError(f"{out}: the table goes there; give the page another ending, such as .html")
    found = _find(runs)
    cells = _cell_rows(found)
    context = {
        **{"title": title, "cells": cells, "samples": _samples(found, samples_per_cell)},
        **{"unfinished": found.unfinished, **counts(found.records, found.rows)},
        **_tables(found),
        **_drawings(found),
    }
    html = page.render(context, text.visible)
    _write(out.with_suffix(".csv"), text.csv_text(cells, list(cells[0])).encode())
    versions = versions_of(found.records, [name for name, _ in found.grids])
    _write(out.with_suffix(".versions.json"), f"{json.dumps(text.clean(versions), indent=1)}\n".encode())
    return _write(out, html.encode())


def write_figures(runs: Sequence[Path], folder: Path, *, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Write the page's charts as files, one per chart and format, and return their paths.

    Raises HoldfastError for a format that is none of png, svg and pdf, and as `write_report` does.
    """
    from holdfast.report import charts, figures, text

    unknown = [form for form in formats if form not in figures.FORMATS]
    if unknown:
        raise HoldfastError(f"no figures in format {unknown[0]!r}; there are {', '.join(figures.FORMATS)}")
    written = []
    for name, panels in _charts(_find(runs), width=340).items():
        spec = text.clean(charts.side_by_side(panels).to_dict())
        for form in formats:
            written.append(_write(Path(folder) / f"{name}.{form}", figures.draw(spec, form)))
    return written


def _find(runs: Sequence[Path]) -> _Findings:
    from holdfast.report.charts import styles
    from holdfast.report.flips import drawn
    from holdfast.report.read import load
    from holdfast.report.summarise import summarise
    from holdfast.report.summarise.labels import labels

    loaded = load(runs)
    records = [cell.record for cell in loaded.cells]
    rows = summarise(records)
    order = [row.label for row in rows]
    labelled = sorted(
        zip(loaded.cells, labels(records), strict=True),
        key=lambda pair: (order.index(pair[1]), pair[0].record.cell.seed),
    )
    return _Findings(
        cells=tuple(cell for cell, _ in labelled),
        labels=[label for _, label in labelled],
        rows=rows,
        shown={row.label for row in drawn(rows)},
        looks=styles([row.label.defense for row in rows if row.time_to_break is not None]),
        grids=loaded.grids,
        unfinished=loaded.unfinished,
    )


def _cell_rows(found: _Findings) -> list[dict[str, Any]]:
    from holdfast.report.cells import cell_row, further_scores
    from holdfast.report.summarise import first_and_last, peak, step_unit
    from holdfast.report.summarise.labels import flip_of

    further = further_scores(found.records)
    return [
        cell_row(
            cell.record,
            label,
            grid=cell.grid,
            unit=step_unit(cell.record),
            flip=flip_of(cell.record.cell),
            ends=first_and_last(cell.record),
            peak=peak(cell.record),
            further=further,
        )
        for cell, label in zip(found.cells, found.labels, strict=True)
    ]


def _samples(found: _Findings, count: int) -> list[dict[str, Any]]:
    from holdfast.report.read import read_completions
    from holdfast.report.samples import pick
    from holdfast.report.summarise import step_unit

    groups = [
        {
            **label._asdict(),
            **{"seed": cell.record.cell.seed, "outcome": str(cell.record.outcome)},
            **{"unit": step_unit(cell.record), "last_step": cell.record.steps},
            "samples": pick(read_completions(cell.folder), count),
        }
        for cell, label in zip(found.cells, found.labels, strict=True)
        if label in found.shown
    ]
    return [group for group in groups if group["samples"]]


def _tables(found: _Findings) -> dict[str, Any]:
    """What the page's tables say."""
    from holdfast.judges import refusal_forms
    from holdfast.report import accounting
    from holdfast.report.flips import flipped
    from holdfast.report.read import read_judges

    scores = dict.fromkeys(name for row in found.rows for name in (*row.before, *row.after))
    return {
        **{"rows": found.rows, "grids": found.grids, **_choices(found)},
        **{"flipped": flipped(found.rows), "strongest_only": len(found.shown) < len(found.rows)},
        "judges": list(dict.fromkeys(name for cell in found.cells for name in read_judges(cell.folder))),
        "configured": list(dict.fromkeys(judge.title for r in found.records for judge in r.cell.judges.values())),
        "refusal_errors": refusal_forms.summary(),
        "others": [name for name in scores if name not in _HEADLINE],
        "costs": accounting.costs(found.records, [label.family for label in found.labels]),
        "stages": accounting.stages(found.records),
        "environment": accounting.environments(found.records),
    }


def _choices(found: _Findings) -> dict[str, Any]:
    """The rows of attacks that choose among N answers, each with its harm by N, and every N that any of them has."""
    chosen = [row for row in found.rows if row.unit != "step"]
    harms = [{point.step: point.estimate for point in row.curves.get("harmfulness", ())} for row in chosen]
    return {
        "choices": list(zip(chosen, harms, strict=True)),
        "numbers": sorted({number for harm in harms for number in harm if number}),
    }


def _drawings(found: _Findings) -> dict[str, Any]:
    """The page's charts: what stands where, their specifications, and the script that draws them."""
    from markupsafe import Markup

    from holdfast.report import charts, figures, page, text, training

    hows = {row.label.flip.how for row in found.rows if row.label.flip}
    specs: dict[str, Markup] = {}
    places: dict[str, list[dict[str, str]]] = {}
    for name, panels in _charts(found, width="container").items():
        for title, chart in panels.items():
            place = f"chart-{len(specs)}"
            about = f"{name.replace('_', ' ')}, {title}; its numbers are in the tables"
            specs[place] = Markup(text.script_json(chart.properties(description=about).to_dict()))
            places.setdefault(name, []).append({"id": place, "title": title})
    return {
        **{"specs": specs, "looks": found.looks, "thin_limit": training.LIMIT},
        "flip_looks": _flip_looks(found),
        "hows": {how: dash for how, dash in charts.HOWS.items() if how in hows},
        **{name: places.get(name, []) for name in (*_CURVES, "best_of_n", "flip_ratio", "time_to_break", "spending")},
        "training": [places[name] for metric in _METRICS if (name := f"training_{metric}") in places],
        **{"library": Markup(figures.script()), "style": page.asset("page.css"), "drawing": page.asset("page.js")},
    }


def _charts(found: _Findings, *, width: Width) -> dict[str, dict[str, Any]]:
    """Every chart by name, then by panel; a chart without data is not there."""
    from holdfast.report import charts, flips, spending
    from holdfast.report.summarise import curve_points, time_points

    shown = [row for row in found.rows if row.label in found.shown]
    trained = [row for row in shown if row.unit == "step"]
    chosen = [row for row in shown if row.unit != "step" and row.last_step > 1]
    drawn: dict[str, dict[str, Any]] = {}
    for score in _CURVES:
        for panel, points in charts.panels(flips.points(found.rows, score), "defense").items():
            chart = charts.flips(points, _flip_looks(found), score=score, width=width)
            drawn.setdefault("flip_ratio", {})[f"{score}, defense: {panel}"] = chart
        for panel, points in charts.panels(curve_points(trained, score)).items():
            chart = charts.curves(points, found.looks, score=score, width=width)
            drawn.setdefault(score, {})[panel] = chart
    for panel, points in charts.panels(curve_points(chosen, "harmfulness")).items():
        chart = charts.curves(points, found.looks, score="harmfulness", width=width, unit="N")
        drawn.setdefault("best_of_n", {})[panel] = chart
    for panel, points in charts.panels(time_points(trained)).items():
        drawn.setdefault("time_to_break", {})[panel] = charts.times(points, found.looks, width=width)
    cells = zip(found.records, found.labels, strict=True)
    spent = spending.comparable(spending.points((record, label) for record, label in cells if label in found.shown))
    for panel, points in charts.panels(spent, "defense").items():
        drawn.setdefault("spending", {})[panel] = charts.spending(points, span=spending.span(spent), width=width)
    for metric in _METRICS:
        for panel, points in charts.panels(_training_points(found, metric)).items():
            chart = charts.training(points, found.looks, metric=metric, width=width)
            drawn.setdefault(f"training_{metric}", {})[panel] = chart
    return drawn


def _flip_looks(found: _Findings) -> dict[str, Style]:
    """A style for each attack that was run at several flip ratios."""
    from holdfast.report.charts import styles
    from holdfast.report.flips import flipped

    return styles([row.label.family for row in flipped(found.rows)])


def _training_points(found: _Findings, metric: str) -> list[dict[str, Any]]:
    from holdfast.report.read import read_curves
    from holdfast.report.training import thin

    return [
        {**label._asdict(), "seed": cell.record.cell.seed, "step": step, "value": value}
        for cell, label in zip(found.cells, found.labels, strict=True)
        if cell.record.cell.attack is not None and label in found.shown
        for step, value in thin(read_curves(cell.folder), metric)
    ]


def _write(path: Path, content: bytes) -> Path:
    """Write a file as a whole or not at all: a reader never sees a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        why = error.strerror or error
        raise HoldfastError(f"{path}: cannot be written ({why}); name another place or free this one") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
