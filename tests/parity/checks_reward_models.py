"""Golden checks of the reward models' loss, against TRL 0.9.6."""

from __future__ import annotations

import pytest
from golden_case import Case, Check

from holdfast.losses.preference import bradley_terry


def bradley_terry_losses(case: Case) -> None:
    """The mean loss over the pairs in float64, in the order given and flipped."""
    pairs = {
        "bradley_terry_normal": (case.tensors["bt.chosen"], case.tensors["bt.rejected"]),
        "bradley_terry_flipped": (case.tensors["bt.rejected"], case.tensors["bt.chosen"]),
    }
    loss = bradley_terry(*pairs[case.result]).mean()
    assert float(loss) == pytest.approx(case.values["results"][case.result], rel=case.tolerance("float64"))


CHECKS: dict[str, Check] = {"trl_v096_attack_losses/bradley": bradley_terry_losses}
