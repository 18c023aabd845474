"""Read a record from its text, strictly: a damaged or crafted one is refused before anything is concluded from it."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from holdfast.experiment.cell_settings import settings_of
from holdfast.files import parse_json
from holdfast.records import HoldfastError, Record
from holdfast.records.plausible import refuse_impossible

_SURROGATE = re.compile(r"\\(?:(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)")
"""An unpaired surrogate, which Python's JSON accepts and others do not, or any other escape."""


def parse_record(text: str) -> Record:
    """A record from its file's text.

    Raises:
        ValueError: a value is missing, of another type, not finite or impossible, or settings are nested too deeply.
    """
    value = parse_json(text, parse_constant=_refuse, parse_int=bounded_integer, parse_float=_finite)
    _refuse_depth(value)
    try:
        checker().validate_json(_SURROGATE.sub(lambda match: "?" if match[1] else match[0], text), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from None
    record = Record.from_json(value)
    refuse_impossible(record)
    try:
        _ = settings_of(record.cell).evaluation, settings_of(record.cell).data
    except HoldfastError as error:
        raise ValueError(f"cell.{error}") from None
    return record


@functools.cache
def checker() -> TypeAdapter[Record]:
    """The check of a record's types, which takes a twentieth of a second to make."""
    return TypeAdapter(Record)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:9]}... is too large")
    return number


def bounded_integer(digits: str) -> int:
    """An integer of a JSON text, which any reader holds; `parse_int` of `parse_json`.

    Raises:
        ValueError: it has more than 19 characters.
    """
    if len(digits) > 19:
        raise ValueError(f"the number {digits[:9]}... is too large")
    return int(digits)


def _refuse_depth(value: Any) -> None:
    """Refuse deep nesting, since settings are processed recursively."""
    level = [value]
    for _ in range(100):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
