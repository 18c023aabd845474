"""Tables of methods: name, location and summary. Reading a table does not import the methods.

Other packages add rows through an entry-point group: one of `GROUPS`, in which each entry names a settings class, or
`holdfast.formats`, in which it names a `holdfast.data.Schema`.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, NamedTuple

from holdfast.records import HoldfastError

GROUPS = (
    *("holdfast.attacks", "holdfast.attacks.adaptive", "holdfast.defenses.online", "holdfast.defenses.offline"),
    "holdfast.judges",
)
"""The entry-point groups whose rows are settings classes."""
RESERVED = ("none", "null", "true", "false", "yes", "no", "on", "off", "preset")
"""Names that have another meaning in a grid, or in YAML."""
_NAME = re.compile(r"[A-Za-z][\w+-]*", re.ASCII)


class Row(NamedTuple):
    """`target` is `module:NAME`, of a frozen dataclass of settings or of a schema; `summary` is one line for people.

    `unit` is the x-axis of an attack's curve: optimizer steps, or the symbol of another quantity. `package` is the
    installed package that added the row, empty for a built-in one; several packages that each added it are separated
    by commas.
    """

    target: str
    summary: str
    unit: str = "step"
    package: str = ""


@dataclass(frozen=True)
class Table(Mapping[str, Row]):
    """The methods of a kind by name: the built-in ones, then those that installed packages add.

    `kind` names them in errors, `group` is the entry-point group; built-in names cannot be overridden. `check(cls,
    where)` refuses a class that does not follow its kind's protocol.
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

    def not_used(self) -> list[str]:
        """The rows of installed packages that have a built-in name and so are not used, one line each."""
        return [
            f"{self.kind} {name!r} of the package {row.package} is not used: Holdfast has one of this name; give the "
            "entry point another"
            for name, row in added(self.group).items()
            if name in self.built_in
        ]

    def load(self, name: str) -> Any:
        """What the row called `name` leads to, which follows the protocol of its kind: a settings class or a schema.

        Raises:
            HoldfastError: there is no such row (names the nearest), several packages add it, or it does not lead to a
                method of this kind.
        """
        if name not in self:
            raise HoldfastError(f"unknown {self.kind} {name!r}{near(name, self)}; known: {', '.join(sorted(self))}")
        return _loaded(self, name, self[name])


@cache
def _loaded(table: Table, name: str, row: Row) -> Any:
    """Cached, since a grid loads the same few classes hundreds of times."""
    where = f"{table.kind} {name!r} ({row.target}{row.package and f', of the package {row.package}'})"
    if "," in row.package:
        raise HoldfastError(f"{table.kind} {name!r}: the packages {row.package} each add one; uninstall all but one")
    if wrong := _fault(name):
        raise HoldfastError(f"{where}: {wrong}")
    module, _, attribute = row.target.partition(":")
    if not attribute:
        raise HoldfastError(f"{where}: names a module only; write `{module}:NAME`, with what it names in the module")
    try:
        method = attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise HoldfastError(f"{where}: cannot be imported: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise HoldfastError(f"{where}: raises {type(error).__name__} when imported: {one_line(error)}") from error
    try:
        table.check(method, where)
    except HoldfastError:
        raise
    except Exception as error:  # of its annotations, properties and defaults, whatever a package has written there
        raise HoldfastError(f"{where}: cannot be used: {type(error).__name__}: {one_line(error)}") from error
    return method


@cache
def added(group: str) -> dict[str, Row]:
    """The rows that installed packages add to a group; cached, since every package is searched."""
    rows: dict[str, Row] = {}
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else ""
        there = rows.get(point.name)
        if there is not None and there.package != package:
            package = f"{there.package}, {package}"
        wrong = _fault(point.name)
        summary = f"from {package or None}" + (f"; cannot be used: {wrong}" if wrong else "")
        rows[point.name] = Row(point.value, summary, package=package)
    return rows


def _fault(name: str) -> str:
    """What is wrong with the name of a row, which grids, labels and files contain; empty if nothing is."""
    if name.lower() in RESERVED:
        return f"{name!r} has another meaning in a grid; give the entry point another name"
    if not _NAME.fullmatch(name):
        return "its name may have letters, digits, `_`, `-` and `+`, a letter first; rename the entry point"
    return ""


def row_of(cls: type) -> str:
    """How errors name the row of a settings class; of one that no package added, `module:Class`."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    for group in GROUPS:
        for name, row in added(group).items():
            if row.target == target:
                return f"{name!r} ({target}, of the package {row.package})"
    return target


def one_line(error: BaseException) -> str:
    """What an error says without line breaks, of a length that can be read."""
    return " ".join(str(error).split())[:300]


def near(name: str, known: Iterable[str], better: Iterable[str] = ()) -> str:
    """` (did you mean ...?)` if something similar to `name` is known, else empty.

    In brackets, so that a sentence can continue after it. Names in `better` come before names that are only similar.
    """
    close = list(better) or difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def without_space(key: str) -> str:
    """` (a space is missing after the colon: 'lr: 1')` for the key `lr:1`, which YAML makes of `{lr:1}`; else empty."""
    name, colon, value = key.partition(":")
    return f" (a space is missing after the colon: {f'{name}: {value}'!r})" if name and colon and value else ""


def judge_names(settings: Mapping[str, Any]) -> list[str]:
    """Names of judges in settings: the values of keys called `judge`, or ending in `_judge` or `_judges` (a list,
    or names by task)."""
    return [name for _, name in judge_keys(settings)]


def judge_keys(settings: Mapping[str, Any], where: str = "") -> list[tuple[str, str]]:
    """The names of judges in settings, each with its dotted key below `where`."""
    keys: list[tuple[str, str]] = []
    for key, value in settings.items():
        place = f"{where}.{key}" if where else key
        if isinstance(value, Mapping) and key.endswith("_judges"):
            keys += [(f"{place}.{task}", name) for task, name in value.items()]
        elif isinstance(value, Mapping):
            keys += judge_keys(value, place)
        elif isinstance(value, str) and (key == "judge" or key.endswith("_judge")):
            keys.append((place, value))
        elif isinstance(value, list | tuple) and key.endswith("_judges"):
            keys += [(place, name) for name in value]
    return keys
