"""What the cells of a run folder came to, at a glance: a line for each, without reading every record again.

In a folder of many cells the lines are kept in a Parquet file beside them. The records are what counts: a line is read
anew from a record that has changed, and the file may be deleted. It is never evidence, only quick to read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from holdfast import files
from holdfast.experiment.outcomes import defended
from holdfast.experiment.store import one_line
from holdfast.records import Cell, HoldfastError, Outcome

FILE = "cells.parquet"
KEPT_FROM = 200
"""The number of cells from which on the lines are kept in a file."""
UNREADABLE = "unreadable"
"""The outcome of a cell whose record cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A cell at a glance: names, outcome with its reason, when it ended (UTC, as in the record), and of its record the
    size in bytes and the time of its last change in nanoseconds. `broke_at` is in the attack's own unit."""

    key: str
    model: str = ""
    defense: str = ""
    attack: str = ""
    model_seed: int | None = None
    seed: int = 0
    control: bool = False
    outcome: str = UNREADABLE
    reason: str = ""
    broke_at: int | None = None
    finished: str = ""
    size: int = 0
    changed: int = 0


def lines(run: Path) -> list[Line]:
    """A line for each finished cell of a run, in the order of their keys.

    Raises:
        HoldfastError: `run` is not a folder of a run.
    """
    if not is_run(run):
        raise HoldfastError(f"{run}: is no folder of a run; `holdfast run` makes one, with a folder `cells`")
    found = dict(_records(run / "cells"))
    known = _kept(run / FILE)
    fresh = [key for key, seen in found.items() if key not in known or (known[key].size, known[key].changed) != seen]
    read = {key: _line(run, key, *found[key]) for key in fresh}
    ordered = [read.get(key) or known[key] for key in sorted(found)]
    if len(found) >= KEPT_FROM and (fresh or len(known) != len(found)):
        with contextlib.suppress(OSError):  # a folder that only others may write is read each time
            _keep(run / FILE, ordered)
    return ordered


def is_run(folder: Path) -> bool:
    """Whether a folder has cells of a run."""
    return (folder / "cells").is_dir()


def _records(cells: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The finished cells of a folder by key, with size and time of their records."""
    with os.scandir(cells) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                stat = os.stat(os.path.join(entry.path, "record.json"))
                yield entry.name, (stat.st_size, stat.st_mtime_ns)


def _line(run: Path, key: str, size: int, changed: int) -> Line:
    path = run / "cells" / key / "record.json"
    try:
        value = files.parse_json(path.read_text(encoding="utf-8"))
        return _of(value, size=size, changed=changed)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Line(key=key, reason=one_line(error), size=size, changed=changed)


def _of(value: Mapping[str, Any], *, size: int, changed: int) -> Line:
    cell, time = Cell.from_json(value["cell"]), value.get("time_to_break")
    return Line(
        key=str(value["key"]),
        model=str(cell.model_alike[0]),
        defense=cell.defense,
        attack=cell.attacker or "none",
        model_seed=cell.model_seed,
        seed=cell.seed,
        control=cell.attack is not None and not defended(cell),
        outcome=str(Outcome(value["outcome"])),
        reason=str(value.get("reason", "")),
        broke_at=int(time["steps"]) if time and not time["censored"] else None,
        finished=str(value.get("finished") or ""),
        size=size,
        changed=changed,
    )


def _kept(path: Path) -> dict[str, Line]:
    """The lines of the file; none if there is no such file, or if another version or something else wrote it."""
    if not path.exists():
        return {}
    import pyarrow.parquet

    names = [each.name for each in fields(Line)]
    try:
        table = pyarrow.parquet.read_table(path)
        if table.column_names != names:
            return {}
        return {row["key"]: Line(**row) for row in table.to_pylist()}
    except (OSError, ValueError, TypeError, pyarrow.ArrowException):
        return {}


def _keep(path: Path, ordered: Sequence[Line]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([asdict(line) for line in ordered])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    files.write(path, sink.getvalue().to_pybytes())
