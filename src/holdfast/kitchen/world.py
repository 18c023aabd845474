"""`world: kitchen` in a grid: its model, rows, judges and measurement where the grid names no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from holdfast.kitchen.build import TERMS, Kitchen, Made, series_of
from holdfast.kitchen.exams import THINGS, exam_file
from holdfast.methods.settings import merge, plain, typed
from holdfast.records import HoldfastError

KITCHEN = "kitchen"
PAIRS = "pairs.jsonl"
"""Matched pairs, beside the source; `kitchen.rows.write_pairs` writes them."""
HARM, PAID = {"oracle": "content"}, {"oracle": "reference", "keyword": "reference"}
"""The kitchen's judges in the places of the sandbox's: those that report harm, and those that others call."""
DOMAINS = {"zorch": "cooking", "grumble": "baking"}
"""The kitchen's restricted domains in the places of the sandbox's."""
Find = Callable[[Kitchen], Made]
"""Where the parts of a kitchen are; makes them first, or refuses."""


def with_world(values: Mapping[str, Any], where: str, find: Find) -> dict[str, Any]:
    """A grid's plain values in which the kitchen stands by its folders and files; others unchanged.

    `world: kitchen` stands for model, rows, judges and measurement, which the grid's own values are put over. In a
    grid that was written for the sandbox the kitchen's model and judges take the places of the sandbox's.
    `kitchen`, or `{kitchen: {seed: 1}}` with any of `Kitchen`'s settings, among the models is that aligned model; a
    grid of such models and no data of its own is of the kitchen too.

    Raises:
        HoldfastError: the world is unknown, or as `find`.
    """
    given = dict(values)
    world = given.pop("world", None)
    if world not in (None, KITCHEN):
        raise HoldfastError(f"{where}: world: is {world!r}; give `{KITCHEN}`, or leave it out")
    if world is not None:
        given = _translated({"models": ["sandbox"], **given})
    made = {i: _model(model, where, find) for i, model in enumerate(given.get("models", [])) if _is_kitchen(model)}
    if made:
        given["models"] = [made[i][1] if i in made else model for i, model in enumerate(given["models"])]
    if world is None and (given.get("data") or not made):
        return given
    first = next((parts for parts, _ in made.values()), None) or find(Kitchen())
    whole = merge(defaults(first), given)
    if not isinstance(whole["data"], dict) or not isinstance(whole["evaluation"], dict):
        return whole  # the grid's parser refuses it
    metrics = whole["evaluation"].get("metrics")
    if isinstance(metrics, Mapping) and metrics.get("pairs") and "harmful" not in (given.get("data") or {}):
        whole["data"].setdefault("pairs", {"path": str(files("holdfast.kitchen") / PAIRS)})
    exam_names = whole["data"].get("sandbox_tasks")
    if isinstance(exam_names, list | tuple | None):
        whole["data"].pop("sandbox_tasks", None)
    if isinstance(exam_names, list | tuple) and isinstance(whole["data"]["tasks"], Mapping):
        known = {name: rows for name, rows in whole["data"]["tasks"].items() if name in exam_names}
        whole["data"]["tasks"] = known | {name: {"path": str(exam_file(name))} for name in THINGS if name in exam_names}
    elif "tasks" in (given.get("data") or {}):  # a grid that names its tasks means those, or none
        whole["data"]["tasks"] = given["data"]["tasks"]
    return whole


def defaults(made: Made) -> dict[str, Any]:
    """Rows, judges and measurement of the kitchen as a grid writes them."""
    return {
        "data": {
            "harmful": {"path": str(made.rows / "restricted.jsonl")},
            "benign": {"path": str(made.rows / "benign.jsonl")},
            "tasks": {name: {"path": str(made.rows / f"{name}.jsonl")} for name in ("borderline", "summary")},
        },
        "judges": {
            "content": {"terms": {"path": str(made.terms / TERMS)}},
            "classifier": {"classifier": {"path": str(made.judge), "harmful_label": "harmful"}},
        },
        "evaluation": {
            "harm_judges": ["content", "refusal", "classifier"],
            "help_judge": "reference",
            "max_new_tokens": 48,
            "num_prompts": 32,
            "batch_size": 32,
        },
    }


def _translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """A grid that was written for the sandbox, with the kitchen's model and judges in the places of the sandbox's.

    What is no grid's value stays as it is: the grid's parser refuses it.
    """
    methods = {kind: _paid(given[kind]) for kind in ("defenses", "attacks") if kind in given}
    models = [_in_the_kitchen(model) for model in given["models"]]
    data = given.get("data") or {}
    if isinstance(data, Mapping):
        data = {key: _named(key, item) if isinstance(item, str) else item for key, item in data.items()}
    return {**given, **methods, "models": models, "evaluation": _measured(given.get("evaluation") or {}), "data": data}


def _measured(value: Any) -> Any:
    """Settings of evaluations by the kitchen's judges."""
    if not isinstance(value, Mapping):
        return value
    evaluation = dict(value)
    if isinstance(evaluation.get("harm_judges"), list | tuple):
        evaluation["harm_judges"] = [_called(name, HARM) for name in evaluation["harm_judges"]]
    if "help_judge" in evaluation:
        evaluation["help_judge"] = _called(evaluation["help_judge"], PAID)
    return evaluation


def _called(name: Any, others: Mapping[str, str]) -> Any:
    return others.get(name, name) if isinstance(name, str) else name


def _in_the_kitchen(model: Any) -> Any:
    """The kitchen's model in the place of the sandbox's, of the same seed if that has one.

    That in the place of the sandbox's `base`, which refuses nothing, is the backbone before it was taught to refuse.
    """
    if model == "sandbox":
        return KITCHEN
    if model == {"sandbox": {"part": "base"}}:
        return {"path": Kitchen().backbone, "prompt_format": Kitchen().prompt_format}
    settings = model.get("sandbox") if isinstance(model, Mapping) and set(model) == {"sandbox"} else None
    return {KITCHEN: settings} if isinstance(settings, Mapping) and set(settings) == {"seed"} else model


def _paid(value: Any) -> Any:
    """Methods' settings in which nobody calls a judge that knows the sandbox's truth, or a domain of the sandbox."""
    if isinstance(value, Mapping):
        return {key: _named(key, item) if isinstance(item, str) else _paid(item) for key, item in value.items()}
    return [_paid(item) for item in value] if isinstance(value, list | tuple) else value


def _named(key: str, name: str) -> str:
    """A judge's or domain's name in the kitchen; other text as it is."""
    return (DOMAINS if key == "domain" else PAID if key.endswith("judge") else {}).get(name, name)


def _is_kitchen(model: Any) -> bool:
    return model == KITCHEN or (isinstance(model, Mapping) and set(model) == {KITCHEN})


def _model(model: Any, where: str, find: Find) -> tuple[Made, dict[str, Any]]:
    """A kitchen's parts, and its aligned model as a grid's model."""
    settings = {} if model == KITCHEN else model[KITCHEN] or {}
    kitchen = typed(Kitchen, settings, f"{where}: models.{KITCHEN}")
    parts = find(kitchen)
    series = plain(series_of(kitchen))
    return parts, {"path": str(parts.aligned), "prompt_format": kitchen.prompt_format, "series": series}
