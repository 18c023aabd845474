"""The records of data files with their places: JSON lines, JSON lists, CSV and Parquet.

Every error message is one line that names the file and the record. Places count from 1, see
`holdfast.data.read`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from holdfast.data.raw_rows import json_at, json_value
from holdfast.records import HoldfastError

Places = Iterator[tuple[str, object]]


def from_lines(name: str, path: Path) -> Places:
    """One record per line; blank lines are counted but skipped."""
    for number, line in enumerate(_text(name, path).split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield f"line {number}", _parsed(where, name, partial(json_value, line), line=number)


def from_list(name: str, path: Path) -> Places:
    """The records of a JSON list one by one, so that an error names the record's number.

    Raises:
        HoldfastError: it is not UTF-8, or broken; names the record or line.
    """
    text = _text(name, path)
    at, number = _past_space(text, text.index("[") + 1), 0
    more = text[at : at + 1] != "]"
    while more:
        number += 1
        value, at = _parsed(f"{name}, row {number}", name, partial(json_at, text, at))
        yield f"row {number}", value
        at = _past_space(text, at)
        more = text[at : at + 1] == ","
        if not more and text[at : at + 1] != "]":
            raise _broken(name, json.JSONDecodeError("Expecting ',' delimiter", text, at))
        at = _past_space(text, at + 1) if more else at
    if text[at + 1 :].strip():
        raise _broken(name, json.JSONDecodeError("Extra data", text, at + 1))


def _past_space(text: str, start: int) -> int:
    return next((i for i in range(start, len(text)) if text[i] not in " \t\n\r"), len(text))


def from_csv(name: str, path: Path) -> Places:
    """One record per row after the header; an empty cell is `None`.

    Raises:
        HoldfastError: it is not UTF-8, or broken, two columns have one name, or a row has another number of cells.
    """
    lines = csv.reader(StringIO(_text(name, path), newline=""), strict=True)
    header: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(lines, start=1):
            if not header:
                header = _header(name, cells)
            elif cells:
                if len(cells) != len(header):
                    raise HoldfastError(f"{name}, row {number}: {len(cells)} cells, but the header has {len(header)}")
                yield f"row {number}", {key: cell or None for key, cell in zip(header, cells, strict=True)}
    except csv.Error as problem:
        raise HoldfastError(f"{name}, row {number + 1}: broken CSV ({problem}); JSON lines avoid this") from problem


def _header(name: str, cells: list[str]) -> list[str]:
    twice = next((cell for cell in cells if cells.count(cell) > 1), None)
    if twice is not None:
        raise HoldfastError(f"{name}, row 1: two columns are called {twice!r}; rename one")
    return cells


def from_parquet(name: str, path: Path) -> Places:
    """One record per row.

    Raises:
        HoldfastError: it cannot be read, two columns have one name, or a text is not UTF-8.
    """
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        refuse_duplicate_columns(name, file.schema_arrow)
        yield from numbered(decoded(name, (row for batch in file.iter_batches() for row in _rows_of(batch))))
    except (pyarrow.ArrowException, OSError) as problem:
        raise HoldfastError(f"{name}: not a readable Parquet file ({first_line(problem)})") from problem


def refuse_duplicate_columns(name: str, schema: Any) -> None:
    """Refuse two columns, or two fields of one column, with the same name: a row would keep only the last one."""
    left = [list(schema)]
    while left:
        fields = left.pop()
        names = [field.name for field in fields]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise HoldfastError(f"{name}: two columns are called {twice!r}; rename one")
        left += [[field.type.field(i) for i in range(field.type.num_fields)] for field in fields]


def _rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """A batch's rows as plain values; one by one if a text in it is not UTF-8, so that its row is known."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            yield from batch.slice(i, 1).to_pylist()


def decoded(name: str, rows: Iterator[Any]) -> Iterator[Any]:
    """Rows, with an error that has the number of the first row with a text that is not UTF-8."""
    for number in count(1):
        try:
            yield next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError as problem:
            raise HoldfastError(f"{name}, row {number}: a text is not UTF-8; save it as UTF-8") from problem


def numbered(rows: Iterable[object]) -> Places:
    """Rows with their numbers, from 1."""
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _text(name: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise HoldfastError(
            f"{name}, line {line}: not UTF-8 text (byte {problem.start + 1} of the file); save it as UTF-8"
        ) from problem
    except OSError as problem:
        raise HoldfastError(f"{name}: cannot be read ({first_line(problem)})") from problem


def begins_a_list(name: str, path: Path) -> bool:
    """Whether a JSON file is one list; otherwise it has one record per line."""
    return _text(name, path).lstrip()[:1] == "["


def _parsed(where: str, name: str, read: Callable[[], Any], *, line: int | None = None) -> Any:
    """The result of `read`, with its JSON errors worded; `where` names the record, `line` its number in JSON lines."""
    try:
        return read()
    except json.JSONDecodeError as problem:
        raise _broken(name, problem, line) from problem
    except ValueError as problem:
        raise HoldfastError(f"{where}: {problem}") from problem


def _broken(name: str, problem: json.JSONDecodeError, line: int | None = None) -> HoldfastError:
    where = f"line {line or problem.lineno}"
    return HoldfastError(f"{name}, {where}: broken JSON ({problem.msg}, character {problem.colno})")


def first_line(problem: Exception) -> str:
    """Type and first line of a library's error."""
    return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem).strip() else ''}"
