"""What a run's own files say: which cells ended and how, what runs now, what is to do, and whether anybody works."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from holdfast.experiment import status
from holdfast.files import parse_json
from holdfast.records import Outcome, Record, evaluation_from_json

_log = logging.getLogger("holdfast")

Phase = Literal["absent", "waiting", "checking", "running", "stopped", "finished"]
"""No folder yet; no run in it; requirements are checked; cells run; cells are open and nobody works; all ended."""
State = Literal["ended", "failed", "running", "open"]

MOST = 1e15
"""No time, and no number of seconds, is as large as this."""
SILENT = 60.0
"""Seconds without a sign after which a process on another machine counts as gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A cell, or a model or judge that is being made.

    `outcome` and `reason` are those of its record, given its control's. `harms` are the mean harm of its evaluations so
    far, in order. `since` is when it was begun (seconds since the epoch), `pace` the mean seconds of its steps.
    """

    key: str
    name: str
    state: State
    outcome: str = ""
    reason: str = ""
    harms: tuple[float, ...] = ()
    step: int | None = None
    max_steps: int | None = None
    since: float | None = None
    pace: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far some runs are.

    `cells` come in the order of their grids, `making` are the models and judges that are being made. `began` is when
    the oldest process began, `last` when anything was written last if no process works, `ended` why the last process
    ended if it said so, all times in seconds since the epoch; `seconds_left` is `None` where nothing can be said, and a
    lower bound if `at_least`. `stamp` changes with every record. `trouble` lists what cannot be read.
    """

    runs: tuple[Path, ...]
    grids: tuple[str, ...]
    phase: Phase
    cells: tuple[Piece, ...] = ()
    making: tuple[Piece, ...] = ()
    began: float | None = None
    last: float | None = None
    ended: str = ""
    seconds_left: float | None = None
    at_least: bool = False
    notes: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    stamp: tuple[Any, ...] = ()
    now: float = 0.0

    def having(self, *states: State) -> list[Piece]:
        """The cells in one of these states."""
        return [cell for cell in self.cells if cell.state in states]

    @property
    def over(self) -> bool:
        """Whether all work is over."""
        return self.phase == "finished"


class _Run(NamedTuple):
    """What the files of one run say."""

    folder: Path
    grid: str
    phase: Phase
    keys: tuple[str, ...]
    statuses: tuple[Mapping[str, Any], ...]
    alive: tuple[Mapping[str, Any], ...]
    trouble: tuple[str, ...]


class _Known(NamedTuple):
    """What the records say, the state of whose files is `stamp`."""

    stamp: tuple[tuple[str, Any], ...]
    records: Mapping[str, Record]
    names: Mapping[str, str]
    trouble: tuple[str, ...]


