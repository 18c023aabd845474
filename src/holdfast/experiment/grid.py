"""A grid of experiments as a value, and its cells: every combination, resolved and checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from holdfast.data.dataset import Data
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.calling import called, judges_of
from holdfast.experiment.combinations import Misfit, refuse_misfits
from holdfast.experiment.methods import Kind, adaptive, divide, resolve
from holdfast.experiment.origins import origin_of
from holdfast.experiment.outcomes import control_of
from holdfast.files.fingerprints import of_model, of_settings
from holdfast.files.gguf import PACKAGE
from holdfast.files.hub import commit_of
from holdfast.methods.ranges import Seed, ranged
from holdfast.methods.settings import plain, refuse_non_finite
from holdfast.network.pretrained import Pretrained
from holdfast.network.releasing import FORMATS
from holdfast.records import Cell, HoldfastError, Method
from holdfast.records.hashing import SERIES
from holdfast.sandbox.build import Sandbox

ROUNDED = "rounded"
"""The stage that makes a copy in another format."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Grid:
    """What to run: the product of models, defenses, attacks and seeds.

    A defense is a tuple of methods (a stack; empty for none), offline ones first. An attack is a tuple too: the attack
    and its adaptive attackers, or empty: then the model is only measured. `judges` are those that settings may call by
    name, in addition to the built-in ones. A combination in which a method has nothing to act on, such as a constraint
    on preferences with an attack that has none, is refused, or skipped if `misfits` is `skip`. `control` adds the
    missing cells of the same attacks on undefended models: without them no defense counts as held. `copies` are formats
    (see `rounded`) in which each model hardened by offline defenses, and the undefended one, is attacked too.
    """

    name: str
    models: tuple[Sandbox | Pretrained, ...]
    defenses: tuple[tuple[Method, ...], ...] = ((),)
    attacks: tuple[tuple[Method, ...], ...] = ((),)
    seeds: tuple[Seed, ...] = (0,)
    data: Data = field(default_factory=Data)
    judges: Mapping[str, Method] = field(default_factory=dict)
    evaluation: Measurement = field(default_factory=Measurement)
    description: str = ""
    misfits: Literal["refuse", "skip"] = "refuse"
    control: bool = True
    copies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.misfits not in ("refuse", "skip"):
            raise HoldfastError(f"misfits: is {self.misfits!r}; give `refuse` or `skip`")
        if not isinstance(self.control, bool):
            raise HoldfastError(f"control: is {self.control!r}; give true or false")
        bad = next((to for to in self.copies if to not in FORMATS), None)
        if bad is not None:
            raise HoldfastError(f"copies: {bad!r} is no format of a copy; give some of {', '.join(FORMATS)}")


def cells(grid: Grid) -> list[Cell]:
    """Every cell of a grid, in the order models, defenses, attacks, seeds; then the controls that it lacks.

    Raises:
        HoldfastError: a method or judge is unknown or has wrong settings, an attacker's reward is the reporting judge,
            or a combination is invalid.
    """
    data, evaluation = data_values(grid.data), evaluation_values(grid.evaluation)
    for name, judge in grid.judges.items():  # also those that are not called: a misspelt name may be the reason
        resolve(judge, "judge", f"judges.{name}")
    ways = _ways(grid)
    models = [model_values(model) for model in grid.models]
    for name, value in (*(("model", model) for model in models), ("data", data), ("evaluation", evaluation)):
        refuse_non_finite(value, name)
    expanded = [
        replace(way, model=model, data=data, evaluation=evaluation, seed=seed)
        for model in models
        for way in ways
        for seed in grid.seeds
    ]
    if not expanded:
        raise HoldfastError(
            f"{grid.name}: no combination of its defenses and attacks is valid, and all are skipped; "
            "`misfits: refuse` says why"
        )
    return [*expanded, *(missing_controls(expanded) if grid.control else ())]


def _ways(grid: Grid) -> list[Cell]:
    """Every valid combination of a defense and an attack, with its judges, as a cell of no model."""
    evaluation, first_judge = plain(grid.evaluation), grid.evaluation.harm_judges[0]
    defenses = [(defense, *divide(defense)) for defense in _with_copies(grid)]
    attacks = [
        (attack, tuple(resolve(method, "attack") for method in attack[:1]), tuple(adaptive(attack)))
        for attack in grid.attacks
    ]
    ways = []
    for (defense, stages, constraints), (written, attack, around) in itertools.product(defenses, attacks):
        kinds: dict[Kind, Sequence[Method]] = {"offline": stages, "online": constraints}
        kinds |= {"attack": attack, "adaptive": around}
        methods = [(kind, method) for kind, several in kinds.items() for method in several]
        own_data = grid.data.harmful is not None or grid.data.benign is not None
        judges = judges_of(called(evaluation, methods, (*defense, *written)), grid.judges, own_data=own_data)
        try:
            refuse_misfits((*attack, *around), constraints, judges, judges[first_judge])
        except Misfit:
            if grid.misfits == "refuse":
                raise
            continue
        ways.append(
            Cell(
                model={},
                stages=stages,
                constraints=constraints,
                attack=attack[0] if attack else None,
                adaptive=around,
                judges=judges,
            )
        )
    return ways


