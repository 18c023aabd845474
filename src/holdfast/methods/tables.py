"""Tables of methods: a name, where it lives, what it is. Reading a table imports none of what it lists.

Outside packages add rows through an entry-point group (`holdfast.attacks`, `holdfast.defenses.online`,
`holdfast.defenses.offline`, `holdfast.judges`), each entry naming a settings class.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Table(Mapping[str, Row]):
    """The methods of a kind by name: the built-in ones, and behind them those that installed packages add.

    `kind` says in errors what they are, `group` is the entry-point group; a built-in name cannot be taken over.
    `check(cls, where)` refuses a class that does not offer what its kind has to.
    """

    kind: str
    group: str
    built_in: Mapping[str, Row]
    check: Callable[[Any, str], None]

    def __getitem__(self, name: str) -> Row:
        return self.built_in[name] if name in self.built_in else added(self.group)[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.built_in, **added(self.group)})

    def __len__(self) -> int:
        return len({**self.built_in, **added(self.group)})

    def __hash__(self) -> int:
        return hash(self.group)

    def load(self, name: str) -> Any:
        """The settings class called `name`, which keeps to the contract of its kind.

        Raises:
            HoldfastError: there is no such row (names the nearest), it leads nowhere, or to what is no such method.
        """
        if name not in self:
            raise HoldfastError(f"unknown {self.kind} {name!r}{near(name, self)}; known: {', '.join(sorted(self))}")
        return _loaded(self, name, self[name].target)


@cache
def _loaded(table: Table, name: str, target: str) -> Any:
    """Looked at once: a grid asks for the same few classes hundreds of times."""
    module, _, attribute = target.partition(":")
    where = f"{table.kind} {name!r} ({target})"
    try:
        method = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise HoldfastError(f"{where}: cannot be imported: {error}") from error
    table.check(method, where)
    return method


@cache
def added(group: str) -> dict[str, Row]:
    """The rows that installed packages add to a group; looked for once, since every package is asked."""
    return {
        point.name: Row(point.value, f"from {point.dist and point.dist.name}") for point in entry_points(group=group)
    }


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
    keys: list[tuple[str, str]] = []
    for key, value in settings.items():
        place = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            keys += judge_keys(value, place)
        elif isinstance(value, str) and (key == "judge" or key.endswith("_judge")):
            keys.append((place, value))
        elif isinstance(value, list | tuple) and key.endswith("_judges"):
            keys += [(place, name) for name in value]
    return keys
