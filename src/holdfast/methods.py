"""The shapes of a method: what an attack, an adaptive attacker and the two kinds of defense have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from holdfast.evaluate import Judged, Suite
    from holdfast.models import LoRA, Model
    from holdfast.plan import Context, Optim, Plan, Planner
    from holdfast.records import Evaluation


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


Keep = Callable[[int, int, Callable[[], Any]], Any]
"""(number, of, make) -> the JSON value of piece `number` of `of`, made by `make` unless it was kept before."""


class SamplingAttack(Protocol):
    """An attack that trains nothing: a frozen dataclass of settings that asks the model as it is, and chooses."""

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """What the attacker gets to see of harmful prompts at growing cost, and answers to look at.

        Whatever took long to make goes through `keep`, so that a run that was killed does not make it again.
        """
        ...


LearnsFrom = Literal["answers", "preferences", "rewards"]
"""What an attack trains on: answers that are given to it, preferences between two, rewards of its own samples."""


def learns_from(attack: object) -> LearnsFrom | None:
    """What an attack (its settings, or their class) says it trains on, as `LEARNS_FROM`; `None` where it does not."""
    return getattr(attack, "LEARNS_FROM", None)


def trains(attack: object) -> bool:
    """Whether an attack (its settings, or their class) trains the model: only then can anything act on its plan."""
    return hasattr(attack, "plan")
