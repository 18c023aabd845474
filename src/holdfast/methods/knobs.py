"""The knobs that a search varies: ranges and choices, declared with an attack's settings, narrowed in a grid file.

An attack declares its knobs as a class-level mapping from a setting's dotted name to a `Range` or `Choices`:

    KNOBS: ClassVar[Mapping[str, Knob]] = {"optim.learning_rate": Range(low=1e-6, high=1e-3, log=True)}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from holdfast.methods.tables import near
from holdfast.records import HoldfastError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; with `log` log-uniform, with `whole` only whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not _is_finite(end):
                raise HoldfastError(f"the ends of a range are finite numbers, not {end!r:.40}")
        if not self.low < self.high:
            raise HoldfastError(f"a range goes from low to high, not from {self.low} to {self.high}")
        if self.log and self.low <= 0:
            raise HoldfastError(f"a range over magnitudes (`log`) starts above 0, not at {self.low}")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise HoldfastError(f"a range of whole numbers has whole ends, not {self.low} and {self.high}")

    def allows(self, value: Any) -> bool:
        """Whether a setting's value is in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of some JSON values, which may be whole groups of settings (`adapter`: none, or `{"r": 16}`)."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.choices, tuple | list):
            raise HoldfastError(f"choices are a tuple of values, not {self.choices!r}")
        if not self.choices:
            raise HoldfastError("a choice needs at least one value")

    def allows(self, value: Any) -> bool:
        """Whether a setting's value is one of the choices."""
        return value in self.choices


Knob = Range | Choices


def narrowed(declared: Mapping[str, Knob], given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Knob]:
    """The knobs to vary: the declared ones, changed by the user's values.

    Args:
        declared: an attack's own knobs by dotted name.
        given: plain values by name, nested or dotted: `[low, high]` narrows a declared range, a list replaces declared
            choices, `{low, high, log, whole}` or `{choices: [...]}` is used as it is, and `null` keeps a knob fixed.
        settings: the attack's full settings; a knob varies one of them.

    Raises:
        HoldfastError: a name is not a setting of the attack, or a value is neither a range nor a choice; says which.
    """
    knobs: dict[str, Knob] = dict(declared)
    for name, value in _flat(given):
        _refuse_unknown(name, settings, declared)
        if value is None:
            knobs.pop(name, None)
            continue
        try:
            knobs[name] = _knob(value, declared.get(name))
        except HoldfastError as error:
            raise HoldfastError(f"search.knobs.{name}: {error}") from None
    return knobs


def _flat(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value and not set(value) & {"low", "high", "choices"}:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _knob(value: Any, declared: Knob | None) -> Knob:
    if isinstance(value, Mapping) and set(value) == {"choices"} and isinstance(value["choices"], list):
        return Choices(choices=tuple(value["choices"]))
    if isinstance(value, Mapping) and {"low", "high"} <= set(value) <= {"low", "high", "log", "whole"}:
        return _range(**value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if isinstance(declared, Choices):
            return Choices(choices=tuple(value))
        if isinstance(declared, Range) and len(value) == 2:
            return replace(declared, low=_number(value[0]), high=_number(value[1]))
    raise HoldfastError(f"expected [low, high], {{low: ..., high: ...}}, {{choices: [...]}} or null, not {value!r}")


def _range(low: Any, high: Any, log: Any = False, whole: Any = False) -> Range:
    for name, value in (("log", log), ("whole", whole)):
        if not isinstance(value, bool):
            raise HoldfastError(f"`{name}` is true or false, not {value!r:.40}")
    return Range(low=_number(low), high=_number(high), log=log, whole=whole)


def _number(end: Any) -> float:
    """An end of a range; also as text, since plain readers of YAML take `1e-5` for one."""
    try:
        number = float(end) if isinstance(end, str) else end + 0
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(end, bool):
        raise HoldfastError(f"the ends of a range are numbers, not {end!r:.40}")
    return number


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _refuse_unknown(name: str, settings: Mapping[str, Any], declared: Mapping[str, Knob]) -> None:
    if name == "optim.max_steps":
        raise HoldfastError("search.knobs.optim.max_steps: the length of a trial is not searched; set it in the attack")
    node: Any = settings
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            known = [*declared, *settings]
            raise HoldfastError(f"search.knobs.{name}: the attack has no such setting{near(name, known)}")
        node = node[part]


def optuna(purpose: str) -> ModuleType:
    """The library that varies them, without its log messages.

    Raises:
        HoldfastError: it is not installed; begins with the `purpose`.
    """
    try:
        import optuna as library
    except ImportError:
        raise HoldfastError(
            f"{purpose} needs optuna, which is not installed: pip install 'holdfast-llm[search]'"
        ) from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library
