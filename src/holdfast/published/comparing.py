"""A published table compared with the runs that measured it: rows with their cells, misses, verdicts.

A paper may have two data sets where a world of ours has one: then its cells are compared with both, each on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.published.agreement import Verdict, combined_verdict
from holdfast.published.choosing import chosen
from holdfast.published.joining import belongs, dataset_of, measured
from holdfast.published.shapes import Shape, of_the_paper, shapes
from holdfast.published.standing import ORDER, Pair, pair
from holdfast.published.tables import Published, published
from holdfast.records import HoldfastError, Record
from holdfast.report.page import plural
from holdfast.report.read import Loaded, load

CODES: dict[Verdict, int] = {"same": 0, "not the same": 1, "cannot tell": 3}
"""Exit codes of the command; 2 is wrong input, as everywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A published table beside runs, `pairs` with the misses first.

    `itself` compares the paper's two data sets with each other, where it has two: runs of another world can hardly
    agree better. `beside` names the grids of the runs, `unused` is the number of their cells that belong to no row,
    `own_data` says that the runs' rows are no published data set, so that they stand for each.
    """

    table: Published
    pairs: tuple[Pair, ...]
    shapes: tuple[Shape, ...]
    itself: Shape | None
    beside: str
    own_data: bool
    unfinished: int
    unused: int
    trouble: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether the runs have the shape of the table on every data set; not told if most rows were not run."""
        by_shape = combined_verdict([shape.verdict for shape in self.shapes])
        return "cannot tell" if by_shape == "same" and 2 * self.missing > self.printed else by_shape

    @property
    def printed(self) -> int:
        """The number of rows with a printed value."""
        return sum(each.row.state == "printed" for each in self.pairs)

    @property
    def missing(self) -> int:
        """The number of printed rows to which no cell belongs."""
        return sum(each.row.state == "printed" and each.measured is None for each in self.pairs)

    @property
    def misses(self) -> list[Pair]:
        """The rows on the other side of the threshold, or garbled in the runs only."""
        return [each for each in self.pairs if each.standing == "miss"]


def compare(table: str, runs: Sequence[Path]) -> Comparison:
    """A published table beside the records of some run folders.

    Raises:
        HoldfastError: there is no such table, it has no numbers, a folder is no run, or no cell belongs to the table.
    """
    reported = published(table)
    if not reported.rows:
        raise HoldfastError(f"{table}: {reported.source} prints a picture without numbers to compare with")
    loaded = load(runs)
    records = [cell.record for cell in loaded.cells]
    pairs = _pairs(reported, records)
    used = [any(belongs(record, row) for row in reported.rows) for record in records]
    beside = _beside(loaded)
    if not any(used):
        raise HoldfastError(
            f"{', '.join(map(str, runs))}: a run of {beside}, none of whose {len(records)} cells belongs to "
            f"a row of {table}; give the folder of `holdfast run {table}`, or the table that this run measures"
        )
    return Comparison(
        table=reported,
        pairs=tuple(sorted(pairs, key=lambda each: ORDER.index(each.standing))),
        shapes=tuple(shapes(reported, pairs)),
        itself=of_the_paper(reported),
        beside=beside,
        own_data=None in {dataset_of(record.cell) for record in records},
        unfinished=loaded.unfinished,
        unused=used.count(False),
        trouble=tuple(loaded.trouble),
    )


def _pairs(table: Published, records: Sequence[Record]) -> list[Pair]:
    """Each row with its cells, without the rows of published data sets that no run uses."""
    there = {dataset_of(record.cell) for record in records}
    rows = [row for row in table.rows if row.dataset is None or there & {None, row.dataset}]
    pairs = []
    for row, (own, why) in zip(rows, chosen(records, rows), strict=True):
        of_row = measured(own, row, table.metrics, table.threshold) if own else None
        pairs.append(pair(row, of_row, why, table.threshold))
    return pairs


def _beside(loaded: Loaded) -> str:
    """The names of the runs' grids; a folder names only the one that ran last in it."""
    named = ", ".join(dict.fromkeys(name for name, _ in loaded.grids))
    return f"{named} and {plural(loaded.earlier, 'cell')} of other grids" if loaded.earlier else named
