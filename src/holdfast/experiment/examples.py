"""The examples of a cell: read or made, and dealt out to splits whose prompts are disjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.data.columns import Source
from holdfast.data.read import read
from holdfast.data.splits import Splits, require_disjoint, split
from holdfast.methods.settings import typed
from holdfast.records import Example, HoldfastError
from holdfast.sandbox import grammar


def load_splits(data: Mapping[str, Any]) -> Splits:
    """The examples of a cell, dealt out to four splits whose prompts are disjoint.

    Raises:
        HoldfastError: a file cannot be read, only one of the two sources is given, or a split is left empty.
    """
    if data["harmful"] is None and data["benign"] is None:
        return _sandbox_splits(data)
    for name in ("harmful", "benign"):
        if data[name] is None:
            raise HoldfastError(f"data.{name} is missing: harm is never reported without usefulness, so give both")
    harmful, benign = _rows(data, "harmful"), _rows(data, "benign")
    _refuse_same_prompts(data, harmful, benign)
    return Splits(harmful=_dealt("harmful", harmful, data), benign=_dealt("benign", benign, data))


def _refuse_same_prompts(data: Mapping[str, Any], harmful: Sequence[Example], benign: Sequence[Example]) -> None:
    """Refuse one set of prompts under two names: as another format, in another order, or a part of it."""
    few, many = sorted(({row.key for row in rows} for rows in (harmful, benign)), key=len)
    if few <= many:
        raise HoldfastError(
            f"data.harmful and data.benign ask the same ({data['harmful']['path']} and {data['benign']['path']}): "
            "every prompt of one is in the other; what is asked as harmful cannot measure usefulness"
        )


def harmful_splits(data: Mapping[str, Any]) -> dict[str, list[Example]]:
    """The harmful rows of a file, dealt out."""
    return _dealt("harmful", _rows(data, "harmful"), data)


def _sandbox_splits(data: Mapping[str, Any]) -> Splits:
    sizes = {name: data["train"] if name in ("defense", "attack") else data["held_out"] for name in data["shares"]}
    harmful, benign = (
        {name: grammar.examples(name, families, size, seed=data["seed"]) for name, size in sizes.items()}
        for families in (grammar.RESTRICTED, grammar.BENIGN)
    )
    require_disjoint({name: harmful[name] + benign[name] for name in sizes})
    dealt = {name: grammar.tasks(name, size, seed=data["seed"]) for name, size in sizes.items()}
    tasks = {task: {name: dealt[name][task] for name in sizes} for task in ("quiz", "summary")}
    return Splits(harmful=harmful, benign=benign, tasks=tasks)


def _rows(data: Mapping[str, Any], name: str) -> list[Example]:
    source = typed(Source, data[name], f"data.{name}")
    every = read(source)
    wanted = ("harmful", "refusal") if name == "harmful" else ("benign", "retain")
    rows = [row for row in every if row.role in wanted]
    if not any(row.role == wanted[0] for row in rows):
        option = " (--harmful-role harmful)" if name == "harmful" else ""
        raise HoldfastError(
            f"{source.path}: none of its {len(every)} rows is {name}; set `role: {name}` in data.{name} if all "
            f"are{option}"
        )
    return rows


def _dealt(name: str, rows: Sequence[Example], data: Mapping[str, Any]) -> dict[str, list[Example]]:
    dealt = split([row for row in rows if row.role != "refusal"], data["shares"], seed=data["seed"])
    empty = [part for part, examples in dealt.items() if not examples]
    if empty:
        raise HoldfastError(
            f"data.{name}: the {empty[0]} split has no prompt ({len(rows)} rows in all); add rows or change data.shares"
        )
    require_disjoint(dealt)
    return dealt
