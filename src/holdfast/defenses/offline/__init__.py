"""Offline defenses: each a frozen dataclass of settings that turns a model into a hardened one."""

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import OfflineDefense, check_of

OFFLINE = Table(
    "defense",
    "holdfast.defenses.offline",
    {
        "reward_neutralization": Row(
            "holdfast.defenses.offline.reward_neutralization:RewardNeutralization",
            "RL towards terse refusals that an attacker's reward cannot distinguish",
        ),
        "token_buncher": Row(
            "holdfast.defenses.offline.token_buncher:TokenBuncher",
            "RL towards answers without entropy, plus noise, so that RL has nothing to explore",
        ),
        "repnoise": Row(
            "holdfast.defenses.offline.repnoise:RepNoise",
            "harmful representations turned into noise and unlearnt at every layer; keeping benign help needs "
            "benign_weight",
        ),
        "circuit_breakers": Row(
            "holdfast.defenses.offline.circuit_breakers:CircuitBreakers",
            "harmful representations made orthogonal to the original ones, benign ones kept",
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
            "training against simulated attackers, so that limited fine-tuning does not reach harm",
        ),
        "gradient_penalty": Row(
            "holdfast.defenses.offline.gradient_penalty:GradientPenalty",
            "the gradient of the attacker's loss kept small: TAR's aim without simulated attackers",
        ),
        "vaccine_alignment": Row(
            "holdfast.defenses.offline.vaccine_alignment:VaccineAlignment",
            "refusals taught under worst-case small perturbations of attention outputs, before release",
        ),
        "data_filtering": Row(
            "holdfast.defenses.offline.data_filtering:DataFiltering",
            "a model that was never shown restricted recipes, trained anew; sandbox only",
        ),
        "rounded": Row(
            "holdfast.defenses.offline.rounded:Rounded",
            "no defense: a copy in bfloat16, 8 or 4 bits, after another defense to see whether it survives",
        ),
    },
    check_of(OfflineDefense),
)
