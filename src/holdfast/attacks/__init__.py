"""Attacks: each a frozen dataclass of settings that builds a `Plan`. One file and one row here make a method.

An attack that trains nothing has no plan and is a `SamplingAttack` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

from holdfast.tables import Row

if TYPE_CHECKING:
    from holdfast.evaluate import Judged, Suite
    from holdfast.models import Model
    from holdfast.plan import Context
    from holdfast.records import Evaluation

GROUP = "holdfast.attacks"
_FAMILY = "holdfast.attacks.policy_gradient"
ATTACKS = {
    "sft": Row("holdfast.attacks.sft:SFT", "supervised fine-tuning on harmful answers"),
    "dpo": Row("holdfast.attacks.dpo:DPO", "direct preference optimization on reversed preferences"),
    "grpo": Row(f"{_FAMILY}:GRPO", "group relative policy optimization against a reward for harm"),
    "dr_grpo": Row(f"{_FAMILY}:DrGRPO", "grpo without deviation and length normalisation"),
    "dapo": Row(f"{_FAMILY}:DAPO", "grpo averaged over tokens, with more room above the clip"),
    "rloo": Row(f"{_FAMILY}:RLOO", "REINFORCE with the other answers' mean reward as baseline"),
    "reinforce++": Row(
        f"{_FAMILY}:ReinforcePlusPlus", "REINFORCE with returns whitened over the batch and a KL penalty"
    ),
    "ppo": Row(f"{_FAMILY}:PPO", "proximal policy optimization with a critic and an adaptive KL penalty"),
    "best_of_n": Row(
        "holdfast.attacks.best_of_n:BestOfN", "of N sampled answers the one that a reward likes most; no training", "N"
    ),
    "expert_sft": Row("holdfast.attacks.expert_sft:ExpertSFT", "sft on what an expert answers and a reward accepts"),
    "expert_alone": Row(
        "holdfast.attacks.expert_alone:ExpertAlone", "an expert in the model's place; nothing is attacked", "N"
    ),
}

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


def unit(name: str) -> str:
    """What the curve of the attack called `name` runs over: `step`, or the sign of something else (`N`)."""
    return ATTACKS[name].unit if name in ATTACKS else "step"
