"""Grids that were written for the sandbox, run in another world: what its models need is put over what they have.

A world's file says, by the name of a method, which settings it has there (learning rates, batch sizes, adapters). What
a grid asks stays: weights of defenses, shares of flipped rows, sizes of attack sets. There is one file for the kitchen,
and one in `holdfast.real` for the models and data sets of each paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from holdfast.files.plain_yaml import yaml_value
from holdfast.methods.settings import merge
from holdfast.methods.tables import near
from holdfast.records import HoldfastError

KITCHEN = "kitchen"
KEYS = {"description", "paper", "sources", "models", "harmful", "data", "judges", "calls", "evaluation"}
KEYS |= {"steps", "methods", "trained", "perplexity"}
"""What a world's file may say."""
OF_THE_SANDBOX = ("train", "held_out", "domain", "repeat_names", "sandbox_tasks")
"""Settings of data that only the sandbox's own rows have."""
SELDOM = 4
"""The least number of steps between two evaluations where a world takes fewer steps: real models answer slowly."""
LEVELS = 2
"""Stacks of methods are lists inside the list of an axis."""


def real_worlds() -> dict[str, Path]:
    """The files of real models and data sets, by the world's name."""
    return {path.stem: path for path in sorted(Path(str(files("holdfast") / "real")).glob("*.yaml"))}


@cache
def world_file(name: str) -> Mapping[str, Any]:
    """What the file of a world says: the kitchen's, or that of a real one."""
    path = Path(str(files("holdfast") / "kitchen" / "methods.yaml")) if name == KITCHEN else real_worlds()[name]
    known: Mapping[str, Any] = yaml_value(path.read_text(encoding="utf-8"), str(path))
    strange = set(known) - KEYS
    if strange:
        raise HoldfastError(f"{path}: unknown key {min(strange)!r}; known: {', '.join(sorted(KEYS))}")
    return known


def named(world: Any, where: str) -> tuple[str, str | None]:
    """The name of a world and of one of its sets of harmful rows: `rosati2024`, or `rosati2024:safe_rlhf`.

    Raises:
        HoldfastError: there is no such world or set.
    """
    name, _, part = str(world).partition(":")
    known = [KITCHEN, *real_worlds()]
    if name not in known:
        raise HoldfastError(f"{where}: world: is {world!r}{near(name, known)}; give `{'`, `'.join(known)}`")
    parts = world_file(name).get("harmful", {})
    if part and part not in parts:
        there = ", ".join(parts) or "none"
        raise HoldfastError(f"{where}: world: {name} has no rows {part!r}{near(part, parts)}; known: {there}")
    return name, part or next(iter(parts), None)


def fitted(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A grid's plain values with the settings of its world, where it was written for the sandbox and names another one.

    What is no grid's value, such as a number in the place of settings, stays as it is: the grid's parser refuses it.

    Raises:
        HoldfastError: there is no such world.
    """
    given = dict(values)
    models = given.get("models", given.get("model"))
    listed = models if isinstance(models, list | tuple) else [models]
    if given.get("world") is None or not any(_of_sandbox(model) for model in listed):
        return given
    known = world_file(named(given["world"], where)[0])
    for axis in ("defense", "defenses", "attack", "attacks"):
        if axis in given:
            given[axis] = _methods(given[axis], known, LEVELS)
    if isinstance(given.get("judges"), Mapping):
        given["judges"] = {name: _judge(judge, known) for name, judge in given["judges"].items()}
    return {**given, "evaluation": _evaluation(given.get("evaluation") or {}, known)}


def _evaluation(value: Any, known: Mapping[str, Any]) -> Any:
    """A grid's settings of evaluations with the world's over them."""
    if not isinstance(value, Mapping) or not isinstance(value.get("metrics"), Mapping | None):
        return value
    own = dict(value)
    if isinstance(own.get("every"), int) and not isinstance(known["steps"], str):
        own["every"] = max(SELDOM, _scaled(own["every"], known["steps"]))
    if (own.get("metrics") or {}).get("perplexity"):
        own["metrics"] = {**own["metrics"], "perplexity": known["perplexity"]}
    return merge(own, known.get("evaluation", {}))


def with_real(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A grid's plain values in which a real world stands by its models, rows and judges; others unchanged.

    Raises:
        HoldfastError: there is no such world, or it has no model for one of the sandbox's.
    """
    given = dict(values)
    if given.get("world") is None:
        return given
    name, part = named(given["world"], where)
    if name == KITCHEN:
        return given
    del given["world"]
    known = world_file(name)
    given["models"] = [_model(model, known["models"], where) for model in given.get("models", ["sandbox"])]
    data = given.get("data") or {}
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if key not in OF_THE_SANDBOX}
    below = {"data": {**known["data"], "harmful": known["harmful"][part]}}
    below |= {key: known[key] for key in ("judges", "evaluation")}
    return merge(below, {**given, "data": data})


