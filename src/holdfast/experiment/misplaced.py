"""Suggest the right place for a key at the top of a grid, such as `optim.max_steps` for an attack's."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from holdfast.data.dataset import Data
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.methods import Kind, settings_class
from holdfast.methods.settings import places
from holdfast.methods.tables import near, without_space
from holdfast.records import HoldfastError

KINDS: dict[str, tuple[Kind, ...]] = {"attacks": ("attack", "adaptive"), "defenses": ("offline", "online")}
MOST = 3


def refuse_misplaced(values: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a key at the top of a grid that is not `known`, and suggest where it belongs or a similar key.

    Raises:
        HoldfastError: there is such a key.
    """
    for key in values:
        if key not in known:
            suggestion = without_space(str(key)) or near(str(key), known, better=belongs(str(key), values))
            raise HoldfastError(f"{where}: unknown key {key!r}{suggestion}; known: {', '.join(known)}")


def belongs(key: str, values: Mapping[str, Any]) -> list[str]:
    """The dotted keys, in a grid of these plain values, that may be meant by `key`: a few, the most similar first."""
    suggestions: list[str] = []
    for axis, kinds in KINDS.items():
        for name in dict.fromkeys(_methods(values.get(axis))):
            if name == key:
                suggestions.append(f"{axis}.{key}")
            for cls in _classes(name, kinds):
                suggestions += [f"{axis}.{name}.{place}" for place in places(cls, key)]
    shared = {"evaluation": Measurement, "data": Data}
    suggestions += [f"{part}.{place}" for part, cls in shared.items() for place in places(cls, key)]
    return sorted(suggestions, key=lambda place: place.count("."))[:MOST]


def _methods(value: Any) -> Iterator[str]:
    """The names of an axis's methods, including those in stacks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (str(name) for name in value if name != "label")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _methods(item)


def _classes(name: str, kinds: tuple[Kind, ...]) -> Iterator[type]:
    """The settings dataclass called `name`; none if there is no such method, which is reported elsewhere."""
    for kind in kinds:
        with contextlib.suppress(HoldfastError, ImportError, AttributeError):
            yield settings_class(name, kind)
