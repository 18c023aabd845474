"""The files of a run. Records, configurations and completions are written atomically, and a record is written last.

RUN/grid.json                      name and description of the grid that ran last, and the keys of its cells
RUN/cells/KEY/record.json          the cell, its outcome and curve: if it exists, the cell is finished
RUN/cells/KEY/config.yaml          the resolved cell, for people
RUN/cells/KEY/curves.jsonl         training metrics, one line per step
RUN/cells/KEY/completions.parquet  sampled answers and their scores
RUN/cells/KEY/log.txt              what the cell's process printed
RUN/stages/KEY/model/              a hardened model, shared by all cells that need it
RUN/stages/KEY/record.json         its method, settings and cost
RUN/judges/KEY/model/              a judge that the run trained, with its card, shared by all cells that need it
RUN/judges/KEY/record.json         its settings, scores and cost
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.experiment.record_text import parse_record
from holdfast.files import parse_json, require_file, sha256, sync_all, write, write_text
from holdfast.records import HoldfastError, Outcome, Record

_log = logging.getLogger("holdfast")

if TYPE_CHECKING:
    from holdfast.network.models import Model
    from holdfast.network.precision import Dtype


def read_json(path: Path) -> Any:
    """Read a JSON value.

    Raises:
        HoldfastError: the file is not JSON; says what to do.
    """
    require_file(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HoldfastError(f"{path}: cannot be read ({error}); delete it and run again") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        HoldfastError: as `read_json`, or it is another JSON value.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise HoldfastError(f"{path}: is not a JSON object; delete it and run again")
    return value


def set_aside(path: Path, trouble: object) -> None:
    """Rename a damaged file or folder, so that it can be inspected, and log a warning."""
    aside = path.with_name(f".damaged-{path.name}")
    there = os.path.lexists(path)  # another run may have set it aside already, and what it keeps is not lost
    if there and aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    _log.warning("%s: is damaged (%s); renamed to %s and made again", path, one_line(trouble), aside.name)


def one_line(trouble: object) -> str:
    """A message of limited length without line breaks."""
    return " ".join(str(trouble).split())[:300]


def files_in(folder: Path) -> dict[str, list[Any]]:
    """Size and hash of every file in a folder, by its relative path; all of them are synced to disk."""
    sync_all(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path)] for path in paths}


def damage(folder: Path) -> str | None:
    """The damage of a saved model, by the list of files in its record; `None` if it is intact."""
    files = read_object(folder / "record.json").get("files", {})
    if not isinstance(files, dict):
        return "record.json has no list of the model's files"
    for name, written in files.items():
        path = folder / "model" / name
        try:
            same = path.is_file() and [path.stat().st_size, sha256(path)] == written
        except OSError:
            same = False
        if not same:
            return f"model/{name} is not what was written"
    return None


def discard(folder: Path) -> None:
    """Remove a folder so that an interruption leaves nothing under its name."""
    doomed = folder.with_name(f".{folder.name}-discarded")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def cell_folder(run: Path, key: str) -> Path:
    """The folder of a cell."""
    return run / "cells" / key


def stage_folder(run: Path, key: str) -> Path:
    """The folder of a hardened model."""
    return run / "stages" / key


def judge_folder(run: Path, key: str) -> Path:
    """The folder of a trained judge."""
    return run / "judges" / key


def finished(folder: Path) -> bool:
    """Whether a folder's result is finished; failed ones are tried again, and a copy of another's is none."""
    path = folder / "record.json"
    if not path.exists():
        return False
    record = read_object(path)
    return record.get("outcome") != Outcome.FAILED and record.get("key", folder.name) == folder.name


def read_record(folder: Path) -> Record:
    """The record in a cell's folder.

    Raises:
        HoldfastError: it cannot be read, is no record, has impossible numbers (`plausible`), or is another cell's.
    """
    path = folder / "record.json"
    require_file(path)
    try:
        record = parse_record(path.read_text(encoding="utf-8"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HoldfastError(f"{path}: not a record of this version ({error}); delete it and run again") from error
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be read ({error}); delete it and run again") from error
    if record.key != folder.name:
        raise HoldfastError(f"{path}: is the record of another cell, {record.key}; delete it and run again")
    return record


def write_completions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write completions, one row per completion and judge, as Parquet; with the whole answers if judged at two
    lengths."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [
        ("step", pa.int64()),
        ("role", pa.string()),
        ("domain", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("num_tokens", pa.int64()),
        ("finished", pa.bool_()),
        ("judge", pa.string()),
        ("score", pa.float64()),
        ("valid", pa.bool_()),
        ("refused", pa.bool_()),
        ("reason", pa.string()),
    ]
    if any("flips" in row for row in rows):
        columns += [("longer", pa.string()), ("longer_tokens", pa.int64()), ("longer_score", pa.float64())]
        columns.append(("flips", pa.bool_()))
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(columns)), sink)
    write(path, sink.getvalue())


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line of JSON to a curve; numbers that are not finite become null.

    Raises:
        HoldfastError: it cannot be written.
    """
    clean = {key: item if math.isfinite(item) else None for key, item in value.items()}
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(clean) + "\n")
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve, without one cut short by a crash; none if there is no file."""
    return [parse_json(line) for line in _lines(path) if _step(line) is not None]


def save_model(model: Model, folder: Path, *, dtype: Dtype = "auto") -> None:
    """Write a model into `folder/model`; an earlier one is removed first. See `releasing.save`.

    A crash leaves a part of it: what makes it count is `folder/record.json`, which is written after it.

    Raises:
        HoldfastError: it cannot be written, or as `releasing.save`.
    """
    from holdfast.network.releasing import save

    discard(folder / "model")
    try:
        save(model, folder / "model", dtype=dtype)
    except OSError as error:
        raise HoldfastError(f"{folder}: the model cannot be saved: {error.strerror or error}") from error


def keep_lines(path: Path, up_to: int) -> None:
    """Drop the lines of a curve after a step, and one cut short by a crash, before a run is resumed."""
    lines = [line for line in _lines(path) if (step := _step(line)) is not None and step <= up_to]
    write_text(path, "".join(f"{line}\n" for line in lines))


def damaged_lines(path: Path) -> int:
    """The number of damaged lines of a curve, without the last one, which a killed run may leave incomplete."""
    return sum(_step(line) is None for line in _lines(path)[:-1])


def _step(line: str) -> int | None:
    """The step of a line of a curve; `None` if it is not such a line."""
    try:
        value = parse_json(line)
    except ValueError:
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
