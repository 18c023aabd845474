"""`holdfast compare`: a published table compared with runs, printed, and as a page, a CSV table and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.table import Table

from holdfast.commands import display
from holdfast.published import words
from holdfast.published.choosing import NO_CELL
from holdfast.published.comparing import CODES, Comparison, compare
from holdfast.published.standing import HARM, Pair
from holdfast.report.page import plural

STYLES = {"miss": "bold red", "same side": "green", "cannot tell": "yellow"}
GAP = 2
"""Spaces between two columns."""
REVERSALS = 5
"""Reversals of two rows that are printed; a page has all."""


def show_comparison(table: str, runs: Sequence[Path], out: Path | None) -> int:
    """Print a comparison, misses first, and write it to `out` if given; the exit code."""
    comparison = compare(table, runs)
    display.note(f"{comparison.table.title} ({comparison.table.source})")
    _print_rows(comparison)
    _print_verdicts(comparison)
    if out is not None:
        from holdfast.published.page import write

        display.note(f"wrote {', '.join(map(str, write(comparison, out)))}")
    display.note(words.headline(comparison))
    return CODES[comparison.verdict]


def _print_verdicts(comparison: Comparison) -> None:
    reversals = [words.of_reversal(reversal) for shape in comparison.shapes for reversal in shape.reversals]
    for line in reversals[:REVERSALS]:
        display.note(f"reversed: {line}")
    if len(reversals) > REVERSALS:
        display.note(f"reversed: {len(reversals) - REVERSALS} more; `--out` writes a page with all")
    for heading, lines in words.verdicts(comparison):
        display.note(f"{heading}:")
        for line in lines:
            display.note(f"  {line}")
    for line in words.remarks(comparison):
        display.note(line)


def _print_rows(comparison: Comparison) -> None:
    """The rows that have a cell, misses first: as a table if that fits the width, else on several lines each."""
    metric = HARM if HARM in comparison.table.metrics else comparison.table.metrics[0]
    pairs = [pair for pair in comparison.pairs if pair.measured is not None or pair.why != NO_CELL]
    whys = list(dict.fromkeys(pair.why for pair in pairs if pair.why))
    numbers = {why: str(number) for number, why in enumerate(whys, 1)}
    swept = any(pair.row.settings for pair in pairs)
    titles = ["", "attack", "data set", "defense", *(["setting"] if swept else [])]
    titles += [f"{'' if metric == HARM else f'{words.name(metric)}, '}reported", "measured", "n (runs)", "ended", "why"]
    rows = [list(_texts(pair, metric, numbers.get(pair.why, ""), swept=swept)) for pair in pairs]
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) <= display.console.width:
        _print_table(titles, rows, numeric=titles.index("ended"))
        for why, number in numbers.items():
            display.note(f"why {number}: {why}")
    else:
        for pair, row in zip(pairs, rows, strict=True):
            _print_stacked(pair, row, metric)
    if len(pairs) < len(comparison.pairs):
        display.note(f"{plural(len(comparison.pairs) - len(pairs), 'row')} without a cell in the runs")


def _texts(pair: Pair, metric: str, why: str, *, swept: bool) -> Iterator[str]:
    """A row's texts, in the order of the columns."""
    yield from (pair.standing, pair.row.attack, pair.row.dataset or "", pair.row.defense)
    if swept:
        yield words.swept(pair.row)
    yield from (words.reported(pair, metric), words.measured(pair, metric), _n(pair, metric), pair.ended, why)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: int) -> None:
    """Print rows of texts; the three columns before the one at `numeric` are numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place == 0 or numeric - 3 <= place < numeric else "left")
    for standing, *others in rows:
        style = STYLES.get(standing, "dim")
        table.add_row(f"[{style}]{standing}[/]", *map(display.shown, others))
    display.print_whole(table)


def _print_stacked(pair: Pair, row: Sequence[str], metric: str) -> None:
    """Print a row as a block: title, values, outcomes."""
    standing, *place = row[:-5]
    reported, measured, n, ended, _ = row[-5:]
    style = STYLES.get(standing, "dim")
    named = "" if metric == HARM else f"{words.name(metric)} "
    lines = [f"{named}reported {reported}, measured {measured}", "; ".join(filter(None, [f"n {n}", ended])), pair.why]
    title = ", ".join(filter(None, place))
    display.console.print(f"[{style}]{standing:<12}[/] {display.shown(title)}", highlight=False, soft_wrap=True)
    for line in filter(None, lines):
        display.note(f"    {line}")


def _n(pair: Pair, metric: str) -> str:
    """Prompts behind the reported value, answers behind the measured one, and how many runs."""
    measured = pair.measured.estimates.get(metric) if pair.measured is not None else None
    reported = "?" if pair.row.n is None else str(pair.row.n)
    return reported if measured is None else f"{reported} / {measured.n} ({measured.seeds})"
