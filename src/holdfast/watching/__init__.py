"""Watch runs while they go on in other processes: a live page, a file that is kept up to date, or a full screen.

`reading` says how far runs are by their own files; `wording` and `lines` put that into words; `page` puts a banner on
the report, `building` builds that anew; `server` and `terminal` show it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.files import require_place, write_text
from holdfast.files.scratch import scratch_folder
from holdfast.records import HoldfastError
from holdfast.watching.lines import Lines
from holdfast.watching.reading import Progress, Reader
from holdfast.watching.wording import headline, tally

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.watching.building import Report
    from holdfast.watching.server import Site

__all__ = ["Progress", "Reader", "exit_code", "in_file", "in_lines", "in_one_line", "on_page", "on_screen", "step_back"]

Say = Callable[[str], None]
NICE = 10
"""The niceness of the watching process: those that work come first."""
LINGER = 10.0
"""Seconds for which a page that somebody looks at is still served after the run is over, so that it shows all of it."""
WAIT = 20.0
"""Seconds for which a report that is being built is waited for when the watch is left."""
LOOKED_AT = 6.0
"""A page counts as looked at for so many seconds after it last asked for progress."""


def on_page(runs: Sequence[Path], say: Say, *, every: float, port: int = 0, stay: bool = False) -> Progress:
    """Serve the live page to this machine until the run is over.

    Args:
        runs: folders of runs, which need not exist yet.
        say: called with the address, and with a line for what happens.
        every: seconds between two looks at the files, and the least between two reports.
        port: 0 for any free one.
        stay: whether to go on when the run is over.

    Raises:
        HoldfastError: the port is taken, or the run is over and an earlier report is still not ready.
    """
    from holdfast.watching.building import Report
    from holdfast.watching.server import Site, serving

    with scratch_folder("watch") as scratch:
        place = scratch / "report.html"
        reader, lines, site = Reader(runs=runs), Lines(say=say), Site(place=place, runs=[Path(run) for run in runs])
        report = Report(runs=runs, out=place, title=title_of(reader.read()), every=every)
        _publish(site, report, reader.read())
        with serving(site, port) as address:
            say(f"the page is at {address} (this machine only)")

            def look(progress: Progress) -> Progress:
                report.title = title_of(progress)
                report.update_beside(progress)
                progress = _with_trouble(progress, report)
                _publish(site, report, progress)
                return progress

            try:
                last = _follow(reader, lines, look, every=every, stay=stay)
            finally:
                report.wait(WAIT)  # or it would be written into a folder that is removed
            _linger(site)
    return last


def in_file(runs: Sequence[Path], out: Path, say: Say, *, every: float, stay: bool = False) -> Progress:
    """Keep a page in a file up to date until the run is over; then the file is the run's report.

    Args:
        runs: folders of runs, which need not exist yet.
        out: the file; the report's other files are written beside it.
        say: called with a line for what happens.
        every: seconds between two writes.
        stay: whether to go on when the run is over.

    Raises:
        HoldfastError: the file cannot be written, the report would overwrite something else, or the run is over and an
            earlier report is still not ready.
    """
    from holdfast.report import is_of
    from holdfast.watching.building import Report
    from holdfast.watching.page import page_of

    out = Path(out).absolute()
    require_place(out)
    reader, lines = Reader(runs=runs), Lines(say=say)
    # A report without a banner is never at `out` before the run is over, not even for a moment.
    beside = out.with_name(f".{out.stem}-live{out.suffix}")
    live, whole = (Report(runs=runs, out=place, title="", every=every) for place in (beside, out))

    def look(progress: Progress) -> Progress:
        if progress.over:
            live.wait_for_earlier()  # two threads that import the same packages at once find them half imported
        report = whole if progress.over else live
        report.title = title_of(progress)
        if progress.over and is_of(runs, out, title=report.title):
            return progress
        report.update_beside(progress)
        progress = _with_trouble(progress, report)
        if not progress.over:
            page = page_of(report.built, progress, title=report.title, live=False)
            write_text(out, page)
            if report.built is not None and not report.building:
                write_text(beside, page)  # the pages of cells lead back to it
        elif whole.trouble:
            built = live.built or whole.built
            write_text(out, page_of(built, progress, title=report.title, live=False, stale=True))
        return progress

    say(f"the page is {out}")
    finished = False
    try:
        last = _follow(reader, lines, look, every=every, stay=stay)
        finished = not whole.trouble
    finally:
        live.wait(WAIT)
        if finished:  # else the page links to the pages of cells there
            _remove(beside)
    if whole.trouble:
        raise HoldfastError(whole.trouble)
    return last


def _remove(page: Path) -> None:
    """Remove a report, with the files beside it that have its name, and the pages of its cells."""
    from holdfast.report.cell_pages import folder_of

    shutil.rmtree(folder_of(page), ignore_errors=True)
    for path in page.parent.glob(f"{glob.escape(page.stem)}.*"):
        path.unlink(missing_ok=True)


def on_screen(runs: Sequence[Path], console: Console, *, every: float, stay: bool = False) -> Progress:
    """Show progress on the whole terminal until the run is over, or until `q` is pressed."""
    from holdfast.watching.terminal import show

    return show(Reader(runs=runs).read, console, every=every, stay=stay)


def in_lines(runs: Sequence[Path], say: Say, *, every: float, stay: bool = False) -> Progress:
    """Say in plain lines what happens until the run is over."""
    return _follow(Reader(runs=runs), Lines(say=say), lambda progress: progress, every=every, stay=stay)


def exit_code(progress: Progress) -> int:
    """1 if the run is over and some of its cells failed, else 0."""
    return 1 if progress.over and progress.having("failed") else 0


def step_back() -> None:
    """Lower this process's priority, so that working processes come first."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICE - min(os.nice(0), NICE))


def in_one_line(progress: Progress) -> str:
    """How far a run is, in one line."""
    return "; ".join(filter(None, [headline(progress), tally(progress) if not progress.over else ""]))


def title_of(progress: Progress) -> str:
    """The title of the page, as `holdfast run` gives it."""
    return f"Holdfast: {', '.join(dict.fromkeys(progress.grids))}"


def _follow(
    reader: Reader, lines: Lines, look: Callable[[Progress], Progress], *, every: float, stay: bool
) -> Progress:
    """Read the files, and tell it to `look` and in lines, again and again until the run is over."""
    while True:
        progress = look(reader.read())
        lines(progress)
        if progress.over and not stay:
            return progress
        time.sleep(every)


def _with_trouble(progress: Progress, report: Report) -> Progress:
    """The same, with the reason if there is no newer report."""
    return replace(progress, trouble=(*progress.trouble, report.trouble)) if report.trouble else progress


def _publish(site: Site, report: Report, progress: Progress) -> None:
    from holdfast.watching.page import body_of, page_of

    built = report.built
    over = progress.over and report.up_to_date(progress)
    stale = over and bool(report.trouble)
    page = page_of(built, progress, title=report.title, live=True, stale=stale)
    version = "" if built is None else built.version
    message = {"html": body_of(progress), "version": version, "over": over, "stale": stale}
    site.page, site.progress, site.over = page.encode(), json.dumps(message).encode(), over


def _linger(site: Site) -> None:
    """Wait until a page that somebody looks at has been given all of the run."""
    until = time.monotonic() + LINGER
    while site.last_asked is not None and not site.delivered and time.monotonic() < until:
        if time.monotonic() - site.last_asked > LOOKED_AT:
            return
        time.sleep(0.1)
