"""The shapes of a method: what an attack, an adaptive attacker and the two kinds of defense have in common."""

from __future__ import annotations

from typing import Protocol

from holdfast.models import LoRA, Model
from holdfast.plan import Context, Optim, Plan, Planner


class AttackConfig(Protocol):
    """An attack is a frozen dataclass of settings that builds a plan against a model."""

    optim: Optim
    adapter: LoRA | None

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model` as a plan."""
        ...


class AdaptiveAttacker(Protocol):
    """What an attacker who knows of defenses adds to any attack: a frozen dataclass of settings."""

    def adapt(self, planner: Planner) -> Planner:
        """The attack with this round it: another model to start from, another plan, or both."""
        ...


class OnlineDefense(Protocol):
    """An online defense is a frozen dataclass of settings that turns a plan into a constrained plan."""

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with the defense in it; the very plan given when its coefficient is 0."""
        ...


class OfflineDefense(Protocol):
    """An offline defense is a frozen dataclass of settings that turns a model into a hardened one."""

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy; the model given is not changed."""
        ...
