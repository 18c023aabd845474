"""Offline defenses: each a frozen dataclass of settings that turns a model into a hardened one."""

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import OfflineDefense, keeps

OFFLINE = Table(
    "defense",
    "holdfast.defenses.offline",
    {
        "reward_neutralization": Row(
            "holdfast.defenses.offline.reward_neutralization:RewardNeutralization",
            "RL towards terse refusals that leave an attacker's reward nothing to tell apart",
        ),
        "token_buncher": Row(
            "holdfast.defenses.offline.token_buncher:TokenBuncher",
            "RL towards answers without entropy, laced with noise, which leave RL nothing to explore",
        ),
        "repnoise": Row(
            "holdfast.defenses.offline.repnoise:RepNoise",
            "harmful representations turned to noise, unlearnt at every layer; keeping benign help needs benign_weight",
        ),
        "circuit_breakers": Row(
            "holdfast.defenses.offline.circuit_breakers:CircuitBreakers",
            "harmful representations turned at right angles to what they were, benign ones kept",
        ),
        "rmu": Row(
            "holdfast.defenses.offline.rmu:RMU",
            "harmful representations steered to a fixed random vector in a few tensors, benign ones kept",
        ),
        "representation_removal": Row(
            "holdfast.defenses.offline.representation_removal:RepresentationRemoval",
            "the family of the three: any distance (mmd, cosine, mse) with any projection (noise, original, fixed)",
        ),
        "tar": Row(
            "holdfast.defenses.offline.tar:TAR",
            "training against attackers that train: harm stays out of reach of some fine-tuning",
        ),
        "gradient_penalty": Row(
            "holdfast.defenses.offline.gradient_penalty:GradientPenalty",
            "the gradient of the attacker's loss kept small: what TAR aims at, without following attackers",
        ),
        "vaccine_alignment": Row(
            "holdfast.defenses.offline.vaccine_alignment:VaccineAlignment",
            "refusals taught under the worst small change of attentions' outputs, before any attack",
        ),
    },
    keeps(OfflineDefense),
)
