"""Adaptive attackers: what somebody who knows of defenses puts round any attack. One file and one row make one.

Each is a frozen dataclass of settings with `adapt(planner) -> planner`. Where its strength is 0 the planner given comes
back, so that the run is the plain one. An attribute `needs`, where there is one, says what the attack has to learn from
(see `holdfast.attacks.LearnsFrom`).
"""

from functools import partial

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import AdaptiveAttacker, check

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
    partial(check, kinds=(AdaptiveAttacker,)),
)