@dataclass(kw_only=True)
class Reader:
    """Reads runs again and again; a file that has not changed is not read again. It never raises for what it reads.

    It is a class because what was read outlives a call.
    """

    runs: Sequence[Path]
    _records: dict[Path, tuple[Any, Record | str]] = field(default_factory=dict)
    _harms: dict[Path, tuple[Any, float | None]] = field(default_factory=dict)
    _known: _Known | None = None

    def read(self) -> Progress:
        """How far the runs are now."""
        now = time.time()
        states = [_read_run(Path(run), now) for run in self.runs]
        stamp, records, names, trouble = self._settled(states)
        runs = [run._replace(phase=_phase(run, records)) for run in states]
        alive = [one for run in runs for one in run.alive]
        lefts = [max(left - (now - _time(one, "updated")), 0.0) for one in alive if (left := _left(one)) is not None]
        return Progress(
            runs=tuple(run.folder for run in runs),
            grids=tuple(run.grid for run in runs),
            phase=_of_all([run.phase for run in runs]),
            cells=tuple({cell.key: cell for run in runs for cell in self._cells(run, records, names)}.values()),
            making=tuple(piece for one in alive for piece in _running(one) if piece.key not in _names(one)),
            began=min((began for one in alive if (began := _time(one, "began"))), default=None),
            last=None if alive else max((last for run in runs if (last := _last(run)) is not None), default=None),
            ended=next((str(one["ended"]) for run in runs for one in run.statuses if one.get("ended")), ""),
            seconds_left=max(lefts, default=None),
            at_least=any(bool(one.get("at_least")) for one in alive),
            notes=tuple(str(note) for one in alive for note in _listed(one, "notes")),
            trouble=(*(line for run in runs for line in run.trouble), *trouble),
            stamp=stamp,
            now=now,
        )

    def _settled(self, runs: Sequence[_Run]) -> _Known:
        """What the records say, with outcomes given their controls; as before if no file has changed."""
        read, trouble, stamps = dict[str, tuple[Path, Record]](), list[str](), list[tuple[str, Any]]()
        for run in runs:
            for key in run.keys:
                path = run.folder / "cells" / key / "record.json"
                stamp, value = self._record(path)
                if isinstance(value, Record):
                    read.setdefault(key, (path, value))
                elif value:
                    trouble.append(value)
                stamps.append((str(path), stamp))
        if self._known is None or self._known.stamp != tuple(stamps):
            records, names, odd = _outcomes(dict(read.values()))
            self._known = _Known(tuple(stamps), records, names, (*trouble, *odd))
        return self._known

    def _record(self, path: Path) -> tuple[Any, Record | str]:
        """A record or why it cannot be read, empty if there is none; with the state of its file."""
        from holdfast.experiment.record_text import parse_record

        stamp = _stamp(path)
        if stamp is None:
            return None, ""
        known = self._records.get(path)
        if known is None or known[0] != stamp:
            try:
                known = stamp, parse_record(path.read_text("utf-8"))
            except FileNotFoundError:
                return None, ""
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                known = stamp, f"{path}: cannot be read ({' '.join(str(error).split())[:120]})"
            self._records[path] = known
        return known

    def _cells(self, run: _Run, records: Mapping[str, Record], known: Mapping[str, str]) -> Iterator[Piece]:
        names = {**known, **{key: name for one in run.statuses for key, name in _names(one).items()}}
        running = {piece.key: piece for one in run.alive for piece in _running(one)}
        to_do = {key for one in run.alive for key in _listed(one, "to_do")}
        for key in run.keys:
            record, name = records.get(key), names.get(key, key[:12])
            folder = run.folder / "cells" / key
            if key in running:
                yield replace(running[key], name=name, harms=self._harm_so_far(folder))
            elif record is None or (record.outcome is Outcome.FAILED and key in to_do):
                harms = self._harm_so_far(folder) if record is None else ()
                yield Piece(key=key, name=name, state="open", harms=harms)
            else:
                harms = tuple(v for e in record.evaluations if (v := e.value("harmfulness")) is not None)
                state: State = "failed" if record.outcome is Outcome.FAILED else "ended"
                outcome, reason = str(record.outcome), record.reason
                yield Piece(key=key, name=name, state=state, outcome=outcome, reason=reason, harms=harms)

    def _harm_so_far(self, folder: Path) -> tuple[float, ...]:
        """Mean harm of each evaluation that an unfinished cell has saved."""
        names = [folder / "evaluations" / "before.json"]
        with contextlib.suppress(OSError):  # a damaged list of cells may have names that no folder can have
            names += sorted((folder / "evaluations").glob("step-*.json"))
        return tuple(harm for path in names if (harm := self._harm(path)) is not None)

    def _harm(self, path: Path) -> float | None:
        stamp = _stamp(path)
        if stamp is None:
            return None
        if path not in self._harms or self._harms[path][0] != stamp:
            harm = None
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                saved = parse_json(path.read_text("utf-8"))["evaluation"]
                harm = _number(evaluation_from_json(saved).value("harmfulness"))
            self._harms[path] = (stamp, harm)
        return self._harms[path][1]


def _outcomes(read: Mapping[Path, Record]) -> tuple[dict[str, Record], dict[str, str], tuple[str, ...]]:
    """Records by key, with outcomes given their controls; their names; and those left out for odd values, in words."""
    from holdfast.report.read import ODD

    try:
        return *_named(list(read.values())), ()
    except ODD as error:
        _log.debug("outcomes cannot be computed", exc_info=True)
        why = f"cannot be computed ({error!r:.120})"
    odd = []
    for path, record in read.items():
        try:
            _named([record])
        except ODD:
            odd.append(path)
    if not odd:
        return {}, {}, (f"outcomes of {len(read)} cells: {why}",)
    records, names, more = _outcomes({path: record for path, record in read.items() if path not in odd})
    return records, names, (*(f"{path}: {why}" for path in odd), *more)


