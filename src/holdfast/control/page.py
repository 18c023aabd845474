"""The files of a finished run: CSV tables, the figure, and one page that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from holdfast.control import tables
from holdfast.control.figure import chart
from holdfast.control.running import DONE, ControlResults
from holdfast.files import write as write_file
from holdfast.files import write_text
from holdfast.report.figures import draw
from holdfast.report.page import render
from holdfast.report.text import csv_text, visible

REPORTED: Mapping[str, str] = {"gain_early": "above +160 %", "gain_final": "above +50 %"}
"""Cao 2025 (arXiv 2504.18766), abstract: means over four MuJoCo tasks; it states no tasks, budget, expert or
intervals."""


def write(results: ControlResults, folder: Path) -> list[Path]:
    """Write `curves.csv`, `gains.csv`, `pairs.csv`, `cells.csv`, `experts.csv`, the figure and `report.html`.

    The figure (SVG and PNG, and on the page) needs at least one finished cell.

    Raises:
        HoldfastError: a file cannot be written.
    """
    sheets = {
        "curves": (tables.curve_rows(results), tables.CURVES),
        "gains": (tables.gain_rows(results), tables.GAINS),
        "pairs": (tables.pair_rows(results), tables.PAIRS),
        "cells": (tables.cell_rows(results), tables.CELLS),
        "experts": (tables.expert_rows(results), tables.EXPERTS),
    }
    for name, (rows, columns) in sheets.items():
        write_text(folder / f"{name}.csv", csv_text(rows, columns))
    picture, svg = chart(results), ""
    written = [folder / f"{name}.csv" for name in sheets]
    if picture is not None:
        spec = picture.to_dict()
        svg = draw(spec, "svg").decode()
        written += [write_file(folder / f"figure.{form}", draw(spec, form)) for form in ("svg", "png")]
    write_text(folder / "report.html", page(results, svg))
    return [*written, folder / "report.html"]


def page(results: ControlResults, svg: str) -> str:
    """The page with the figure as inline SVG; every name is escaped."""
    context = {
        "title": f"Holdfast control: {results.control.name}",
        "description": results.control.description,
        "svg": Markup(svg),
        "tables": list(_tables(results)),
    }
    return render(context, show=visible, package="holdfast.control")


class _Table(NamedTuple):
    """A table of the page."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def _tables(results: ControlResults) -> Iterator[_Table]:
    head = ["task", "algorithm", "arm", *tables.QUANTITIES.values(), "pairs"]
    yield _Table("Gains over the plain runs", head, _gains(results))
    head = ["task", "quality", "return", "95 % interval", "checkpoint", "trained for", "random"]
    yield _Table("Experts", head, _experts(results))
    head = ["task", "algorithm", "arm", "seed", "outcome", "reason"]
    failed = [[row[name] for name in head] for row in tables.cell_rows(results) if row["outcome"] != DONE]
    if failed:
        yield _Table("Not finished", head, failed)


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`+12 %`, with its interval if there is one."""
    if value is None:
        return "open"
    value, low, high = (None if number is None else round(100 * number) for number in (value, low, high))
    interval = "" if low is None or high is None else f" [{low:+d}, {high:+d}]"
    return f"{value:+d} %{interval}"


def _gains(results: ControlResults) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for names, by in tables.gain_table(results):
        known = [by.get(quantity) for quantity in tables.QUANTITIES]
        cells = ["–" if row is None else percent(row["value"], row["low"], row["high"]) for row in known]
        rows.append([*names, *cells, max(row["pairs"] for row in by.values())])
    paper = [REPORTED.get(quantity, "–") for quantity in tables.QUANTITIES]
    return [*rows, ["reported", "–", "paper's mean over its four tasks", *paper, "–"]]


def _experts(results: ControlResults) -> list[list[Any]]:
    return [
        [
            *(row["task"], row["quality"], f"{row['return']:.1f}", f"{row['low']:.1f} to {row['high']:.1f}"),
            *(f"step {row['checkpoint']:,}", f"{row['trained_steps']:,} steps", f"{row['random_return']:.1f}"),
        ]
        for row in tables.expert_rows(results)
    ]
