"""The description of a method, from its docstrings and its class, for `holdfast show` and the documentation.

Nothing is written twice: the meaning of a setting is taken from the docstring of its class, or of its group's class,
best an item "- `name`: meaning" of a list; `SHARED` has settings with the same meaning everywhere.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from holdfast.methods.docstrings import Documentation, class_text, defined, documentation, mentioning, parse
from holdfast.methods.knobs import Choices, Knob
from holdfast.methods.ranges import LARGEST, Bounds, OneOf
from holdfast.methods.tables import Row, Table

SHARED = {
    "adapter": "Trains a low-rank adapter instead of all weights; `null` trains all weights.",
    "max_length": "Cuts prompt plus answer, in tokens; `null` is the model's context.",
    "per_token": "The radius applies to each token's output, not to a whole micro-batch.",
    "judge": "The name of a judge, a built-in one or one of the grid's `judges`.",
    "revision": "The commit, tag or branch of a Hub repository; its default branch when `null`.",
    "seed": "The seed of the training.",
    "num_samples": "The number of rows used, all of them when `null`.",
    "sampling": "`random` takes rows at random, `head` the first ones.",
    "batch_size": "The number of rows in a batch.",
}
"""The meaning of these settings unless a class states another."""

ORDER = ("equation", "idea", "differs", "source")
"""Modules searched for a setting that its class does not explain."""
LISTED = "as listed"
"""The default of a group whose settings follow, each with its own default."""


@dataclass(frozen=True)
class Setting:
    """A setting by its dotted name; all else is text for people. `group` says that its own settings follow."""

    name: str
    kind: str
    default: str
    range: str
    meaning: str
    group: bool = False


@dataclass(frozen=True)
class Description:
    """A method: its row, its docstrings (`documentation`, and `about` from its class), and its settings."""

    name: str
    kind: str
    target: str
    summary: str
    documentation: Documentation
    about: str
    settings: tuple[Setting, ...]
    presets: Mapping[str, Mapping[str, str]]
    knobs: Mapping[str, str]


def by_meaning(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Settings grouped by common explanations, each group at the place of its first setting."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        alone = setting.name if setting.group or not setting.meaning else ""
        groups.setdefault((setting.name.rpartition(".")[0], alone or setting.meaning), []).append(setting)
    return list(groups.values())


def describe(table: Table, name: str) -> Description:
    """The method called `name` of a table.

    Raises:
        HoldfastError: the table has no such row, or the row's method cannot be loaded.
    """
    cls, row = table.load(name), table[name]
    return Description(
        name=name,
        kind=table.kind,
        target=row.target,
        summary=brief(row),
        documentation=documentation(row.target),
        about=class_text(cls),
        settings=tuple(_settings(cls)),
        presets={preset: dict(_flat(values)) for preset, values in cls.PRESETS.items()},
        knobs={knob: _knob(known) for knob, known in cls.KNOBS.items()},
    )


def brief(row: Row) -> str:
    """A method in one line: its row's, or of an installed package's row its module's title and who brought it."""
    title = documentation(row.target).title.rstrip(".") if row.package else ""
    return f"{title[:1].lower()}{title[1:]} ({row.summary})" if title else row.summary


def _settings(cls: Any, above: str = "", given: Any = None, seen: dict[type, str] | None = None) -> Iterator[Setting]:
    """The settings of a class, with a group's own after it; `given` has the defaults of a group that differ from its
    class's.

    A second group of one class is not listed again: its default lists only what differs from the class's.
    """
    seen = {} if seen is None else seen
    hints = get_type_hints(cls, include_extras=True)
    for item in fields(cls):
        hint, default = hints[item.name], getattr(given, item.name, _default(item))
        inner = group_of(hint)
        name = f"{above}{item.name}"
        kind, bounds = _typed(hint)
        again = seen.get(inner, "") if inner is not None else ""
        explanation = f"{meaning(cls, item.name, inner)}{f' Its settings are those of `{again}`.' if again else ''}"
        yield Setting(name, kind, _default_text(default, listed=not again), bounds, explanation, inner is not None)
        if inner is not None and not again:
            seen[inner] = name
            yield from _settings(inner, f"{name}.", default if isinstance(default, inner) else None, seen)


def _default_text(default: Any, *, listed: bool) -> str:
    if default is MISSING:
        return "required"
    if not is_dataclass(default) or isinstance(default, type):
        return plainly(default)
    usual = {item.name: _default(item) for item in fields(default)}
    own = {name: getattr(default, name) for name, value in usual.items() if getattr(default, name) != value}
    return LISTED if listed else plainly(own)


def _default(item: Any) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def meaning(cls: type, name: str, inner: type | None = None) -> str:
    """The description of one setting in the docstrings of its class, its bases, their modules, or its group."""
    bases = [base for base in cls.__mro__ if is_dataclass(base)]
    modules = [documentation(f"{base.__module__}:") for base in bases]
    texts = [class_text(base) for base in bases]
    texts += [text for module in modules for text in (module.text, *map(module.blocks.get, ORDER)) if text]
    stated = (explanation for read in (defined, mentioning) for text in texts if (explanation := read(name, text)))
    described = next(stated, "")
    group = parse(class_text(inner)).title if inner is not None else ""
    return (described or SHARED.get(name, "") or group).removeprefix("Settings: ").replace("`None`", "`null`")


def group_of(hint: Any) -> type | None:
    """The settings dataclass that a type is, or may be; `None` if there is none in it."""
    if is_dataclass(hint):
        return cast(type, hint)
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return next((group for part in parts if (group := group_of(part)) is not None), None)


def _typed(hint: Any) -> tuple[str, str]:
    """A type in words, and the values that it allows."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, allowed = _typed(parts[0])
        bounds = next((extra for extra in parts[1:] if isinstance(extra, Bounds | OneOf)), None)
        return kind, allowed if bounds is None else _bounds(bounds)
    if origin in (Union, types.UnionType):
        kinds = [_typed(part) for part in parts if part is not type(None)]
        ending = [" or null"] if type(None) in parts else []
        return " or ".join(dict.fromkeys(kind for kind, _ in kinds)) + "".join(ending), "; ".join(
            dict.fromkeys(allowed for _, allowed in kinds if allowed)
        )
    if origin is Literal:
        return "choice", ", ".join(map(plainly, parts))
    if origin is tuple:
        kind, allowed = _typed(parts[0])
        return f"list of {kind}", allowed
    if is_dataclass(hint):
        return "group", ""
    return {bool: "true or false", str: "text", int: "whole number", float: "number"}.get(hint, "mapping"), ""


def _bounds(bounds: Bounds | OneOf) -> str:
    if isinstance(bounds, OneOf):
        return ", ".join(sorted(bounds.usual)) + ", ..."
    if bounds.whole:
        return f"{bounds.low} or more" if bounds.high == LARGEST else f"{bounds.low} to {bounds.high}"
    for before in ("a finite number ", "a number "):
        text = str(bounds)
        if text.startswith(before):
            return text.removeprefix(before).removeprefix("of ")
    return ""


def _knob(knob: Knob) -> str:
    if isinstance(knob, Choices):
        return f"one of {', '.join(map(plainly, knob.choices))}"
    spread = " over magnitudes" if knob.log else ""
    return f"{plainly(knob.low)} to {plainly(knob.high)}{spread}{', whole numbers' if knob.whole else ''}"


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", plainly(value)


def plainly(value: Any) -> str:
    """A value as one line of YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plainly(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plainly, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return repr(value) if isinstance(value, str) and (not value or "\n" in value) else str(value)
