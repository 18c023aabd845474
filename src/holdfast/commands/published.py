"""`holdfast compare`: a published table beside runs, printed, and as a page, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from holdfast.commands import display
from holdfast.published import words
from holdfast.published.choosing import NO_CELL
from holdfast.published.comparing import CODES, Comparison, compare
from holdfast.published.standing import HARM, Pair
from holdfast.report.page import plural

STYLES = {"miss": "bold red", "same side": "green", "cannot tell": "yellow"}


def show_comparison(table: str, runs: Sequence[Path], out: Path | None) -> int:
    """Print a comparison, misses first, and write it to `out` if given; the exit code."""
    found = compare(table, runs)
    display.note(f"{found.table.title} ({found.table.source})")
    _print_rows(found)
    for shape in found.shapes:
        for reversal in shape.reversals:
            display.note(f"reversed: {words.of_reversal(reversal)}")
    for line in (*words.sentences(found), *words.remarks(found)):
        display.note(line)
    if out is not None:
        from holdfast.published.page import write

        display.note(f"wrote {', '.join(map(str, write(found, out)))}")
    display.note(words.headline(found))
    return CODES[found.verdict]


def _print_rows(found: Comparison) -> None:
    metrics = [metric for metric in found.table.metrics if metric == HARM] or list(found.table.metrics[:1])
    swept = any(pair.row.settings for pair in found.pairs)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right")  # a column to the right is never folded
    for name in ("attack", "data set", "defense", *(("setting",) if swept else ())):
        table.add_column(name, overflow="fold")
    for metric in metrics:
        table.add_column("reported" if metric == HARM else f"{words.name(metric)}, reported", justify="right")
        table.add_column("measured", justify="right")
    table.add_column("n (runs)", justify="right")
    table.add_column("ended, and why", overflow="fold")
    empty = [pair for pair in found.pairs if pair.measured is None and pair.why == NO_CELL]
    for pair in (pair for pair in found.pairs if pair not in empty):
        style = STYLES.get(pair.standing, "dim")
        place = [pair.row.attack, pair.row.dataset or "", pair.row.defense, *([words.swept(pair.row)] if swept else [])]
        numbers = [text for metric in metrics for text in (words.reported(pair, metric), words.measured(pair, metric))]
        cells = [*place, *numbers, _n(pair, metrics[0]), "; ".join(filter(None, [pair.ended, pair.why]))]
        table.add_row(f"[{style}]{pair.standing}[/]", *map(display.shown, cells))
    display.print_whole(table)
    if empty:
        display.note(f"{plural(len(empty), 'row')} without a cell in the runs")


def _n(pair: Pair, metric: str) -> str:
    """Prompts behind the reported value, answers behind the measured one, and how many runs."""
    found = pair.measured.estimates.get(metric) if pair.measured is not None else None
    reported = "?" if pair.row.n is None else str(pair.row.n)
    return reported if found is None else f"{reported} / {found.n} ({found.seeds})"
