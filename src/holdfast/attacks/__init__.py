"""Attacks: each a frozen dataclass of settings that builds a `Plan`. One file and one row here make a method.

An attack that trains nothing has no plan and is a `SamplingAttack` instead.
"""

from __future__ import annotations

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import SamplingAttack, TrainingAttack, keeps

_FAMILY = "holdfast.attacks.policy_gradient"
ATTACKS = Table(
    "attack",
    "holdfast.attacks",
    {
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
            "holdfast.attacks.best_of_n:BestOfN",
            "of N sampled answers the one that a reward likes most; no training",
            "N",
        ),
        "expert_sft": Row(
            "holdfast.attacks.expert_sft:ExpertSFT", "sft on what an expert answers and a reward accepts"
        ),
        "expert_alone": Row(
            "holdfast.attacks.expert_alone:ExpertAlone", "an expert in the model's place; nothing is attacked", "N"
        ),
    },
    keeps(TrainingAttack, SamplingAttack),
)


def unit(name: str) -> str:
    """What the curve of the attack called `name` runs over: `step`, or the sign of something else (`N`)."""
    return ATTACKS[name].unit if name in ATTACKS else "step"
