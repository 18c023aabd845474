"""The contents of run folders, read and summarised, from which every part of a report is made."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.records import Record
    from holdfast.report.charts import Style
    from holdfast.report.prices import Prices
    from holdfast.report.read import Finished
    from holdfast.report.summarise import ReportRow
    from holdfast.report.summarise.costs import CostToBreak
    from holdfast.report.summarise.labels import Label
    from holdfast.report.summarise.survival import Survival


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContents:
    """The contents of run folders, read and summarised once.

    `trouble` lists what could not be read and is omitted, `doubtful` records that were changed or damaged. `labels` has
    one entry per cell; `shown` are the labels with panels and samples, see `flips.plotted`.
    """

    cells: tuple[Finished, ...]
    labels: Sequence[Label]
    rows: Sequence[ReportRow]
    survivals: Sequence[Survival]
    costs: Sequence[CostToBreak]
    prices: Prices
    shown: Set[Label]
    styles: dict[str, Style]
    grids: tuple[tuple[str, str], ...]
    unfinished: int
    trouble: list[str]
    doubtful: tuple[str, ...] = ()

    @property
    def records(self) -> list[Record]:
        """The records of the cells, in their order."""
        return [cell.record for cell in self.cells]
