"""The files of a finished run: CSV tables, the figure, and one page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from holdfast.control import tables
from holdfast.control.figure import chart
from holdfast.control.running import DONE, Found
from holdfast.experiment.store import write_text
from holdfast.records import HoldfastError
from holdfast.report.figures import draw
from holdfast.report.text import csv_text, visible

REPORTED: Mapping[str, str] = {"gain_early": "above +160 %", "gain_final": "above +50 %"}
"""Cao 2025 (arXiv 2504.18766), abstract: means over four MuJoCo tasks; without tasks, budget, expert or intervals."""

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#111827}"
    "table{border-collapse:collapse;margin:.7rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #e5e7eb;"
    "text-align:right}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}td:nth-child(n+4){white-space:nowrap}svg{max-width:100%;height:auto}"
)
_NOTES = (
    "Solid lines are the learner alone, without noise and without the expert; dashed ones are the training episodes, "
    "with the expert's share in them. A guided run's training episodes say nothing of what has been learned.",
    "A gain is the ratio of the areas under two learner-alone curves with one seed, minus 1, early in the run and at "
    "its end. Areas are measured from a return of 0, or from the random policy's where that is negative. Where a plain "
    "run lies below that, the ratio means nothing and the gain is left open; under -100 % the guided run does.",
    "A lead is the difference of the mean returns, as a share of the way from the random policy to the good expert.",
    "At equal steps: the plain run had as many steps before as the expert's training took.",
    "Intervals are 95 % bootstrap intervals over pairs of seeds, on the curves over seeds.",
    "What the paper reports is on other tasks, budgets and experts: it can be compared in direction only.",
)


def write(found: Found, folder: Path) -> list[Path]:
    """Write `curves.csv`, `gains.csv`, `pairs.csv`, `cells.csv`, `experts.csv`, the figure and `report.html`.

    The figure, as SVG and PNG, and the page's picture need one finished cell.

    Raises:
        HoldfastError: a file cannot be written.
    """
    sheets = {
        "curves": (tables.curve_rows(found), tables.CURVES),
        "gains": (tables.gain_rows(found), tables.GAINS),
        "pairs": (tables.pair_rows(found), tables.PAIRS),
        "cells": (tables.cell_rows(found), tables.CELLS),
        "experts": (tables.expert_rows(found), tables.EXPERTS),
    }
    for name, (rows, columns) in sheets.items():
        write_text(folder / f"{name}.csv", csv_text(rows, columns))
    picture, svg = chart(found), ""
    written = [folder / f"{name}.csv" for name in sheets]
    if picture is not None:
        spec = picture.to_dict()
        svg = draw(spec, "svg").decode()
        written += [_write_bytes(folder / f"figure.{form}", draw(spec, form)) for form in ("svg", "png")]
    write_text(folder / "report.html", page(found, svg))
    return [*written, folder / "report.html"]


def page(found: Found, svg: str) -> str:
    """The page, with a drawing as SVG in it; every name on it is escaped."""
    title = _text(f"Holdfast control: {found.control.name}")
    failed = [row for row in tables.cell_rows(found) if row["outcome"] != DONE]
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{_text(found.control.description)}</p>",
        *(f"<p>{_text(note)}</p>" for note in _NOTES),
        svg,
        "<h2>Gains over the plain runs</h2>",
        _table(["task", "algorithm", "arm", *tables.QUANTITIES.values(), "pairs"], _gains(found)),
        "<h2>Experts</h2>",
        _table(["task", "quality", "return", "95 % interval", "checkpoint", "trained for", "random"], _experts(found)),
    ]
    if failed:
        rows = [[row[name] for name in ("task", "algorithm", "arm", "seed", "outcome", "reason")] for row in failed]
        parts += ["<h2>Not finished</h2>", _table(["task", "algorithm", "arm", "seed", "outcome", "reason"], rows)]
    return "\n".join([*parts, "</body></html>\n"])


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`+12 %`, with its interval where there is one."""
    if value is None:
        return "open"
    value, low, high = (None if number is None else round(100 * number) for number in (value, low, high))
    interval = "" if low is None or high is None else f" [{low:+d}, {high:+d}]"
    return f"{value:+d} %{interval}"


def _gains(found: Found) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for names, by in tables.gain_table(found):
        known = [by.get(quantity) for quantity in tables.QUANTITIES]
        cells = ["–" if row is None else percent(row["value"], row["low"], row["high"]) for row in known]
        rows.append([*names, *cells, max(row["pairs"] for row in by.values())])
    paper = [REPORTED.get(quantity, "–") for quantity in tables.QUANTITIES]
    return [*rows, ["reported", "–", "paper's mean over its four tasks", *paper, "–"]]


def _experts(found: Found) -> list[list[Any]]:
    return [
        [
            *(row["task"], row["quality"], f"{row['return']:.1f}", f"{row['low']:.1f} to {row['high']:.1f}"),
            *(f"step {row['checkpoint']:,}", f"{row['trained_steps']:,} steps", f"{row['random_return']:.1f}"),
        ]
        for row in tables.expert_rows(found)
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _text(value: Any) -> str:
    return escape(visible(str(value)))


def _write_bytes(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
