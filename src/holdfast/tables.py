"""Tables of methods: a name, where it lives, what it is. Reading a table imports none of what it lists.

Outside packages add rows through an entry-point group (`holdfast.attacks`, `holdfast.defenses.online`,
`holdfast.defenses.offline`, `holdfast.judges`), each entry naming a settings class.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from holdfast.records import HoldfastError


class Row(NamedTuple):
    """`target` is `module:Class`, a frozen dataclass of settings; `summary` one line for people.

    `unit` is what the curve of an attack runs over: optimizer steps, or something else by its sign.
    """

    target: str
    summary: str
    unit: str = "step"


def rows(table: Mapping[str, Row], group: str) -> dict[str, Row]:
    """The table with the rows that installed packages add to it; a built-in name cannot be taken over."""
    return {**added(group), **table}


@cache
def added(group: str) -> dict[str, Row]:
    """The rows that installed packages add to a group; looked for once, since every package is asked."""
    return {
        point.name: Row(point.value, f"from {point.dist and point.dist.name}") for point in entry_points(group=group)
    }


def find(table: Mapping[str, Row], group: str, name: str) -> Any:
    """The settings class called `name`.

    Raises:
        HoldfastError: there is no such row; names the nearest ones.
    """
    known = rows(table, group)
    if name not in known:
        kind = group.rpartition("holdfast.")[2].split(".")[0].rstrip("s")
        raise HoldfastError(f"unknown {kind} {name!r}{near(name, known)}; known: {', '.join(sorted(known))}")
    module, _, attribute = known[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def near(name: str, known: Iterable[str], better: Iterable[str] = ()) -> str:
    """` (did you mean ...?)` where something like `name` is known, else nothing.

    In brackets, so that a sentence may go on behind it. What is `better` known goes before what is only alike.
    """
    close = list(better) or difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def judge_names(settings: Mapping[str, Any]) -> list[str]:
    """Names of judges in settings: the values of keys called `judge`, or ending in `_judge` or `_judges`."""
    return [name for _, name in judge_keys(settings)]


def judge_keys(settings: Mapping[str, Any], where: str = "") -> list[tuple[str, str]]:
    """The names of judges in settings, each with its dotted key below `where`."""
    found: list[tuple[str, str]] = []
    for key, value in settings.items():
        place = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            found += judge_keys(value, place)
        elif isinstance(value, str) and (key == "judge" or key.endswith("_judge")):
            found.append((place, value))
        elif isinstance(value, list | tuple) and key.endswith("_judges"):
            found += [(place, name) for name in value]
    return found
