"""What FLOPs cost in money, by a list of rented machines: an assumption, stated with its date and source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from holdfast.files import require_file
from holdfast.files.plain_yaml import yaml_value
from holdfast.methods.ranges import Positive, PositiveShare, ranged
from holdfast.methods.settings import typed
from holdfast.methods.tables import near
from holdfast.records import HoldfastError

PACKAGED = "prices.yaml"
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
@ranged
class Machine:
    """A machine rented at `per_hour`, of which training uses a share, the `utilisation`, of the peak FLOPs a second."""

    per_hour: Positive
    flops_per_second: Positive
    utilisation: PositiveShare
    date: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A price list: the `machine` that is used, of the `machines` by name, and the currency of their prices."""

    machine: str
    currency: str
    machines: Mapping[str, Machine]

    def __post_init__(self) -> None:
        if self.machine not in self.machines:
            known = f"`machines` has {', '.join(self.machines) or 'none'}"
            raise HoldfastError(f"machine: {self.machine!r} is unknown{near(self.machine, self.machines)}; {known}")

    @property
    def used(self) -> Machine:
        """The machine whose price is used."""
        return self.machines[self.machine]

    def of_flops(self, flops: float) -> float:
        """What so many FLOPs cost, in the list's currency."""
        used = self.used
        return flops / (used.flops_per_second * used.utilisation) / SECONDS_PER_HOUR * used.per_hour


def load_prices(path: Path | None = None) -> Prices:
    """The price list of a YAML file, else the packaged one.

    Raises:
        HoldfastError: names the file and the key that is missing, unknown or out of its range.
    """
    if path is None:
        return _packaged()
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HoldfastError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise HoldfastError(f"{path}: not text in UTF-8") from error
    return _parsed(text, str(path))


@cache
def _packaged() -> Prices:
    return _parsed(resources("holdfast.report").joinpath(PACKAGED).read_text("utf-8"), PACKAGED)


def _parsed(text: str, where: str) -> Prices:
    values = yaml_value(text, where)
    if not isinstance(values, Mapping):
        raise HoldfastError(f"{where}: not a price list; it has `machine`, `currency` and `machines`")
    plain = json.loads(json.dumps(values, default=str))  # YAML has dates, which need no quotes
    try:
        return typed(Prices, plain, "prices")
    except HoldfastError as error:
        raise HoldfastError(f"{where}: {str(error).removeprefix('prices').lstrip('.: ')}") from None
