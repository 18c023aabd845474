"""Data: one small reader per schema, all giving `Example`s; splits, mixtures and flips.

`FORMATS` is the table of schemas. A reader is a function from one `RawRow` to its examples; a new one needs a file here
and a row in the table, or an entry point of another package in the group `holdfast.formats`. `holdfast.data.read.read`
reads a `Source`.
"""

from typing import Any

from holdfast.data.columns import Source
from holdfast.data.mixing import harmful_side, pair_refusals
from holdfast.data.raw_rows import RawRow, Schema
from holdfast.methods.tables import Row, Table
from holdfast.records import HoldfastError


def _check(value: Any, where: str) -> None:
    if not isinstance(value, Schema):
        raise HoldfastError(f"{where}: not a `holdfast.data.Schema`; write `SCHEMA = Schema(examples, (column, ...))`")
    if not callable(value.read):
        raise HoldfastError(f"{where}: its `read` is {value.read!r:.60}; give a function from a row to its examples")
    columns = value.columns
    if not isinstance(columns, tuple | list) or not all(isinstance(name, str) for name in columns):
        raise HoldfastError(f"{where}: its `columns` are {columns!r:.60}; give a tuple of names, such as ('prompt',)")


FORMATS = Table(
    "format",
    "holdfast.formats",
    {
        "columns": Row("holdfast.data.columns:SCHEMA", ""),
        "beavertails": Row("holdfast.data.beavertails:SCHEMA", ""),
        "pku_safe_rlhf": Row("holdfast.data.pku_safe_rlhf:SCHEMA", ""),
        "anthropic_hh": Row("holdfast.data.anthropic_hh:SCHEMA", ""),
        "multiple_choice": Row("holdfast.data.multiple_choice:SCHEMA", ""),
        "trl_preference": Row("holdfast.data.trl:PREFERENCE", ""),
        "trl_prompt_completion": Row("holdfast.data.trl:PROMPT_COMPLETION", ""),
    },
    _check,
)
"""The first line of a reader's docstring says which columns the schema has."""

__all__ = ["FORMATS", "RawRow", "Schema", "Source", "harmful_side", "pair_refusals"]
