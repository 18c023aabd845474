"""Write a report of finished runs: one HTML page that opens offline, a CSV file with its versions, and figures.

This module combines the others, which are independent of each other: `read` (files -> records), `summarise` (records ->
rows over seeds), `first_screen` with `plain_words` and `heatmap` (what a reader sees first), `cells`, `summary_table`,
`counts`, `constraints`, `flips`, `metric_tables`, `customers`, `panel`, `failures`, `spending`, `training_curves`,
`samples`, `accounting`, `judge_costs` and `versions` (what sentences, tables and lists show), `cell_pages` with
`answers` and `curve_drawings` (a page for each cell), `charts`, `drawings` and `figures` (rows -> charts -> what the
page draws, and bytes), `files_beside` (the same as CSV and JSON), `page` (everything -> HTML), `text` (untrusted text,
escaped).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import files
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.report.contents import ReportContents
    from holdfast.report.prices import Prices
    from holdfast.report.summarise import ReportRow
    from holdfast.report.summarise.intervals import Estimate
    from holdfast.report.utility import Utility

__all__ = ["is_of", "tables", "write_figures", "write_report"]

_OWN_FILE_STARTS = {
    ".csv": b"key,grid,model,defense,attack,",
    ".rows.csv": b"model,defense,threat_model,attack,runs,",
    ".costs.csv": b"model,defense,threat_model,attack,threshold,",
    ".utility.csv": b"model,defense,attack,seed,tool,",
    ".versions.json": b'{\n "written_by": "holdfast ',
    ".heatmap.csv": b"model,defense,threat_model,attack,showed,",
    ".charts.csv": b"chart,panel",
    ".summary.json": b'{\n "written_by": "holdfast ',
}
"""The beginnings of the files next to the page, in all versions."""
_HEADLINE = ("harmfulness", "helpfulness", "refusal_rate")


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "Holdfast report",
    samples_per_cell: int = 6,
    prices: Path | None = None,
    cell_pages: bool = True,
    utility: Sequence[str] = (),
    gate: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page to `out` and the same cells as CSV next to it (`<out stem>.csv`); return `out`.

    Each cell has a page of its own in the folder `<out stem>_cells`, which the page links (`report.cell_pages`), unless
    `cell_pages` is false.

    `<out stem>.rows.csv` has the rows of its table: all runs of a defense under an attack together, with intervals and
    verdicts; `<out stem>.costs.csv` what it costs to break each at three thresholds, by the price list in the file
    `prices`, else the packaged one (`holdfast.report.prices`). The sources of the CSV files (versions, seeds, numbers
    of cells and answers) are in `<out stem>.versions.json`. `samples_per_cell` prompts of each cell are shown with
    their completions, hidden until clicked. `utility` are files of other tools with what they measured, as
    `lm_eval:results.json=LABEL` (`holdfast.report.utility`): they get columns in the table of cells, a table on the
    page and `<out stem>.utility.csv`. `gate` is the answer of a gate on these runs as JSON values
    (`holdfast.gate.answer.as_json`), which the page then begins with. What the page shows besides is in
    `<out stem>.heatmap.csv`, `<out stem>.charts.csv` and `<out stem>.summary.json`. Raises HoldfastError naming a run
    folder without a record, a damaged file, an unknown label, or a place that cannot be written.
    """
    from holdfast.report import drawings, files_beside, first_screen, page, text
    from holdfast.report.cell_pages import require_folder, write_cell_pages
    from holdfast.report.counts import counts
    from holdfast.report.prices import load_prices
    from holdfast.report.read import content_of
    from holdfast.report.utility import utilities, with_utility

    out = Path(out)
    _require_places(out)
    if cell_pages:
        require_folder(out)
    contents = _read_runs(runs, load_prices(prices))
    elsewhere = utilities(utility, contents.records, contents.labels)
    cells = with_utility(_cell_rows(contents), elsewhere)
    pages = write_cell_pages(contents, cells, out, title=title) if cell_pages else {}
    charts = drawings.charts_of(contents, width="container")
    context = {
        "title": title,
        "content": content_of(runs, title, contents.prices),
        "elsewhere": elsewhere,
        "cells": cells,
        "cell_pages": pages,
        "samples": _samples(contents, samples_per_cell),
        "unfinished": contents.unfinished,
        "trouble": contents.trouble,
        "doubtful": contents.doubtful,
        **counts(contents.records, contents.rows),
        **_tables(contents),
        **first_screen.on_the_page(contents, gate),
        **drawings.on_the_page(contents, charts),
        "controls": page.asset("controls.css"),
        "tables": page.asset("table.js"),
    }
    html = page.render(context, text.visible)
    for suffix, table in _table_files(contents, cells).items():
        files.write(out.with_suffix(suffix), table.encode())
    _write_utility(out, elsewhere)
    files_beside.write(out, charts, context)
    return files.write(out, html.encode())


