"""Settings: frozen dataclasses from plain values, with unknown keys refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from holdfast.methods.knobs import Knob
from holdfast.methods.ranges import SettingsError, described, shown, with_place
from holdfast.methods.tables import near, without_space
from holdfast.records import HoldfastError

AnySettings = TypeVar("AnySettings")
OMITTED_AT_DEFAULT = {"omitted_at_default": True}
"""Metadata of a field that was added to a method's settings after cells of it were finished: `plain` leaves it out
while it has its default, so that those cells keep their keys."""


class Settings(Protocol):
    """Class variables of methods of every kind about their settings.

    `PRESETS` are settings by a name that `preset` refers to; `EXAMPLE` has a value for each setting without a default,
    so that the method can be shown and tested. `KNOBS` are what a search varies, by a setting's dotted name; a search
    is over attacks and adaptive attackers.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    EXAMPLE: ClassVar[Mapping[str, Any]] = {}
    KNOBS: ClassVar[Mapping[str, Knob]] = {}


def typed(cls: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """An instance of a settings dataclass from plain values; what is not given keeps the class's default.

    A nested group given in part keeps the rest of the class's own default for that group. `preset` among the values
    names settings of the class's `PRESETS`, which the other values overwrite. Nothing is converted: text and booleans
    are not accepted as numbers, nor numbers as booleans.

    Raises:
        HoldfastError: an unknown key or preset (names the nearest known one), a value of the wrong type or out of its
            range (`holdfast.methods.ranges`), or an invalid combination of values; says where.
    """
    values = _with_preset(cls, values, where)
    refuse_unknown(cls, values, where)
    complete = merge(_defaults(cast(Any, cls)), values)
    refuse_non_finite(complete, where)
    text = _encoded(complete, where)
    try:
        return _checker(cast(Any, cls)).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        missing = [str(first["loc"][-1])] if first["type"] == "missing" else []
        keys = [*_path(first["loc"], complete), *missing]
        place = ".".join([where, *keys])
        reason = first.get("ctx", {}).get("error")
        message = reason.message if isinstance(reason, SettingsError) else described(first)
        hint = without_space(next(reversed(keys), "")) if first["input"] is None else ""
        raise HoldfastError(with_place(place, message) + hint) from None
    except HoldfastError as error:  # raised by a class that is not `ranged`
        raise HoldfastError(with_place(where, str(error))) from None


def one_text(value: Any, where: str) -> str:
    """A text for people; numbers are accepted, as YAML reads unquoted ones.

    Raises:
        HoldfastError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise HoldfastError(f"{where}: must be text, not {shown(value)}")
    return str(value)


def refuse_non_finite(value: Any, where: str) -> None:
    """Refuse NaN and infinities at any depth of JSON values: a record could not be written with them."""
    if isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            refuse_non_finite(item, f"{where}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise HoldfastError(f"{where}: must be a finite number, not {value}")


def _encoded(values: Mapping[str, Any], where: str) -> bytes:
    """The values as JSON: only then pydantic distinguishes numbers from booleans and text, and still accepts lists."""
    try:
        return json.dumps(values, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise HoldfastError(f"{where}: only text, numbers, lists and groups of settings are allowed: {error}") from None


def _path(place: Sequence[str | int], values: Any) -> Iterator[str]:
    """The keys of an error's place, without pydantic's additions for members of a union."""
    node = values
    for part in place:
        known = isinstance(node, Mapping) and part in node
        if known or (isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)):
            node = node[part]
            yield str(part)


@cache
def _checker(cls: Any) -> TypeAdapter[Any]:
    """Cached by class, since a grid checks the same few classes hundreds of times."""
    return TypeAdapter(cls)


@cache
def _hints(cls: Any) -> Mapping[str, Any]:
    """The types of a class's fields, which Python works out anew at each call."""
    return get_type_hints(cls)


def _with_preset(cls: type, values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or "preset" not in values or "preset" in _hints(cls):
        return values
    known = cast(type[Settings], cls).PRESETS if Settings in cls.__mro__ else {}
    name = values["preset"]
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(known) or "none"
        raise HoldfastError(f"{where}: unknown preset {name!r}{near(str(name), known)}; known: {listed}")
    return merge(known[name], {key: value for key, value in values.items() if key != "preset"})


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON values, without fields `OMITTED_AT_DEFAULT` that have their default, at any depth.

    The default of a group's field is that of the group in the dataclass that holds it.
    """
    return _plain(settings, _defaults(cast(Any, type(settings))))


def _plain(settings: Any, by_default: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for item in fields(settings):
        value, default = getattr(settings, item.name), by_default.get(item.name)
        if not (item.metadata.get("omitted_at_default") and _whole(value) == _whole(default)):
            values[item.name] = _plain_value(value, default)
    return values


def _plain_value(value: Any, default: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(value, default if isinstance(default, Mapping) else _defaults(type(value)))
    if isinstance(value, Mapping):
        return {key: _plain_value(item, None) for key, item in value.items()}
    return [_plain_value(item, None) for item in value] if isinstance(value, list | tuple) else value


def refuse_unknown(cls: Any, values: Any, where: str) -> None:
    """Refuse keys that a settings dataclass does not have, at any depth."""
    if not isinstance(values, Mapping):
        raise HoldfastError(f"{where}: expected settings as `key: value`, not {values!r}")
    groups = _groups(cls)
    for key, value in values.items():
        if key not in groups:
            suggestion = without_space(str(key)) or near(str(key), groups, better=places(cls, str(key)))
            raise HoldfastError(f"{where}: unknown key {key!r}{suggestion}; known: {', '.join(groups)}")
        inner = groups[key]
        if inner is not None and isinstance(value, Mapping):
            named = value.items() if get_origin(_hints(cls)[key]) is Mapping else [("", value)]
            for name, part in named:
                refuse_unknown(inner, part, f"{where}.{key}.{name}".removesuffix("."))


def places(cls: type, key: str) -> list[str]:
    """The places of `key` in a settings dataclass: at the top, else the dotted keys below, at any depth."""
    groups = _groups(cls)
    if key in groups:
        return [key]
    return [f"{name}.{place}" for name, inner in groups.items() if inner is not None for place in places(inner, key)]


@cache
def _groups(cls: Any) -> Mapping[str, type | None]:
    """The fields of a settings dataclass by name, each with the settings dataclass that it holds, if any."""
    hints, own = _hints(cls), {item.name for item in fields(cls)}
    return {name: _group(hint) for name, hint in hints.items() if name in own}


def _group(hint: Any) -> type | None:
    """The settings dataclass that a field holds, or may hold; `None` if it holds none."""
    return next((cast(type, t) for t in (hint, *get_args(hint)) if is_dataclass(t)), None)


def has_setting(cls: type, name: str) -> bool:
    """Whether a settings dataclass has a setting of this dotted name; inside a mapping any name is allowed."""
    head, _, rest = name.partition(".")
    hint = _hints(cls).get(head) if head in {item.name for item in fields(cls)} else None
    if hint is None or not rest:
        return hint is not None
    inner = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
    return not inner or any(has_setting(cast(type, part), rest) for part in inner)


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a settings dataclass as plain values; fields without one are omitted."""
    values = {}
    for item in fields(cls):
        if item.default is not MISSING:
            values[item.name] = item.default
        elif item.default_factory is not MISSING:
            values[item.name] = item.default_factory()
    return {name: _json(asdict(v)) if is_dataclass(v) and not isinstance(v, type) else v for name, v in values.items()}


@cache
def _defaults(cls: Any) -> Mapping[str, Any]:
    """`defaults`, to be read only: a grid needs those of the same few classes thousands of times."""
    return defaults(cls)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` overwritten by `above`, group by group."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _whole(value: Any) -> Any:
    """A setting, or a group of them, as JSON values."""
    return _json(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value
