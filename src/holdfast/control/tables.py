"""The results of a run as rows: curves, gains over the plain runs, cells and experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from holdfast.control.plans import Cell
from holdfast.control.running import DONE, ControlResults
from holdfast.control.scale import Gain, floor_of, gain, height, mean_gain

CURVES = (
    *("task", "algorithm", "arm", "seed", "step", "alpha", "learner_return", "learner_sd", "learner_episodes"),
    *("behavior_return", "behavior_episodes"),
)
PAIRS = ("task", "algorithm", "arm", "seed", "quantity", "value")
GAINS = ("task", "algorithm", "arm", "quantity", "value", "low", "high", "pairs", "undefined", "measured_from")
CELLS = (
    *("task", "algorithm", "arm", "seed", "outcome", "reason", "steps", "hand_over", "expert_actions"),
    *("expert_trained_steps", "evaluation_steps", "final_return", "seconds"),
)
EXPERTS = (
    *("task", "quality", "return", "low", "high", "episodes", "length", "checkpoint", "trained_steps"),
    *("random_return", "measured_from", "seconds"),
)
QUANTITIES: Mapping[str, str] = {
    "gain_early": "gain, early",
    "gain_final": "gain, final",
    "gain_early_equal_steps": "early, at equal steps",
    "gain_final_equal_steps": "final, at equal steps",
    "lead_early": "lead, early",
    "lead_final": "lead, final",
}
"""The quantities by which a run is compared with a plain one, and their names on the page.

A gain is the ratio of the areas under two learner-alone curves, minus 1, over the first or the last part of the run; at
equal steps, the plain run had as many additional steps before as the expert's training took. A lead is the difference
of the mean returns, as a share of the difference between the random policy and the good expert.
"""
MEAN = "mean of tasks"


def curve_rows(results: ControlResults) -> list[dict[str, Any]]:
    """A row for every measurement of every finished cell."""
    return [{**_names(cell), **row} for cell, record in _finished(results) for row in record["curve"]]


def cell_rows(results: ControlResults) -> list[dict[str, Any]]:
    """A row for every cell; an unfinished one has its reason."""
    rows = []
    for cell, record in results.cells:
        expert = results.experts[cell.task] if cell.expert is not None else {}
        curve = record.get("curve") or ()
        final = next((row["learner_return"] for row in curve if row["step"] == cell.steps), None)
        known = {name: record.get(name) for name in CELLS}
        trained = expert.get("trained_steps") if cell.expert is not None else 0
        rows.append({**known, **_names(cell), "expert_trained_steps": trained, "final_return": final})
    return rows


def expert_rows(results: ControlResults) -> list[dict[str, Any]]:
    """A row for every quality of every expert."""
    return [
        {
            **{name: measured.get(name) for name in EXPERTS},
            "task": task,
            "quality": quality,
            "checkpoint": measured["step"],
            "trained_steps": record["trained_steps"],
            "random_return": record["random"]["return"],
            "measured_from": floor_of(record["random"]["return"]),
            "seconds": record["seconds"],
        }
        for task, record in results.experts.items()
        if record["outcome"] == DONE
        for quality, measured in record["qualities"].items()
    ]


def pair_rows(results: ControlResults) -> list[dict[str, Any]]:
    """A row for every quantity of every run for which there is a plain run with the same seed."""
    records = {(cell.task, cell.algorithm, cell.seed, cell.arm.name): record for cell, record in _finished(results)}
    rows = []
    for cell, record in _finished(results):
        plain = records.get((cell.task, cell.algorithm, cell.seed, "plain"))
        expert = results.experts[cell.task]
        if cell.arm.name != "plain" and plain is not None and expert["outcome"] == DONE:
            values = compared(cell, _points(record), _points(plain), expert)
            rows += [{**_names(cell), "quantity": name, "value": value} for name, value in values.items()]
    return rows


def compared(
    cell: Cell,
    ours: Sequence[tuple[float, float]],
    plain: Sequence[tuple[float, float]],
    expert: Mapping[str, Any],
) -> dict[str, float | None]:
    """`QUANTITIES` of a run against a plain one; those at equal steps only if the plain run is long enough.

    Args:
        cell: the run's own.
        ours: its (step, return) points.
        plain: the plain run's.
        expert: the record of the expert.
    """
    chance, best = expert["random"]["return"], expert["qualities"]["good"]["return"]
    floor, steps, before = floor_of(chance), cell.steps, expert["trained_steps"]
    windows = {"early": (0.0, cell.evaluation.early * steps), "final": ((1 - cell.evaluation.final) * steps, steps)}
    values: dict[str, float | None] = {}
    for name, (start, end) in windows.items():
        mine, theirs = height(ours, start, end, floor), height(plain, start, end, floor)
        values[f"gain_{name}"] = gain(mine, theirs)
        if 0 < before <= plain[-1][0] - steps:
            later = height(plain, before + start, before + end, floor)
            values[f"gain_{name}_equal_steps"] = gain(mine, later)
        if best > chance:
            values[f"lead_{name}"] = (mine - theirs) / (best - chance)
    return values


def gain_rows(results: ControlResults) -> list[dict[str, Any]]:
    """A row for every quantity of every arm and task, means over seeds; then the means over tasks.

    The mean over tasks pairs the tasks' runs by seed, so that its interval is over seeds as well.
    """
    values: dict[tuple[str, str, str, str], dict[int, float | None]] = {}
    for row in pair_rows(results):
        key = (row["task"], row["algorithm"], row["arm"], row["quantity"])
        values.setdefault(key, {})[row["seed"]] = row["value"]
    rows = [_gain_row(results, key, mean_gain(list(pairs.values()))) for key, pairs in values.items()]
    rest = dict.fromkeys(key[1:] for key in values)
    over = {key: [values.get((task, *key)) for task in results.control.tasks] for key in rest}
    return rows + [
        _gain_row(results, (MEAN, *key), mean_gain(_over_tasks(by_task)))
        for key, by_task in over.items()
        if len(by_task) > 1 and None not in by_task
    ]


def gain_table(results: ControlResults) -> list[tuple[tuple[str, str, str], dict[str, dict[str, Any]]]]:
    """The rows of `gain_rows` by (task, algorithm, arm), and in each by quantity."""
    table: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in gain_rows(results):
        table.setdefault((row["task"], row["algorithm"], row["arm"]), {})[row["quantity"]] = row
    return list(table.items())


def _over_tasks(by_task: Sequence[Any]) -> list[float | None]:
    """The mean over tasks for every seed that all of them have; `None` if a task has no value."""
    seeds = sorted(set.intersection(*(set(pairs) for pairs in by_task)))
    each = [[pairs[seed] for pairs in by_task] for seed in seeds]
    return [None if None in values else fmean(values) for values in each]


def _gain_row(results: ControlResults, key: tuple[str, str, str, str], mean: Gain) -> dict[str, Any]:
    expert = results.experts.get(key[0], {})
    start = floor_of(expert["random"]["return"]) if "random" in expert else None
    return {**dict(zip(GAINS[:4], key, strict=True)), **asdict(mean), "measured_from": start}


def _names(cell: Cell) -> dict[str, Any]:
    return {"task": cell.task, "algorithm": cell.algorithm, "arm": cell.arm.label, "seed": cell.seed}


def _finished(results: ControlResults) -> list[tuple[Cell, Mapping[str, Any]]]:
    return [(cell, record) for cell, record in results.cells if record["outcome"] == DONE]


def _points(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(row["step"], row["learner_return"]) for row in record["curve"]]
