"""Attacks: each a frozen dataclass of settings that builds a `Plan`. A new method needs one file and one row here.

An attack that does not train is a `SamplingAttack`, which has no plan.
"""

from __future__ import annotations

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import SamplingAttack, TrainingAttack, check_of

_FAMILY = "holdfast.attacks.policy_gradient"
ATTACKS = Table(
    "attack",
    "holdfast.attacks",
    {
        "sft": Row("holdfast.attacks.sft:SFT", "supervised fine-tuning on harmful answers"),
        "dpo": Row("holdfast.attacks.dpo:DPO", "direct preference optimization on reversed preferences"),
        "grpo": Row(f"{_FAMILY}:GRPO", "group relative policy optimization against a reward for harm"),
        "dr_grpo": Row(f"{_FAMILY}:DrGRPO", "grpo without deviation and length normalisation"),
        "dapo": Row(f"{_FAMILY}:DAPO", "grpo averaged over tokens, with a higher upper clip"),
        "rloo": Row(f"{_FAMILY}:RLOO", "REINFORCE with the other answers' mean reward as baseline"),
        "reinforce++": Row(
            f"{_FAMILY}:ReinforcePlusPlus", "REINFORCE with returns whitened over the batch and a KL penalty"
        ),
        "ppo": Row(f"{_FAMILY}:PPO", "proximal policy optimization with a critic and an adaptive KL penalty"),
        "best_of_n": Row(
            "holdfast.attacks.best_of_n:BestOfN",
            "the highest-reward answer of N samples; no training",
            "N",
        ),
        "ablation": Row(
            "holdfast.attacks.ablation:Ablation",
            "the directions of refusing searched and edited in the weights; no training",
            "trials",
        ),
        "prefill": Row(
            "holdfast.attacks.prefill:Prefill", "answers that are begun for the model; no training", "tokens given"
        ),
        "expert_sft": Row("holdfast.attacks.expert_sft:ExpertSFT", "sft on an expert's answers that a reward accepts"),
        "expert_alone": Row(
            "holdfast.attacks.expert_alone:ExpertAlone", "the expert evaluated instead of the model; no attack", "N"
        ),
        "external": Row(
            "holdfast.attacks.external:External", "weights that somebody else attacked, as they are", "claimed step"
        ),
    },
    check_of(TrainingAttack, SamplingAttack),
)


def unit(name: str) -> str:
    """The x-axis of the attack's curve: `step`, or the symbol of another quantity (`N`)."""
    return ATTACKS[name].unit if name in ATTACKS else "step"
