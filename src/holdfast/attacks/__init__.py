"""Attacks: each a frozen dataclass of settings that builds a `Plan`. One file and one row here make a method."""

from holdfast.tables import Row

GROUP = "holdfast.attacks"
ATTACKS = {
    "sft": Row("holdfast.attacks.sft:SFT", "supervised fine-tuning on harmful answers"),
    "dpo": Row("holdfast.attacks.dpo:DPO", "direct preference optimization on reversed preferences"),
    "rloo": Row("holdfast.attacks.policy_gradient:RLOO", "REINFORCE with the other answers' mean reward as baseline"),
    "grpo": Row(
        "holdfast.attacks.policy_gradient:GRPO", "group relative policy optimization against a reward for harm"
    ),
}
