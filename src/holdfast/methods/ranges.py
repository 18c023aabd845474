"""Ranges of the numbers in settings: each is declared with its field, as the field's type.

    learning_rate: Positive = 5e-5
    held_out: InnerShare = 0.1

`holdfast.methods.settings.typed` refuses values outside, and names key and range. With `@ranged` below its `@dataclass`
a class also refuses them in Python. Booleans, text, NaN and infinities are in no range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from holdfast.methods.tables import near
from holdfast.records import HoldfastError

Class = TypeVar("Class", bound=type)
LARGEST = 2**31 - 1
"""The largest whole number: seeds go to numpy, which takes 32 bits, and some are added to; counts go to tensors."""


class SettingsError(HoldfastError, ValueError):
    """A value that its settings class refuses; `message` is without the class's name."""

    def __init__(self, title: str, message: str) -> None:
        super().__init__(with_place(title, message))
        self.message = message


def with_place(where: str, message: str) -> str:
    """A message prefixed by its place, joined with a dot if the message begins with a key."""
    message = message.removeprefix(f"{where.rpartition('.')[2]}: ")
    return f"{where}.{message}" if re.match(r"[a-z_0-9]+(\.[\w+]+)*: ", message) else f"{where}: {message}"


@dataclass(frozen=True)
class Bounds:
    """Numbers from `low` to `high`, without an `open_` end; with `whole` only whole numbers."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.low} to {self.high}"
        if self.low == -math.inf:
            return "a finite number"
        if self.high == math.inf:
            return f"a finite number {'above' if self.open_low else 'of at least'} {self.low}"
        return f"a number in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number: Any = value
        if not isinstance(value, Integral) and (not math.isfinite(number) or (self.whole and number != int(number))):
            return False
        above = self.low < number if self.open_low else self.low <= number
        return bool(above and (number < self.high if self.open_high else number <= self.high))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """How pydantic checks it."""
        kind = int if self.whole else float

        def check(value: Any) -> int | float:
            if value not in self:
                raise refused(f"must be {self}")
            try:
                return kind(value)
            except OverflowError:  # a whole number of hundreds of digits
                raise refused(f"must be {self} that a float can hold") from None

        return core_schema.no_info_plain_validator_function(check)


@dataclass(frozen=True)
class OneOf:
    """Text that is one of some names: the `usual` ones, or those that `names` returns, which may need an import."""

    usual: frozenset[str]
    names: Callable[[], Iterable[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """How pydantic checks it."""

        def check(value: Any) -> str:
            if not isinstance(value, str):
                raise refused("must be a name")
            if value not in self.usual and value not in (known := sorted(self.names())):
                raise refused(f"must be one of {', '.join(known)}{near(value, known)}")
            return value

        return core_schema.no_info_plain_validator_function(check)


@dataclass(frozen=True)
class NotBlank:
    """Text that is not blank; `what` says what it names."""

    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """How pydantic checks it."""

        def check(value: Any) -> str:
            if not isinstance(value, str) or not value.strip():
                raise refused(f"must name {self.what}")
            return value

        return core_schema.no_info_plain_validator_function(check)


def refused(message: str) -> PydanticCustomError:
    """The error of a field's check; the message begins with `must`."""
    return PydanticCustomError("setting", "{message}", {"message": message})


Number = Annotated[float, Bounds()]
NonNegative = Annotated[float, Bounds(low=0)]
Positive = Annotated[float, Bounds(low=0, open_low=True)]
AtLeastOne = Annotated[float, Bounds(low=1)]
AboveOne = Annotated[float, Bounds(low=1, open_low=True)]
Share = Annotated[float, Bounds(low=0, high=1)]
PositiveShare = Annotated[float, Bounds(low=0, high=1, open_low=True)]
PartialShare = Annotated[float, Bounds(low=0, high=1, open_high=True)]
InnerShare = Annotated[float, Bounds(low=0, high=1, open_low=True, open_high=True)]
Whole = Annotated[int, Bounds(low=0, high=LARGEST, whole=True)]
ZeroOrOne = Annotated[int, Bounds(low=0, high=1, whole=True)]
COUNT = Bounds(low=1, high=LARGEST, whole=True)
Count = Annotated[int, COUNT]
SEED = Bounds(low=0, high=LARGEST, whole=True)
Seed = Annotated[int, SEED]
Place = Annotated[str, NotBlank("a file, a folder or a Hub id")]


def ranged(cls: Class) -> Class:
    """Make a settings class check the ranges of its numbers, and name the class in its errors.

    Goes below `@dataclass`. The class raises `SettingsError` for a field's type or by its own `__post_init__`.

    Raises:
        HoldfastError: it is above `@dataclass`, where it would have no effect.
    """
    if "__dataclass_fields__" in vars(cls):
        raise HoldfastError(f"{cls.__name__}: `@ranged` is above `@dataclass` and has no effect there; write it below")
    own: Callable[[Any], None] = vars(cls).get("__post_init__", getattr(cls, "__post_init__", lambda _: None))

    @wraps(own)
    def check(self: Any) -> None:
        title = type(self).__name__
        for name, adapter in _adapters(cast(Any, type(self))).items():
            try:
                adapter.validate_python(getattr(self, name))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join([name, *(str(part) for part in first["loc"] if isinstance(part, int))])
                raise SettingsError(f"{title}.{place}", described(first)) from None
        try:
            own(self)
        except SettingsError:
            raise
        except HoldfastError as error:
            raise SettingsError(title, str(error)) from None

    cls.__post_init__ = check  # type: ignore[attr-defined]
    return cls


def described(error: Any) -> str:
    """An error of pydantic's on one line, with the value that it is about."""
    message = error["msg"]
    message = message[0].lower() + message[1:]
    if error["type"] in ("dict_type", "mapping_type", "dataclass_type"):
        message = "expected settings as `key: value`, or `{}` for the defaults"
    return message if error["type"] == "missing" else f"{message}, not {shown(error['input'])}"


def shown(value: Any) -> str:
    """A value for a message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number with thousands of digits
        return "a number with thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


@cache
def _adapters(cls: type) -> dict[str, TypeAdapter[Any]]:
    """The checkers of a class's fields that declare a range, by name."""
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: _adapter(hints[item.name]) for item in fields(cls) if _declares(hints[item.name])}


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _declares(hint: Any) -> bool:
    return get_origin(hint) is Annotated or any(_declares(part) for part in get_args(hint))
