"""What some run folders hold, read and summarised: what every part of a report is made from."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.records import Record
    from holdfast.report.charts import Style
    from holdfast.report.read import Finished
    from holdfast.report.summarise import Row
    from holdfast.report.summarise.labels import Label


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContents:
    """What the run folders hold, read and summarised once.

    `trouble` says what could not be read and is left out. `labels` has one entry per cell; `shown` are the labels of
    what gets panels and samples, see `flips.plotted`.
    """

    cells: tuple[Finished, ...]
    labels: Sequence[Label]
    rows: Sequence[Row]
    shown: Set[Label]
    styles: dict[str, Style]
    grids: tuple[tuple[str, str], ...]
    unfinished: int
    trouble: list[str]

    @property
    def records(self) -> list[Record]:
        """The records of the cells, in their order."""
        return [cell.record for cell in self.cells]
