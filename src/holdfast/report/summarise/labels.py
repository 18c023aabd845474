"""Labels of the rows of a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from holdfast.methods.tables import judge_names
from holdfast.records import Cell, Method, Record, digest

_LONGEST_SUFFIX = 80
_UNLABELLED = frozenset({"seed", "label"})
_FLIP = ("flip_ratio", "flip_how")
_REWARD_MODEL = "reward model"


class Flip(NamedTuple):
    """The share of preferences in [0, 1] that an attack flips, and how: `reverse`, or `random` as a control."""

    ratio: float
    how: str


class Label(NamedTuple):
    """The label of a cell in tables and charts: equal labels differ only by seed, the cell's or its model's.

    If cells of one attack differ in flip ratio, `family` is the attack's name without its flip, and `flip` that flip.
    Otherwise they are `attack` and `None`.
    """

    model: str
    defense: str
    threat_model: str
    attack: str
    family: str
    flip: Flip | None


def labels(records: Sequence[Record]) -> list[Label]:
    """The label of each record, in the order of the records."""
    return labels_of([record.cell for record in records])


def labels_of(cells: Sequence[Cell]) -> list[Label]:
    """The label of each cell, in the order of the cells."""
    models = _named([(name, _leaves(settings)) for name, settings in (cell.model_alike for cell in cells)])
    defenses = _named([(cell.defense, _defense_settings(cell)) for cell in cells])
    attacks = _named([(cell.attacker, {**_attack_settings(cell), **_flip_settings(cell)}) for cell in cells])
    threats = [cell.threat_model for cell in cells]
    parts_by_cell = zip(models, defenses, threats, attacks, strict=True)
    return [Label(*parts, *sweep) for parts, sweep in zip(parts_by_cell, _sweeps(cells, models, attacks), strict=True)]


def names_of(cells: Sequence[Cell]) -> dict[str, str]:
    """The names of cells by key, with the settings in which cells of one defense or attack differ, as in results."""
    named, names = labels_of(cells), {}
    several = len({label.model for label in named}) > 1
    for cell, label in zip(cells, named, strict=True):
        model = f"{label.model}: " if several else ""
        attack = label.attack if cell.attack else "no attack"
        seeds = f"seed {cell.seed}" + (f", model's seed {cell.model_seed}" if cell.model_seed else "")
        names[cell.key] = f"{model}{label.defense} x {attack}, {seeds}"
    return names


def flip_of(cell: Cell) -> Flip | None:
    """The flip of a cell: its attack's own, or that of its reward model; `None` if there is none."""
    flip = _flipped(cell)
    if flip is None:
        return None
    return Flip(float(flip.settings["flip_ratio"]), str(flip.settings.get("flip_how", "reverse")))


def _flipped(cell: Cell) -> Method | None:
    """The attack or its judge, whichever learns from flipped preferences."""
    if cell.attack is None:
        return None
    called = [cell.judges[name] for name in judge_names(cell.attack.settings) if name in cell.judges]
    return next((m for m in (cell.attack, *called) if isinstance(m.settings.get("flip_ratio"), int | float)), None)


def _sweeps(cells: Sequence[Cell], models: Sequence[str], attacks: Sequence[str]) -> list[tuple[str, Flip | None]]:
    """(family, flip) of each cell, see `Label`."""
    flips = [flip_of(cell) for cell in cells]
    # Methods' names, not their titles: the user may have labelled each flip of an attack.
    names = _named(
        [
            (" + ".join(method.name for method in _attackers(cell)) if flip else attack, _attack_settings(cell))
            for cell, flip, attack in zip(cells, flips, attacks, strict=True)
        ]
    )
    ratios: dict[tuple[str, str], set[float]] = defaultdict(set)
    for model, name, flip in zip(models, names, flips, strict=True):
        ratios[model, name] |= {flip.ratio} if flip else set()
    return [
        (name, flip) if flip and len(ratios[model, name]) > 1 else (attack, None)
        for model, name, flip, attack in zip(models, names, flips, attacks, strict=True)
    ]


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
    return {**_methods((*cell.stages, *cell.constraints)), "threat model": cell.threat_model}


def _attack_settings(cell: Cell) -> dict[str, str]:
    """The settings of the attack and its evaluation, except its flip (see `_flip_settings`)."""
    flipped = _flipped(cell)
    attackers = [_without_flip(method) if method is flipped else method for method in _attackers(cell)]
    # A judge that only a defense calls belongs to the defense.
    called = [name for method in attackers for name in judge_names(method.settings)] + judge_names(cell.evaluation)
    judges: dict[str, Any] = {
        name: {"name": judge.name, "settings": judge.settings, "content": judge.fingerprints}
        for name, judge in cell.judges.items()
        if name in called
    }
    # A grid has a reward model for each flip, each with its own name: they are compared by their settings.
    names = {name for name in judges if cell.judges[name] is flipped}
    for name in names:
        judges[_REWARD_MODEL] = {**judges.pop(name), "settings": _without_flip(cell.judges[name]).settings}
    parts = {"data": cell.data, "evaluation": cell.evaluation, "judges": judges}
    settings = {**_methods(attackers), **_leaves(parts)}
    return {key: value for key, value in settings.items() if not (key.endswith("judge") and value in names)}


def _flip_settings(cell: Cell) -> dict[str, str]:
    flip = flip_of(cell)
    return {"flip_ratio": f"{flip.ratio:g}", "flip_how": flip.how} if flip else {}


def _without_flip(method: Method) -> Method:
    return replace(method, settings={key: value for key, value in method.settings.items() if key not in _FLIP})


def _attackers(cell: Cell) -> tuple[Method, ...]:
    return (cell.attack, *cell.adaptive) if cell.attack else ()


def _methods(methods: Sequence[Method]) -> dict[str, str]:
    """Names of methods, which labels may hide, their settings, and hashes of the contents that these name."""
    settings: dict[str, str] = {}
    for method in methods:
        content = {f"content of {path}": value for path, value in method.fingerprints.items()}
        for key, value in {"method": method.name, **_leaves(method.settings, method.name), **content}.items():
            place = key
            while place in settings:
                place += "'"
            settings[place] = value
    return settings


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """Settings by dotted path, without those that do not distinguish rows."""
    if isinstance(value, Mapping):
        parts = ((f"{path}.{key}".lstrip("."), item) for key, item in value.items() if key not in _UNLABELLED)
        return {key: leaf for name, item in parts for key, leaf in _leaves(item, name).items()}
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return _leaves({str(number): item for number, item in enumerate(value)}, path)
    return {path: str(value)}
