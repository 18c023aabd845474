"""The plain values of a grid that has a cell, to run it again with something changed. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.records import Cell, Method


def model_entry(cell: Cell) -> Any:
    """The cell's model; of a hardened folder with the model that it was made from."""
    settings = {key: value for key, value in cell.model_settings.items() if value is not None}
    if cell.model.get("kind") == "sandbox":
        return {"sandbox": settings}
    return settings | ({"undefended": cell.undefended.model_settings["path"]} if cell.hardened else {})


def defense_entry(cell: Cell, *, without: str | None = None) -> Any:
    """The cell's offline stages and constraints, without methods called `without`; `none` if there are none."""
    methods = [method for method in (*cell.stages, *cell.constraints) if method.name != without]
    return [method_entry(method) for method in methods] or "none"


def attack_entry(cell: Cell) -> Any:
    """The cell's attack with its adaptive attackers; `none` without one."""
    if cell.attack is None:
        return "none"
    first, *adaptive = (method_entry(method) for method in (cell.attack, *cell.adaptive))
    return [first, *adaptive] if adaptive else first


def method_entry(method: Method) -> dict[str, Any]:
    """One method with its settings and its label."""
    label = {"label": method.label} if method.label else {}
    return {method.name: dict(method.settings), **label}


def judge_entries(cells: Iterable[Cell]) -> dict[str, Any]:
    """The judges that some cells call, by name."""
    return {name: {judge.name: dict(judge.settings)} for cell in cells for name, judge in cell.judges.items()}


def data_values(cell: Cell) -> dict[str, Any]:
    """The cell's data without the hashes of its files."""
    return {name: value for name, value in cell.data.items() if name != "fingerprints"}


def evaluation_values(cell: Cell) -> dict[str, Any]:
    """The cell's evaluation without the hash of its model of reference."""
    return {name: value for name, value in cell.evaluation.items() if name != "fingerprints"}


def grid_of_cells(cells: Iterable[Cell], **changes: Any) -> Mapping[str, Any]:
    """A grid of cells of one model and one defense: their attacks and seeds, with some keys changed."""
    every = list(cells)
    first = every[0]
    attacks: list[Any] = []
    for cell in every:
        entry = attack_entry(cell)
        attacks += [] if entry in attacks else [entry]
    return {
        "models": [model_entry(first)],
        "defenses": [defense_entry(first)],
        "attacks": attacks,
        "seeds": sorted({cell.seed for cell in every}),
        "data": data_values(first),
        "judges": judge_entries(every),
        "evaluation": evaluation_values(first),
        **changes,
    }
