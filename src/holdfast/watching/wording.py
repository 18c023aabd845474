"""What is said of a run's progress, in sentences that the page, the full screen and plain lines share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from holdfast.report.page import duration
from holdfast.report.page import plural as counted
from holdfast.watching.reading import Piece, Progress

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = ".:-=+*#@"


def headline(progress: Progress) -> str:
    """How far a run is, in a sentence that begins with *unfinished* unless it is finished or has not begun."""
    places = ", ".join(str(run) for run in progress.runs)
    if progress.phase == "absent":
        return f"{places}: there is no such folder yet; waiting for `holdfast run` to create it{_alike(progress.runs)}"
    if progress.phase == "waiting":
        return f"{places}: no run has begun here yet; waiting"
    if progress.phase == "finished":
        failed = len(progress.having("failed"))
        return f"finished: {counted(len(progress.cells), 'cell')}" + (f", of which {failed} failed" if failed else "")
    if progress.phase == "checking":
        return "unfinished: models, rows and judges are being checked before the first cell"
    if progress.phase == "stopped":
        return f"unfinished: {_stopped(progress)}"
    since = "" if progress.began is None else f" for {duration(progress.now - progress.began)}"
    return f"unfinished: running{since}; {time_left(progress)}"


def tally(progress: Progress) -> str:
    """The number of cells in each state; empty if there are none."""
    if not progress.cells:
        return ""
    counts = {state: len(progress.having(state)) for state in ("ended", "failed", "running", "open")}
    parts = [f"{counts['ended']} of {counted(len(progress.cells), 'cell')} done"]
    parts += [f"{counts[state]} {word}" for state, word in WORDS if counts[state]]
    return ", ".join(parts)


WORDS = (("failed", "failed"), ("running", "running"), ("open", "to go"))


def time_left(progress: Progress) -> str:
    """The approximate time left, estimated from finished work of the same kind and from steps so far."""
    seconds = progress.seconds_left
    if progress.cells and not progress.making and not progress.having("running", "open"):
        return "no cell is left to run"
    if seconds is None:
        return "time left unknown until the first piece of work is done"
    bound = "at least " if progress.at_least else "about "
    if seconds < 60:
        return "time left unknown yet" if progress.at_least else "under a minute left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{bound}{f'{hours} h ' if hours else ''}{minutes} min left"


def doing(piece: Piece, now: float) -> str:
    """How far a running piece of work is: step, seconds a step, harm at its last evaluation."""
    parts = []
    if piece.step is not None and piece.max_steps:
        parts.append(f"step {piece.step} of {piece.max_steps}")
    elif piece.since is not None:
        parts.append(f"for {duration(max(now - piece.since, 0.0))}")
    if piece.pace is not None:
        parts.append(f"{piece.pace:.2g} s a step")
    if piece.harms:
        parts.append(f"harm {piece.harms[-1]:.2f}")
    return ", ".join(parts)


def sparkline(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Values in [0, 1] as bars, the last `width` of them."""
    top = len(bars) - 1
    return "".join(bars[min(max(round(value * top), 0), top)] for value in values[-width:])


def clock(seconds: float | None, now: float) -> str:
    """A time of this machine's day, with the date if it was another day."""
    if seconds is None:
        return "an unknown time"
    then, today = time.localtime(seconds), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


def _stopped(progress: Progress) -> str:
    ago = "" if progress.last is None else f" ({duration(max(progress.now - progress.last, 0.0))} ago)"
    why = f": {progress.ended}" if progress.ended else ""
    since = clock(progress.last, progress.now)
    return f"no process is writing since {since}{ago}{why}; `holdfast run` with the same grid resumes it"


def _alike(runs: Sequence[Path]) -> str:
    """Runs next to a folder that does not exist, whose name may be misspelt."""
    beside: list[str] = []
    for run in runs:
        try:
            beside += sorted(str(path.parent) for path in run.parent.glob("*/grid.json"))
        except OSError:
            continue
    return f" (beside it there are {', '.join(beside[:3])})" if beside else ""
