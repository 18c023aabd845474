"""Adaptive attackers: wrappers for any attack, used by an attacker who knows the defenses. One file and one row each.

Their protocol is `holdfast.training.contracts.AdaptiveAttacker`.
"""

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import AdaptiveAttacker, check_of

_HERE = "holdfast.attacks.adaptive"
ADAPTIVE = Table(
    "adaptive attacker",
    "holdfast.attacks.adaptive",
    {
        "early_stop": Row(
            f"{_HERE}.early_stop:EarlyStop", "stop at the highest reward or harm, and keep those weights"
        ),
        "entropy_bonus": Row(f"{_HERE}.entropy_bonus:EntropyBonus", "reward entropy, in the loss or in the reward"),
        "warm_start": Row(f"{_HERE}.warm_start:WarmStart", "another attack for some steps first, SFT by default"),
        "mix_weights": Row(f"{_HERE}.mix_weights:MixWeights", "start between the defended and the undefended weights"),
        "subtract_delta": Row(
            f"{_HERE}.subtract_delta:SubtractDelta", "subtract from the weights what alignment added to them"
        ),
        "reshape": Row(f"{_HERE}.reshape:Reshape", "rescale weights so that every logit stays as it was"),
        "resample": Row(f"{_HERE}.resample:Resample", "sample groups again whose answers all earn the same"),
        "guided": Row(f"{_HERE}.guided:Guided", "an expert writes a decreasing share of the rollouts"),
        "benign_cover": Row(f"{_HERE}.benign_cover:BenignCover", "benign rows instead of some or all harmful ones"),
    },
    check_of(AdaptiveAttacker),
)