def _write_utility(out: Path, elsewhere: Sequence[Utility]) -> None:
    """The table of what other tools measured; a former one is removed if nothing is given now."""
    from holdfast.report import text
    from holdfast.report.utility import COLUMNS, utility_rows

    place = out.with_suffix(".utility.csv")
    if elsewhere:
        files.write(place, text.csv_text(utility_rows(elsewhere), COLUMNS).encode())
    else:
        place.unlink(missing_ok=True)


def tables(runs: Sequence[Path]) -> dict[str, str]:
    """The texts of the files beside the page by their endings, with the packaged prices; see `write_report`.

    Raises:
        HoldfastError: a run folder has no record, or a file is damaged.
    """
    from holdfast.report.prices import load_prices

    contents = _read_runs(runs, load_prices())
    return _table_files(contents, _cell_rows(contents))


def _table_files(contents: ReportContents, cells: Sequence[dict[str, Any]]) -> dict[str, str]:
    from holdfast.report import text
    from holdfast.report.summarise.costs import COLUMNS, cost_rows
    from holdfast.report.summary_table import summary_rows
    from holdfast.report.versions import versions_of

    together = summary_rows(contents.rows, contents.survivals)
    versions = versions_of(contents.records, [name for name, _ in contents.grids])
    return {
        ".csv": text.csv_text(cells, list(cells[0])),
        ".rows.csv": text.csv_text(together, list(together[0])),
        ".costs.csv": text.csv_text(cost_rows(contents.costs), COLUMNS),
        ".versions.json": f"{json.dumps(text.clean(versions), indent=1)}\n",
    }


def is_of(runs: Sequence[Path], out: Path, *, title: str = "Holdfast report") -> bool:
    """Whether the page at `out` was written by this version and packaged prices, under this title, from the records."""
    from holdfast.report.cell_pages import folder_of
    from holdfast.report.prices import load_prices
    from holdfast.report.read import content_of

    out = Path(out)
    always = [suffix for suffix in _OWN_FILE_STARTS if suffix != ".utility.csv"]
    if not all(place.exists() for place in (out, folder_of(out), *map(out.with_suffix, always))):
        return False
    with out.open("rb") as stream:
        return content_of(runs, title, load_prices()).encode() in stream.read(2000)


def write_figures(runs: Sequence[Path], folder: Path, *, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Write the page's charts as files, one per chart and format, and return their paths.

    Raises HoldfastError for a format other than png, svg and pdf, and as `write_report` does.
    """
    from holdfast.report import drawings, figures, parts, text
    from holdfast.report.prices import load_prices

    unknown = [form for form in formats if form not in figures.FORMATS]
    if unknown:
        raise HoldfastError(f"no figures in format {unknown[0]!r}; there are {', '.join(figures.FORMATS)}")
    written = []
    for name, panels in drawings.charts_of(_read_runs(runs, load_prices()), width=340).items():
        spec = text.clean(parts.side_by_side(panels))
        for form in formats:
            place = Path(folder) / f"{name}.{form}"
            files.require_place(place)
            written.append(files.write(place, figures.draw(spec, form)))
    return written


def _require_places(out: Path) -> None:
    """Refuse to write where there is a link or something else than a file, or over files that are not a report's."""
    files.require_place(out)
    if out.suffix.lower() == ".csv":
        raise HoldfastError(f"{out}: the table goes there; give the page another ending, such as .html")
    for suffix, begins in _OWN_FILE_STARTS.items():
        place = out.with_suffix(suffix)
        files.require_place(place)
        if place.exists():
            with place.open("rb") as stream:
                there = stream.read(len(begins))
            if there not in (b"", begins):
                raise HoldfastError(
                    f"{place}: the report would overwrite this file, which is not a report's; "
                    "give the page another name or move it"
                )


def _read_runs(runs: Sequence[Path], prices: Prices) -> ReportContents:
    from holdfast.report.charts import styles_of
    from holdfast.report.contents import ReportContents
    from holdfast.report.flips import plotted
    from holdfast.report.read import load
    from holdfast.report.summarise import place_of, summarise
    from holdfast.report.summarise.costs import costs_to_break
    from holdfast.report.summarise.labels import labels
    from holdfast.report.summarise.survival import survivals

    loaded = load(runs)
    records = [cell.record for cell in loaded.cells]
    rows, named = summarise(records), labels(records)
    order = [row.label for row in rows]
    labelled = sorted(
        zip(loaded.cells, named, strict=True),
        key=lambda pair: (order.index(pair[1]), place_of(pair[0].record)),
    )
    lasting = survivals(records, named, rows)
    return ReportContents(
        cells=tuple(cell for cell, _ in labelled),
        labels=[label for _, label in labelled],
        rows=rows,
        survivals=lasting,
        costs=costs_to_break(records, named, lasting, prices),
        prices=prices,
        shown={row.label for row in plotted(rows)},
        styles=styles_of([row.label.defense for row in rows if row.time_to_break is not None]),
        grids=loaded.grids,
        trouble=loaded.trouble,
        doubtful=loaded.doubtful,
        unfinished=loaded.unfinished,
    )


def _cell_rows(contents: ReportContents) -> list[dict[str, Any]]:
    from holdfast.report.cells import cell_row, further_scores
    from holdfast.report.summarise import first_and_last, peak, step_unit
    from holdfast.report.summarise.labels import flip_of

    further = further_scores(contents.records)
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
        for cell, label in zip(contents.cells, contents.labels, strict=True)
    ]


