"""Which cells of a large grid are enough to have every model, defense and attack of it once, numbers aside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from holdfast.records import Cell, digest


def first_with_each_part(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have a part which no cell before them has."""
    seen: set[str] = set()
    return [cell for cell in cells if not _parts(cell) <= seen and seen.update(_parts(cell)) is None]


def _parts(cell: Cell) -> set[str]:
    """What a grid combines: the model, the defenses and the attack, each with its settings but for their numbers."""
    chosen = {"model": cell.model, "defenses": [cell.stages, cell.constraints], "attack": [cell.attack, cell.adaptive]}
    return {digest([name, _shape(json.loads(json.dumps(part, default=asdict)))]) for name, part in chosen.items()}


def _shape(value: Any) -> Any:
    """A value without its numbers, of which is kept whether they are 0: which keys there are, and what they name."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return value != 0 if isinstance(value, int | float) else re.sub(r"[0-9.]+", "0", str(value))
