"""What the rows of a report are called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.records import Cell, Method, Record, digest
from holdfast.tables import judge_names

_LONGEST_SUFFIX = 80
_UNTOLD = frozenset({"seed", "label"})


class Label(NamedTuple):
    """What a cell is called in tables and charts: cells with equal labels differ by seed only."""

    model: str
    defense: str
    threat_model: str
    attack: str


def labels(records: Sequence[Record]) -> list[Label]:
    """The label of each record, in the order of the records."""
    cells = [record.cell for record in records]
    models = _named([(str(cell.model.get("name") or "model"), _leaves(cell.model)) for cell in cells])
    defenses = _named([(cell.defense, _defense_settings(cell)) for cell in cells])
    attacks = _named([(attack_name(cell), _attack_settings(cell)) for cell in cells])
    threats = [cell.threat_model for cell in cells]
    return [Label(*parts) for parts in zip(models, defenses, threats, attacks, strict=True)]


def attack_name(cell: Cell) -> str:
    """What the attack is called; `none` for a cell that only evaluates."""
    return cell.attacker


def _named(cells: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """The name of each (name, settings), followed by those settings in which the cells of that name differ."""
    groups: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for name, settings in cells:
        groups[name].append(settings)
    differ = {name: _differing(group) for name, group in groups.items()}
    return [name + _suffix({k: v for k, v in settings.items() if k in differ[name]}) for name, settings in cells]


def _differing(group: Sequence[Mapping[str, str]]) -> set[str]:
    keys = {key for settings in group for key in settings}
    return {key for key in keys if len({settings.get(key) for settings in group}) > 1}


def _suffix(settings: Mapping[str, str]) -> str:
    if not settings:
        return ""
    text = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
    if len(text) > _LONGEST_SUFFIX:
        text = f"{text[:_LONGEST_SUFFIX]}… {digest(text, 4)}"
    return f" ({text})"


def _defense_settings(cell: Cell) -> dict[str, str]:
    return {**_methods(cell.stages), **_methods(cell.constraints), "threat model": cell.threat_model}


def _attack_settings(cell: Cell) -> dict[str, str]:
    # A judge that only a defense calls is a matter of the defense.
    attacker = [cell.attack, *cell.adaptive] if cell.attack else []
    called = [name for method in attacker for name in judge_names(method.settings)] + judge_names(cell.evaluation)
    judges = {
        name: {"name": judge.name, "settings": judge.settings} for name, judge in cell.judges.items() if name in called
    }
    parts = {"data": cell.data, "evaluation": cell.evaluation, "judges": judges}
    return {**_methods(attacker), **_leaves(parts)}


def _methods(methods: Sequence[Method]) -> dict[str, str]:
    found: dict[str, str] = {}
    for method in methods:
        leaves = _leaves(method.settings, method.name)
        found |= {f"{key}'" if key in found else key: value for key, value in leaves.items()}
    return found


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """Settings by dotted path, without those that make no difference to what a row is."""
    if isinstance(value, Mapping):
        parts = ((f"{path}.{key}".lstrip("."), item) for key, item in value.items() if key not in _UNTOLD)
        return {key: leaf for name, item in parts for key, leaf in _leaves(item, name).items()}
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return _leaves({str(number): item for number, item in enumerate(value)}, path)
    return {path: str(value)}
