"""The kinds of attacks, by what an attacker does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.attacks import ATTACKS
from holdfast.records import Cell, HoldfastError, Method

KINDS: Mapping[str, str] = {
    "supervised": "trains on harmful answers",
    "preference": "trains on reversed preferences",
    "reinforcement": "trains by a reward for harm",
    "sampling": "trains nothing and chooses among many answers, or begins them",
    "editing": "trains nothing and edits weights",
    "expert_guided": "is helped by another model's answers",
    "adaptive": "is made for the defense",
}
HOTTER = "reinforcement, sampled hotter"
"""What a line about `reinforcement` asks for besides, of weights that anyone may train: a model that is certain of its
refusals at temperature 1 may not be at a higher one, and an attacker chooses."""
_RL = ("grpo", "dr_grpo", "dapo", "rloo", "reinforce++", "ppo")
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "sft": ("supervised",),
    "dpo": ("preference",),
    **dict.fromkeys(_RL, ("reinforcement",)),
    "best_of_n": ("sampling",),
    "prefill": ("sampling",),
    "ablation": ("editing",),
    "expert_sft": ("supervised", "expert_guided"),
    "expert_alone": (),
    "external": ("other",),
}
"""Of the built-in attacks, so that none need be imported. `expert_alone` attacks nothing: the expert answers itself.
How `external` weights were trained is not known."""
_LEARNING = {"answers": "supervised", "preferences": "preference", "rewards": "reinforcement"}
_GUIDED = "guided"
_OFF: Mapping[str, Mapping[str, float]] = {
    "benign_cover": {"share": 0},
    "early_stop": {"patience": 0},
    "entropy_bonus": {"coefficient": 0},
    "guided": {"schedule.start": 1},
    "mix_weights": {"weight": 0},
    "resample": {"tries": 0, "leave_out": False},
    "reshape": {"norms": 1, "pairs": 1},
    "subtract_delta": {"scale": 0},
    "warm_start": {"optim.max_steps": 0},
}
"""Settings with which an adaptive attacker changes nothing. Of several, records may lack all but the first, which are
then as here."""


def kinds_of(cell: Cell) -> frozenset[str]:
    """The kinds of a cell's attack with its adaptive attackers; empty without one, and for an honest customer's."""
    if cell.attack is None or cell.attack.settings.get("task") is not None:
        return frozenset()
    own = BUILT_IN.get(cell.attack.name)
    kinds = set(own if own is not None else _kinds_of_others(cell.attack.name))
    acting = [method.name for method in cell.adaptive if not is_off(method)]
    if kinds and acting:
        kinds |= {"adaptive"} | ({"expert_guided"} if _GUIDED in acting else set())
    return frozenset(kinds)


def is_off(adaptive: Method) -> bool:
    """Whether an adaptive attacker changes nothing by its settings, so that the attack is the plain one."""
    given = [(_setting(adaptive.settings, name), off) for name, off in _OFF.get(adaptive.name, {}).items()]
    if not given or given[0][0] is None:
        return False
    return all(value is None or value == off for value, off in given)


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """A setting by its dotted name; `None` if there is none."""
    head, _, rest = name.partition(".")
    value = settings.get(head)
    return _setting(value, rest) if rest and isinstance(value, Mapping) else None if rest else value


def sampled_at(cell: Cell) -> float | None:
    """The temperature at which an attack by rewards samples its answers; `None` where its settings do not say."""
    policy = cell.attack.settings.get("policy") if cell.attack is not None else None
    return float(policy["temperature"]) if isinstance(policy, Mapping) and "temperature" in policy else None


def _kinds_of_others(name: str) -> tuple[str, ...]:
    """The kind of an attack of another package, which may not be installed where its runs are judged."""
    try:
        cls = ATTACKS.load(name)
    except HoldfastError:
        return ("other",)
    if cls.LEARNS_FROM is None:
        return ("editing" if cls.EDITS else "sampling",)
    return (_LEARNING[cls.LEARNS_FROM],)