def _samples(contents: ReportContents, per_cell: int) -> list[dict[str, Any]]:
    from holdfast.report.read import or_none, read_completions
    from holdfast.report.samples import pick, room
    from holdfast.report.summarise import step_unit

    count, longest = room(sum(1 for label in contents.labels if label in contents.shown), per_cell)
    groups = [
        {
            **label._asdict(),
            "model_seed": cell.record.cell.model_seed,
            "seed": cell.record.cell.seed,
            "outcome": str(cell.record.outcome),
            "unit": step_unit(cell.record),
            "last_step": cell.record.steps,
            "samples": pick(or_none(read_completions, cell.folder, contents.trouble) or [], count, longest=longest),
        }
        for cell, label in zip(contents.cells, contents.labels, strict=True)
        if label in contents.shown
    ]
    return [group for group in groups if group["samples"]]


def _tables(contents: ReportContents) -> dict[str, Any]:
    """The contents of the page's tables."""
    from holdfast.evaluation import refusal_forms
    from holdfast.report import accounting, constraints
    from holdfast.report.cheapest import cheapest_breaks
    from holdfast.report.customers import customers
    from holdfast.report.failures import failures
    from holdfast.report.flips import flipped
    from holdfast.report.judge_costs import judge_costs
    from holdfast.report.metric_tables import metric_tables
    from holdfast.report.panel import panel
    from holdfast.report.read import or_none, read_judges
    from holdfast.report.summarise.costs import UNITS

    scores = dict.fromkeys(name for row in contents.rows for name in (*row.before, *row.after))
    metrics = metric_tables(scores)
    shown = {name for table in metrics for name, _ in table.columns}
    return {
        "rows": contents.rows,
        "survivals": contents.survivals,
        "broken_costs": contents.costs,
        "cost_units": UNITS,
        "cheapest_breaks": cheapest_breaks(contents.records, contents.labels),
        "prices": contents.prices,
        "grids": contents.grids,
        **_choices(contents),
        **_comparisons(contents),
        "failures": failures(contents.records, contents.labels),
        "customers": customers(contents.records, contents.labels, contents.rows),
        "panel": panel(contents.records, contents.labels, contents.rows),
        "flipped": flipped(contents.rows),
        "strongest_only": len(contents.shown) < len(contents.rows),
        "judges": list(
            dict.fromkeys(
                name for c in contents.cells for name in or_none(read_judges, c.folder, contents.trouble) or ()
            )
        ),
        "configured": list(dict.fromkeys(judge.title for r in contents.records for judge in r.cell.judges.values())),
        "refusal_errors": refusal_forms.summary(),
        "metric_tables": metrics,
        "others": [name for name in scores if name not in (*_HEADLINE, *constraints.OWN_SCORES) and name not in shown],
        **constraints.tables(contents.records, contents.labels, contents.rows),
        "costs": accounting.costs(contents.records, [label.family for label in contents.labels]),
        "stages": accounting.stages(contents.records),
        "judge_costs": judge_costs(contents.records),
        "environment": accounting.environments(contents.records),
    }


def _comparisons(contents: ReportContents) -> dict[str, Any]:
    """What the runs tell about defenses beside each other, and how many pairs of runs that takes."""
    from holdfast.report.summarise.comparisons import pairs_needed
    from holdfast.report.summarise.rankings import agreements, pairs_of_defenses
    from holdfast.report.summarise.survival_pairs import survival_pairs

    pairs = pairs_of_defenses(contents.records, contents.labels)
    compared = sum(1 for row in contents.rows if row.against_none is not None)
    return {
        "num_compared": compared,
        "pairs_needed": pairs_needed(compared),
        "defense_pairs": pairs,
        "separable": [pair for pair in pairs if pair.comparison.verdict != "cannot tell"],
        "pairs_needed_of_defenses": pairs_needed(len(pairs)),
        "longer_pairs": survival_pairs(contents.records, contents.labels, contents.survivals, pairs),
        "agreements": agreements(contents.records, contents.labels),
    }


def _choices(contents: ReportContents) -> dict[str, Any]:
    """The rows of attacks that train nothing, each with its harm by N, trials or tokens, and all their values."""
    choices, numbers = _by_number([row for row in contents.rows if row.unit not in ("step", "trials", "tokens given")])
    edits, trials = _by_number([row for row in contents.rows if row.unit == "trials"])
    begun, tokens = _by_number([row for row in contents.rows if row.unit == "tokens given"])
    return {"choices": choices, "numbers": numbers, "edits": edits, "trials": trials, "begun": begun, "tokens": tokens}


def _by_number(rows: Sequence[ReportRow]) -> tuple[list[tuple[ReportRow, dict[int, Estimate]]], list[int]]:
    harms = [{point.step: point.estimate for point in row.curves.get("harmfulness", ())} for row in rows]
    return list(zip(rows, harms, strict=True)), sorted({number for harm in harms for number in harm if number})
