"""Builds the report again when records have changed, and not more often than it can afford to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.files import require_file
from holdfast.records import HoldfastError
from holdfast.watching.reading import Progress

SHARE = 0.1
"""The largest share of one core that building takes while a run goes on."""


@dataclass(kw_only=True)
class Report:
    """The newest report of some runs.

    It is a class because the page outlives a call.

    Args:
        runs: their folders.
        out: where the report is written, with its files beside it.
        title: of the page.
        every: the least seconds between two reports.
    """

    runs: Sequence[Path]
    out: Path
    title: str
    every: float
    page: str | None = None
    version: str = ""
    trouble: str = ""
    builds: int = 0
    _stamp: tuple[Any, ...] | None = None
    _not_before: float = 0.0

    def up_to_date(self, progress: Progress) -> bool:
        """Whether the page shows the records that there are."""
        return self._stamp == _records_of(progress)

    def update(self, progress: Progress) -> bool:
        """Build the report if records have changed and it is time, or at once if the run is over; whether it was."""
        stamp = _records_of(progress)
        if stamp == self._stamp or (time.monotonic() < self._not_before and not progress.over):
            return False
        began = time.monotonic()
        self._build()
        ended = time.monotonic()
        self._stamp = stamp
        if self.page is not None:
            self.builds += 1
            self.version = str(self.builds)
        self._not_before = ended + max(self.every, (ended - began) * (1 / SHARE - 1))
        return True

    def _build(self) -> None:
        from holdfast.report import write_report

        runs = [run for run in self.runs if any(Path(run).glob("cells/*/record.json"))]
        if not runs:
            self.page, self.trouble = None, ""
            return
        try:
            write_report(runs, self.out, title=self.title)
            require_file(self.out)
            self.page, self.trouble = self.out.read_text("utf-8"), ""
        except (HoldfastError, OSError) as error:  # a folder may vanish while it is read; the last page is kept
            self.trouble = str(error)


def _records_of(progress: Progress) -> tuple[Any, ...]:
    """What the report depends on: the records that exist, and the state of their files."""
    return tuple((path, stamp) for path, stamp in progress.stamp if stamp is not None)