def _with_copies(grid: Grid) -> list[tuple[Method, ...]]:
    """The grid's defenses, each followed by those of its copies; online defenses leave no model to copy."""
    defenses: list[tuple[Method, ...]] = []
    for defense in grid.defenses:
        defenses.append(defense)
        stages, constraints = divide(defense)
        if not constraints and not any(stage.name == ROUNDED for stage in stages):
            defenses += [(*defense, Method(name=ROUNDED, settings={"to": to})) for to in dict.fromkeys(grid.copies)]
    return defenses


def missing_controls(cells: Sequence[Cell]) -> list[Cell]:
    """The controls (same attacks on undefended models) that are not among the cells, each once, in their order."""
    there = {cell.key for cell in cells}
    controls = {control.key: control for cell in cells if (control := control_of(cell)) is not None}
    return [control for key, control in controls.items() if key not in there]


def model_values(model: Sandbox | Pretrained) -> dict[str, Any]:
    """A model as the JSON values of a cell, with its `kind`."""
    if isinstance(model, Sandbox):
        name = f"sandbox-{model.architecture}-{model.size}{'-base' if model.part == 'base' else ''}"
        return {"kind": "sandbox", "name": name, "settings": plain(model)}
    settings = plain(model)
    origin, series = settings.pop("undefended"), settings.pop("series")
    values = {
        "kind": "pretrained",
        "name": model.path.rstrip("/").rpartition("/")[2].removeprefix(PACKAGE),
        "settings": settings,
        "fingerprint": model_fingerprint(model),
        **({} if series is None else {SERIES: series}),
    }
    made_from = origin_of(model.path) if origin is None else None
    if origin is not None:
        return {**values, "undefended": model_values(replace(model, path=origin, revision=None, undefended=None))}
    if made_from is None or not made_from.there:
        return values
    other = replace(model, path=made_from.place, revision=made_from.revision)
    return {**values, "undefended": {**model_values(other), "name": made_from.name}}


def model_fingerprint(model: Pretrained) -> str:
    """The fingerprint of a model: a hash of the contents of its folder or GGUF file (see `fingerprints`).

    That of a Hub id is the commit of its revision (see `hub`), or the revision's name if the commit is unknown. Raises
    `HoldfastError` if a folder or file has a revision.
    """
    content = of_model(model.path)
    if content is None:
        return f"{model.path}@{commit_of(model.path, model.revision) or model.revision or 'main'}"
    if model.revision is not None:
        raise HoldfastError(
            f"models: {model.path}: `revision` applies to a Hub id and not to a folder or file; remove it"
        )
    return content


def data_values(data: Data) -> dict[str, Any]:
    """Data settings as the JSON values of a cell, with a hash of each file's content.

    `tasks` is left out where there are none: cells that were finished before there were any keep their keys.
    """
    values = {key: value for key, value in plain(data).items() if key != "tasks" or value}
    return {**values, "fingerprints": data_fingerprints(data)}


def evaluation_values(evaluation: Measurement) -> dict[str, Any]:
    """Evaluation settings as the JSON values of a cell, with a hash of the model that perplexity is measured with."""
    values = plain(evaluation)
    wanted = evaluation.metrics.perplexity
    hashes = {} if wanted is None else of_settings(plain(wanted))
    return {**values, "fingerprints": hashes} if hashes else values


def data_fingerprints(data: Data) -> dict[str, str]:
    """A hash of each file's content; none for the sandbox's own data.

    Raises:
        HoldfastError: harmful and benign rows are the same.
    """
    from holdfast.data.read import fingerprint

    hashes = {key: fingerprint(source) for key, source in data.sources.items()}
    _refuse_one_file(data, hashes)
    return hashes


def _refuse_one_file(data: Data, hashes: Mapping[str, str]) -> None:
    """Refuse files with equal content as both harmful and benign rows."""
    one, other = data.harmful, data.benign
    if one is None or other is None or hashes["harmful"] != hashes["benign"]:
        return
    if (one.split, one.name) == (other.split, other.name):
        raise HoldfastError(
            f"data.harmful and data.benign are the same rows ({one.path} and {other.path}); harmful prompts cannot "
            "measure usefulness: give two files, or two splits of one data set"
        )