def _of_sandbox(model: Any) -> bool:
    return model == "sandbox" or (isinstance(model, Mapping) and "sandbox" in model)


def _model(model: Any, known: Mapping[str, Any], where: str) -> Any:
    """The real model in the place of one of the sandbox's: the aligned one, or that before alignment."""
    if not _of_sandbox(model):
        return model
    settings = {} if model == "sandbox" else model["sandbox"] or {}
    if not isinstance(settings, Mapping):
        raise HoldfastError(f"{where}: models.sandbox: expected settings as `key: value`, not {settings!r}")
    more = next((key for key in settings if key != "part"), None)
    if more is not None:
        raise HoldfastError(f"{where}: models.sandbox: a real world has one model of each kind; remove {more!r}")
    part = settings.get("part", "aligned")
    if not isinstance(part, str) or part not in known:
        raise HoldfastError(f"{where}: models.sandbox.part: the world has no model {part!r}; known: {', '.join(known)}")
    return known[part]


def _methods(value: Any, known: Mapping[str, Any], levels: int) -> Any:
    """Entries of an axis, in each of which the methods have the world's settings."""
    if isinstance(value, list | tuple):
        return [_methods(item, known, levels - 1) for item in value] if levels else value
    name = next((key for key in value if key != "label"), None) if isinstance(value, Mapping) else value
    if name not in known["methods"] or (isinstance(value, Mapping) and not isinstance(value[name], Mapping | None)):
        return _called(value, known)
    own = _called(dict(value[name] or {}), known) if isinstance(value, Mapping) else {}
    if str(own.get("preset", "")).startswith("sandbox"):
        own = {key: item for key, item in own.items() if key != "preset"}
    label = {"label": value["label"]} if isinstance(value, Mapping) and "label" in value else {}
    return {**label, name: _over(own, known["methods"][name] or {}, known["steps"])}


def _over(own: Mapping[str, Any], world: Mapping[str, Any], steps: float | str) -> dict[str, Any]:
    """A method's settings with the world's over them; the number of steps is scaled where the world sets none."""
    before, theirs, size = own.get("optim") or {}, world.get("optim") or {}, "per_device_train_batch_size"
    if not isinstance(before, Mapping) or not isinstance(before.get(size, 1), int):
        return dict(own)
    both = merge(own, world)
    if "max_steps" not in before or "max_steps" in theirs:
        return both
    as_many_rows = before.get(size, 1) / theirs.get(size, before.get(size, 1))
    by = as_many_rows if isinstance(steps, str) else steps
    return {**both, "optim": {**both["optim"], "max_steps": _scaled(before["max_steps"], by)}}


def _scaled(number: Any, by: float) -> Any:
    return max(1, round(number * by)) if isinstance(number, int) else number


def _judge(value: Any, known: Mapping[str, Any]) -> Any:
    """A judge that a run trains, with the world's settings; others are the grid's own."""
    name = next(iter(value), None) if isinstance(value, Mapping) else value
    own = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(name, str) or name not in known["trained"] or not isinstance(own, Mapping | None):
        return value
    return {name: merge(own or {}, known["trained"][name])}


def _called(value: Any, known: Mapping[str, Any]) -> Any:
    """Settings in which judges that know the sandbox's truth are replaced by the world's."""
    if isinstance(value, Mapping):
        calls = known.get("calls", {})
        return {
            key: calls.get(item, item) if isinstance(item, str) and str(key).endswith("judge") else _called(item, known)
            for key, item in value.items()
        }
    return value
