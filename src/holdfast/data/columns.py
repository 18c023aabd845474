"""The source of rows, and the simplest schema: columns that are an `Example`'s own fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from holdfast.data.near_columns import misspelt, remedy
from holdfast.data.raw_rows import RawRow, Schema
from holdfast.methods.ranges import Count, Place, ranged
from holdfast.records import Example, HoldfastError, Role

ANSWERS = ("response", "refusal", "chosen", "rejected")
FIELDS = ("prompt", *ANSWERS, "role", "domain", "pair")
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True)
@ranged
class Source:
    """The source of rows and how to read them.

    `path` is a file (.jsonl, .json, .csv, .parquet), a folder (saved by `datasets`, or the files of a data repository),
    or a Hub id; `split`, `revision` and `name` (the Hub's config) apply to what `datasets` loads. `format` is a key of
    `holdfast.data.FORMATS`. `columns` maps the names that the format expects (its `Schema.columns`) to the file's own,
    e.g. `{prompt: question}`. `limit` reads only the first rows. `role` sets every row's role; in a preference with
    role `harmful` the rejected answer is the harmful one, and the chosen one the refusal. `refusal` is given to harmful
    rows that have none. Raises `HoldfastError` for a blank `path` or `refusal`, a `limit` below 1, an unknown `role`.
    """

    path: Place
    format: str = "columns"
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    revision: str | None = None
    name: str | None = None
    limit: Count | None = None
    role: str | None = None
    refusal: str | None = None

    def __post_init__(self) -> None:
        if self.role is not None and self.role not in ROLES:
            raise HoldfastError(f"role: must be one of {', '.join(ROLES)}, not {self.role!r}")
        if self.refusal is not None and not self.refusal.strip():
            raise HoldfastError("refusal: is empty; write the text of a refusal, or remove it")


def examples(row: RawRow) -> list[Example]:
    """Columns `prompt`, `response`, `refusal`, `chosen`, `rejected`, `role`, `domain`, `pair`, or those named for them.

    `columns` maps these names to the file's own. `prompt` (text, or a chat) is required; the others (`response`,
    `refusal`, `chosen`, `rejected`, `role`, `domain`, `pair`) may be absent unless the map names them, and may be null;
    if one is absent and a misspelling of it is there, the row is refused. `pair`, text or a whole number, is the same
    in a restricted prompt and its harmless twin (`data.pairs`). Raises `HoldfastError`.
    """
    prompt = row.prompt()
    _refuse_misspelt(row)
    answers: dict[str, Any] = {name: row.answer(name, prompt) for name in ANSWERS if _given(row, name)}
    role = row.text("role") if _given(row, "role") else "benign"
    if role not in ROLES:
        raise row.error(f"expected one of {', '.join(ROLES)}, found {role!r}", "role")
    domain = row.text("domain") if _given(row, "domain") else ""
    return [Example(prompt=prompt, **answers, role=cast(Role, role), domain=domain, source=row.place, pair=_pair(row))]


def _refuse_misspelt(row: RawRow) -> None:
    """Refuse a column such as `Response` where `response` is missing: its answers would silently not be used."""
    taken = {*FIELDS, *row.columns.values()}
    for name in (*ANSWERS, "role"):
        if name in row.columns or name in row.cells:
            continue
        own = misspelt(name, [column for column in row.cells if column not in taken])
        if own is not None:
            raise HoldfastError(
                f"{row.place}: no column {name!r}; {remedy(name, [own])}, or rename {own!r} if it is something else"
            )


def _pair(row: RawRow) -> str:
    """The name of the row's matched pair; a column of this name may also be something else's, and is then ignored."""
    value = row.cell("pair") if _given(row, "pair") else None
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return row.text("pair") if "pair" in row.columns and value is not None else ""


def _given(row: RawRow, name: str) -> bool:
    return (name in row.columns and row.cell(name) is not None) or row.has(name)


SCHEMA = Schema(examples, FIELDS)
