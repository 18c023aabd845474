"""Commands that read finished runs: the report, and a published table beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.commands.options import (
    exit_unless_zero,
)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page; tables and pages of cells are written next to it.")
    ] = Path("report.html"),
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for the charts as PNG, SVG and PDF."),
    ] = None,
    title: str = "Holdfast report",
    prices: Annotated[
        Path | None, typer.Option(help="A YAML price list for what a break costs, instead of the packaged one.")
    ] = None,
    utility: Annotated[
        list[str] | None,
        typer.Option(
            help="What another tool measured, as TOOL:FILE=LABEL: `lm_eval:results.json='tar x sft'`; may be repeated."
        ),
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells/--no-cells", help="A page for each cell, in a folder next to the page.")
    ] = True,
    gate: Annotated[
        str | None, typer.Option(help="A gate file or a packaged gate: the page begins with its verdict on these runs.")
    ] = None,
) -> None:
    """Write one page from the records of one or more runs; it opens offline.

    The page begins with what the runs can and cannot say, or with a gate's verdict (`--gate`, see `holdfast gate`), and
    with a grid of defenses by attacks. Its numbers are in CSV and JSON files next to it.

    Examples: `holdfast report runs/quickstart --gate open_weights`,
    `holdfast report runs/quickstart --out report.html --figures figures`,
    `holdfast report runs/quickstart --utility lm_eval:results.json=reward_neutralization`.
    """
    from holdfast.commands.display import note
    from holdfast.report import write_figures, write_report

    verdict = None
    if gate is not None:
        from holdfast.gate.answer import answer, as_json

        verdict = as_json(answer(gate, runs))
    page = write_report(runs, out, title=title, prices=prices, utility=utility or [], cell_pages=cells, gate=verdict)
    note(f"wrote {page}")
    if figures is not None:
        note(f"wrote {len(write_figures(runs, figures))} figures to {figures}")


def compare(
    table: Annotated[str, typer.Argument(help="A published table (`holdfast list published`).")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that measured it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a page here; its table (CSV) and picture (SVG, PNG) next to it."),
    ] = None,
) -> None:
    """Set a paper's printed table beside runs that measured it: the same shape or not, misses first.

    Two things are compared: on which side of the paper's threshold of harm each cell is, and the order of rows that
    differ in one thing (the defense, or a swept setting), by Kendall's tau with an interval. What n cannot tell is
    said so. Values that the paper leaves out or marks as collapsed are listed and not compared. Other metrics are
    compared by rank, since their scales differ.

    Exit codes: 0 the same shape, 1 not the same, 2 wrong input, 3 cannot tell.

    Examples: `holdfast run rpa_table_3`, then `holdfast compare rpa_table_3 runs/rpa_table_3`;
    `holdfast compare rpa_table_3 runs/rpa_table_3 runs/more_seeds -o compared.html`.
    """
    from holdfast.commands.published import show_comparison

    exit_unless_zero(show_comparison(table, runs, out))
