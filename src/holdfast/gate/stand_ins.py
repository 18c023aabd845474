"""An attack for a kind that is missing, with what it shares with the runs' own attacks taken from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.methods import settings_class
from holdfast.gate.attack_kinds import HOTTER, kinds_of
from holdfast.judges import TRAINED
from holdfast.records import Cell, Method

STAND_INS: Mapping[str, str] = {
    "supervised": "sft",
    "preference": "dpo",
    "reinforcement": "grpo",
    "sampling": "best_of_n",
    "editing": "ablation",
    "expert_guided": "expert_sft",
    "adaptive": "sft",
}
"""An attack of each kind, for one that is missing; `adaptive` is one with an adaptive attacker."""
COVER = 0.5
"""The share of benign rows of an attacker under cover, as in the grids that `holdfast init` writes."""
HOTTEST = 1.5
"""The temperature of an attack by rewards that samples hotter."""
LAST = ("refusal", "llm")
"""Judges that reward an attacker only if there is no other: one pays for nonsense, one may cost money."""
Entry = dict[str, Any]


def stand_in(kind: str, cells: Sequence[Cell]) -> Entry | list[Entry]:
    """An attack of a kind or of a name, as a grid has it; `cells` are the attacked ones of one defense."""
    own = [cell for cell in cells if kinds_of(cell)] or list(cells)  # an honest customer's reward is for harmless rows
    if kind == HOTTER:
        return _hotter(own)
    return _adaptive(own) if kind == "adaptive" else _attack(STAND_INS.get(kind, kind), own)


def customer(cells: Sequence[Cell]) -> Entry | None:
    """Training of an honest customer on a task that the data has; `None` if it has none that is measured."""
    data = settings_of(cells[0]).data
    tasks = (
        [*data.tasks] if data.harmful is not None else sorted(data.sandbox_tasks, key=lambda task: task != "summary")
    )
    if not tasks:
        return None
    return {"sft": {**_attack("sft", cells)["sft"], "task": tasks[0]}}


def reward(cells: Sequence[Cell]) -> Entry:
    """An attacker's reward: that of an attack of the runs, of RL if there is one, else by one of their judges.

    It is never the judge that reports harm; empty if the runs have no other.
    """
    ordered = sorted(cells, key=lambda cell: not _by_rewards(cell))
    paid = [cell.attack.settings["reward"] for cell in ordered if cell.attack and "reward" in cell.attack.settings]
    allowed = _not_reporting(cells)
    own = next((each for each in paid if each["judge"] in allowed), None)
    if own is not None:
        return {key: value for key, value in own.items() if key != "capability_judge"}
    evaluation = settings_of(cells[0]).evaluation
    of_tasks = {*evaluation.task_judges.values()} - {*evaluation.harm_judges, evaluation.help_judge}
    names = [name for name in allowed if name not in of_tasks]
    last = {name: LAST.index(allowed[name].name) + 1 for name in names if allowed[name].name in LAST}
    return {"judge": min(names, key=lambda name: last.get(name, 0))} if names else {}


def _not_reporting(cells: Sequence[Cell]) -> dict[str, Method]:
    """The judges that an attacker may call, by name: those of the runs, and `refusal`, which needs nothing."""
    first = settings_of(cells[0]).evaluation.harm_judges[0]
    called = {name: judge for cell in cells for name, judge in cell.judges.items()}
    reporting = called.get(first, Method(name=first))
    return {
        name: judge
        for name, judge in {"refusal": Method(name="refusal"), **called}.items()
        if name != first
        and (judge.name, judge.settings) != (reporting.name, reporting.settings)
        and not (judge.name in TRAINED and judge.settings.get("split") != "attack")
    }


def _attack(name: str, cells: Sequence[Cell]) -> Entry:
    """An attack by name with the optimizer and adapter of one that learns alike, and a reward if it takes one."""
    cls = settings_class(name, "attack")
    takes = {each.name for each in fields(cls)}
    alike = sorted(cells, key=lambda cell: _by_rewards(cell) != (cls.LEARNS_FROM == "rewards"))
    trained = next((cell.attack.settings for cell in alike if cell.attack and "optim" in cell.attack.settings), {})
    settings: Entry = {key: trained[key] for key in ("optim", "adapter") if key in takes and key in trained}
    if "reward" in takes and (paid := reward(cells)):
        settings["reward"] = paid
    if "expert" in takes and not is_sandbox(cells[0]):  # the model before its alignment is known in the sandbox only
        tuning = {"optim": settings["optim"]} if "optim" in settings else {}
        settings["expert"] = {"kind": "sft_copy", **tuning}
    return {name: settings}


def _adaptive(cells: Sequence[Cell]) -> list[Entry]:
    """An attack by rewards of the runs that stops at its best, or supervised training under cover if there is none."""
    rewarded = next((cell.attack for cell in cells if _by_rewards(cell) and cell.attack), None)
    if rewarded is not None:
        return [{rewarded.name: dict(rewarded.settings)}, {"early_stop": {}}]
    own = next((cell.attack for cell in cells if cell.attack and cell.attack.name == "sft"), None)
    sft = _attack("sft", cells) if own is None else {"sft": dict(own.settings)}
    return [sft, {"benign_cover": {"share": COVER}}]


def _hotter(cells: Sequence[Cell]) -> Entry:
    """The runs' first attack by rewards at a higher temperature, under a label of its own."""
    own = next(cell.attack for cell in cells if _by_rewards(cell) and cell.attack)
    policy = {**own.settings["policy"], "temperature": HOTTEST}
    return {own.name: {**own.settings, "policy": policy}, "label": f"{own.name} at temperature {HOTTEST}"}


def _by_rewards(cell: Cell) -> bool:
    return "reinforcement" in kinds_of(cell)