def _named(read: Sequence[Record]) -> tuple[dict[str, Record], dict[str, str]]:
    """Records with outcomes given their controls, and the names of their cells, by key."""
    from holdfast.experiment.outcomes import settled_by_controls
    from holdfast.report.summarise.labels import names_of

    records = {record.key: record for record in settled_by_controls(read)}
    return records, names_of([record.cell for record in records.values()])


def _read_run(run: Path, now: float) -> _Run:
    try:
        there = run.is_dir()
    except OSError:
        there = False
    if not there:
        return _Run(run, run.name, "absent", (), (), (), ())
    trouble, grid = [], {}
    path = run / "grid.json"
    try:
        grid = _object(parse_json(path.read_text("utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        trouble.append(f"{path}: cannot be read ({error})")
    statuses = tuple(status.statuses(run))
    alive = tuple(one for one in statuses if _alive(one, now))
    folders = sorted(path.name for path in _folders(run / "cells"))
    keys = dict.fromkeys([*_listed(grid, "cells"), *folders])
    return _Run(
        run, str(grid.get("name") or run.resolve().name), "waiting", tuple(keys), statuses, alive, tuple(trouble)
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _folders(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _phase(run: _Run, records: Mapping[str, Record]) -> Phase:
    if run.phase == "absent" or (not run.keys and not run.alive):
        return run.phase
    if run.alive:
        return "checking" if all(one.get("checking") for one in run.alive) else "running"
    return "finished" if all(key in records for key in run.keys) else "stopped"


def _of_all(phases: Sequence[Phase]) -> Phase:
    """The phase of several runs: that of the one with most to tell, and finished only if all are."""
    order: tuple[Phase, ...] = ("running", "checking", "stopped", "waiting", "absent", "finished")
    return next(phase for phase in order if phase in phases)


def _alive(one: Mapping[str, Any], now: float) -> bool:
    """Whether the process of a status file still works on the run."""
    if one.get("ended"):
        return False
    lives = status.lives(one)
    return now - _time(one, "updated") < SILENT if lives is None else lives


def _last(run: _Run) -> float | None:
    """When anything of a run was written last."""
    if run.phase == "absent":
        return None  # its name may be one that no folder can have
    places = [run.folder / "grid.json", *(run.folder / "cells").glob("*/*"), *(one["path"] for one in run.statuses)]
    times = [stamp[0] / 1e9 for path in places if path.name != ".lock" and (stamp := _stamp(path)) is not None]
    return max(times, default=None)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written; `None` if there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def _running(one: Mapping[str, Any]) -> Iterator[Piece]:
    """The pieces of work that a process says are running."""
    running = one.get("running")
    for key, about in running.items() if isinstance(running, Mapping) else ():
        if isinstance(about, Mapping):
            step, first = about.get("step"), about.get("first_step")
            pace = None
            if isinstance(step, int) and isinstance(first, int) and step > first:
                pace = (_time(about, "at") - _time(about, "first_at")) / (step - first)
            yield Piece(
                key=str(key),
                name=str(about.get("title", key)),
                state="running",
                step=step if isinstance(step, int) else None,
                max_steps=about["max_steps"] if isinstance(about.get("max_steps"), int) else None,
                since=_time(about, "started") or None,
                pace=pace,
            )


def _names(one: Mapping[str, Any]) -> dict[str, str]:
    names = one.get("names")
    return {str(key): str(name) for key, name in names.items()} if isinstance(names, Mapping) else {}


def _listed(values: Mapping[str, Any], name: str) -> list[str]:
    listed = values.get(name)
    return list(map(str, listed)) if isinstance(listed, list) else []


def _time(values: Mapping[str, Any], name: str) -> float:
    return _number(values.get(name)) or 0.0


def _left(one: Mapping[str, Any]) -> float | None:
    return _number(one.get("seconds_left"))


def _number(value: Any) -> float | None:
    """A finite number; `None` for anything else that a damaged file may have in its place."""
    return float(value) if isinstance(value, int | float) and abs(value) < MOST else None
