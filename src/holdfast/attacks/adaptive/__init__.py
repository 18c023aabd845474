"""Adaptive attackers: what somebody who knows of defenses puts round any attack. One file and one row make one.

What each has to offer stands in `holdfast.training.contracts.AdaptiveAttacker`.
"""

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import AdaptiveAttacker, keeps

_HERE = "holdfast.attacks.adaptive"
ADAPTIVE = Table(
    "adaptive attacker",
    "holdfast.attacks.adaptive",
    {
        "early_stop": Row(
            f"{_HERE}.early_stop:EarlyStop", "stop at the highest reward or harm, and keep those weights"
        ),
        "entropy_bonus": Row(f"{_HERE}.entropy_bonus:EntropyBonus", "pay for entropy, in the loss or in the reward"),
        "warm_start": Row(f"{_HERE}.warm_start:WarmStart", "another attack for some steps first, SFT unless told"),
        "mix_weights": Row(f"{_HERE}.mix_weights:MixWeights", "start between the defended and the undefended weights"),
        "subtract_delta": Row(
            f"{_HERE}.subtract_delta:SubtractDelta", "take away from the weights what alignment had added to them"
        ),
        "guided": Row(f"{_HERE}.guided:Guided", "an expert writes a part of the rollouts, less and less of it"),
        "benign_cover": Row(
            f"{_HERE}.benign_cover:BenignCover", "benign rows in the place of some or all harmful ones"
        ),
    },
    keeps(AdaptiveAttacker),
)
