"""What a running process is doing, in a small file for those who watch the run; results do not depend on it.

RUN/status/HOST-PID.json, one for each process that runs a grid into the folder. It is written anew every second if
anything changed, and every ten otherwise, so that its time tells that the process lives. A process that ends removes
its file; one that was interrupted says so in it, one that was killed leaves it behind. The next run clears both away.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.experiment.engine import News, State
from holdfast.experiment.time_left import TimeLeft
from holdfast.files import parse_json, write_text

CHANGED, UNCHANGED = 1.0, 10.0
"""Seconds between two writes, with and without news."""
FOLDER = "status"
MAX_NOTES = 20


@dataclass(kw_only=True)
class Status:
    """A listener to news that keeps the file of this process up to date, and a context manager.

    At its end the file is removed, or says why the run was interrupted. It never raises: a run does not fail because
    its status cannot be written. It is a class because its state outlives a call.

    Args:
        run: the run's folder.
        grid: the grid's name.
        pieces: all pieces of work of the grid.
        names: names of pieces by key; other pieces have their titles.
        news: gets everything.
    """

    run: Path
    grid: str
    pieces: Sequence[Any]
    names: Mapping[str, str]
    news: News
    _began: float = field(default_factory=time.time)
    _to_do: list[Any] = field(default_factory=list)
    _running: dict[str, dict[str, Any]] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _left: TimeLeft | None = None
    _changed: bool = True
    _written: float = 0.0

    def __enter__(self) -> Status:
        # The first second is left out: what takes no longer needs no file.
        self._written = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            if error is not None and self._path.exists():
                interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
                self._write(ended="interrupted" if interrupted else str(error) or type(error).__name__)
            else:
                self._path.unlink(missing_ok=True)
                self._path.parent.rmdir()

    def begin(self, pieces: Sequence[Any], left: TimeLeft) -> None:
        """Say what will be done from now on; `left` gets all news from here, and knows how long the rest will take."""
        self._to_do, self.news, self._left, self._changed = list(pieces), left, left, True
        self.tick()

    def __call__(self, piece: Any, state: State, details: Mapping[str, Any]) -> None:
        """Remember the news, and pass them on."""
        now = time.time()
        if state == "looking":
            self._written = 0.0  # what is looked for takes seconds, in which nothing is called
        elif state == "started":
            about = {"kind": piece.kind, "title": self._title(piece)}
            self._running[piece.key] = {**about, "started": now, "step": None, "max_steps": None}
        elif state == "progress" and piece.key in self._running:
            if "step" in details:
                _advance(self._running[piece.key], details, now)
            if "note" in details:
                self._notes = [*self._notes, str(details["note"])][-MAX_NOTES:]
        elif state in ("done", "failed", "waiting"):
            self._running.pop(piece.key, None)
            if state != "waiting":
                self._to_do = [other for other in self._to_do if other.key != piece.key]
        self._changed = True
        self.news(piece, state, details)
        self.tick()

    def tick(self) -> None:
        """Write the file if it is time."""
        if time.monotonic() - self._written >= (CHANGED if self._changed else UNCHANGED):
            with contextlib.suppress(Exception):
                if not self._path.exists():
                    self._path.parent.mkdir(exist_ok=True)  # not its parents: a run's folder that was removed stays so
                    clear(self.run)
                self._write()
            self._written, self._changed = time.monotonic(), False

    @property
    def _path(self) -> Path:
        return self.run / FOLDER / f"{_host()}-{os.getpid()}.json"

    def _title(self, piece: Any) -> str:
        return str(self.names.get(piece.key) or piece.title)

    def _write(self, ended: str | None = None) -> None:
        left = self._left.left() if self._left is not None else {}
        value = {
            **own_process(),
            "grid": self.grid,
            "began": self._began,
            "updated": time.time(),
            "ended": ended,
            "checking": self._left is None,
            "running": self._running,
            "to_do": [piece.key for piece in self._to_do],
            "names": {piece.key: self._title(piece) for piece in self.pieces if piece.kind == "cell"},
            "notes": self._notes,
            **left,
        }
        write_text(self._path, json.dumps(value, allow_nan=False) + "\n")


def _advance(running: dict[str, Any], details: Mapping[str, Any], now: float) -> None:
    """Note a step, and when the first one of this training was done: the time of a step is counted from there."""
    if "first_step" not in running or details["step"] < running["step"]:
        running |= {"first_step": details["step"], "first_at": now}
    running |= {"step": details["step"], "max_steps": details["max_steps"], "at": now}
    running["harmfulness"] = details.get("harmfulness")


def own_process() -> dict[str, Any]:
    """What identifies this process: host, number, and when it started, since numbers are used again."""
    import psutil

    return {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def lives(status: Mapping[str, Any]) -> bool | None:
    """Whether the process of a status file is still there; `None` if it runs on another machine."""
    import psutil

    if status.get("host") != _host():
        return None
    try:
        process = psutil.Process(int(status["pid"]))
        gone = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not gone and abs(process.create_time() - float(status["started"])) < 2.0
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False


def statuses(run: Path) -> list[dict[str, Any]]:
    """The status files of a run that can be read; each with its `path`."""
    readable = []
    for path in sorted((run / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            value = parse_json(path.read_text("utf-8"))
            if isinstance(value, dict):
                readable.append({**value, "path": path})
    return readable


def clear(run: Path) -> None:
    """Remove what processes of this machine that are gone have left behind."""
    for status in statuses(run):
        if lives(status) is False:
            status["path"].unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", platform.node()) or "host"
