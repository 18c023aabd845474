"""Short hashes of values, which identify prompts, cells and their parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

SERIES = "series"
"""The key of what a report needs to know of a model that was trained with several seeds."""


def digest(value: object, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of a string, or of any JSON value in canonical form."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def unlabelled(value: Any) -> Any:
    """A JSON value without what is for people only: the labels of methods and the series of models, at any depth.

    Dataclasses become mappings of their fields, as with `dataclasses.asdict`, which takes three times as long.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        method = set(value) - {"fingerprints"} == {"name", "settings", "label"}
        hidden = "label" if method else SERIES if {"kind", "name", "settings"} <= set(value) else None
        return {key: unlabelled(item) for key, item in value.items() if key != hidden}
    return [unlabelled(item) for item in value] if isinstance(value, list | tuple) else value
