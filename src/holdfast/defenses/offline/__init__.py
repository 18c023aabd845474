"""Offline defenses: each a frozen dataclass of settings that turns a model into a hardened one."""

from holdfast.tables import Row

GROUP = "holdfast.defenses.offline"
OFFLINE = {
    "reward_neutralization": Row(
        "holdfast.defenses.offline.reward_neutralization:RewardNeutralization",
        "RL towards terse refusals that leave an attacker's reward nothing to tell apart",
    ),
}
