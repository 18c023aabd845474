"""Builds the report again when records have changed, and not more often than it can afford to."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.files import require_file
from holdfast.records import HoldfastError
from holdfast.watching.reading import Progress

SHARE = 0.1
"""The largest share of one core that building takes while a run goes on."""
LONGEST_WAIT = 600.0
"""Seconds for which the last report waits for one that was begun while the run went on."""


class Built(NamedTuple):
    """A report's page, its number, the number of cells in it, and when they were read (seconds since the epoch)."""

    page: str
    version: str
    shown: int
    read_at: float


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
    built: Built | None = None
    trouble: str = ""
    _stamp: tuple[Any, ...] | None = None
    _not_before: float = 0.0
    _builder: threading.Thread | None = None

    def up_to_date(self, progress: Progress) -> bool:
        """Whether the page shows the records that there are."""
        return self._stamp == _records_of(progress)

    def update(self, progress: Progress) -> bool:
        """Build the report if records have changed and it is time, or at once if the run is over; whether it was."""
        if self.up_to_date(progress) or (time.monotonic() < self._not_before and not progress.over):
            return False
        began = time.monotonic()
        self._build(progress)
        ended = time.monotonic()
        self._stamp = _records_of(progress)
        self._not_before = ended + max(self.every, (ended - began) * (1 / SHARE - 1))
        return True

    def update_beside(self, progress: Progress) -> None:
        """`update` in a thread until the run is over, since building takes seconds.

        Raises:
            HoldfastError: the run is over, and an earlier report is not ready after `LONGEST_WAIT`.
        """
        if self.building and not progress.over:
            return
        self.wait_for_earlier()
        if progress.over:
            self.update(progress)
        elif not self.up_to_date(progress):
            self._builder = threading.Thread(target=self.update, args=(progress,), daemon=True)
            self._builder.start()

    @property
    def building(self) -> bool:
        """Whether a report is being built in the background."""
        return self._builder is not None and self._builder.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for a report that is being built, at most this long."""
        if self._builder is not None:
            self._builder.join(seconds)

    def wait_for_earlier(self) -> None:
        """Wait until no report is being built in the background.

        Raises:
            HoldfastError: one still is after `LONGEST_WAIT`; says how to get the report all the same.
        """
        self.wait(LONGEST_WAIT)
        if self.building:
            raise HoldfastError(
                f"the run is over, but a report that was begun before is not ready after {LONGEST_WAIT / 60:.0f} "
                f"minutes; make it with `holdfast report {' '.join(map(str, self.runs))}`"
            )

    def _build(self, progress: Progress) -> None:
        from holdfast.report import write_report

        runs = [run for run in self.runs if any(Path(run).glob("cells/*/record.json"))]
        if not runs:
            self.built, self.trouble = None, ""
            return
        try:
            write_report(runs, self.out, title=self.title)
            require_file(self.out)
            page = self.out.read_text("utf-8")
        except Exception as error:
            # A folder may vanish while it is read, and this program may be replaced while it watches: the last page is
            # kept, and progress goes on.
            self.trouble = _why(error)
            return
        number = 1 if self.built is None else int(self.built.version) + 1
        shown = len(progress.having("ended", "failed"))
        self.built, self.trouble = Built(page, str(number), shown, progress.now), ""


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HoldfastError) else f"the report cannot be made: {type(error).__name__}: {text}"


def _records_of(progress: Progress) -> tuple[Any, ...]:
    """What the report depends on: the records that exist, and the state of their files."""
    return tuple((path, stamp) for path, stamp in progress.stamp if stamp is not None)
