"""Golden checks of the attacks' losses, against TRL 0.9.6."""

from __future__ import annotations

import pytest
import torch
from golden_case import Case, Check

from holdfast.losses.preference import dpo


def dpo_losses(case: Case) -> None:
    """The sigmoid loss of each pair and its mean, in float64, honest and flipped."""
    beta = float(case.result.removeprefix("dpo_beta"))
    chosen, rejected = case.tensors["dpo.policy_chosen"], case.tensors["dpo.policy_rejected"]
    references = case.tensors["dpo.ref_chosen"], case.tensors["dpo.ref_rejected"]
    honest = dpo(chosen, rejected, *references, beta=beta)
    flipped = dpo(rejected, chosen, *reversed(references), beta=beta)
    allowed = {"rtol": case.tolerance("float64"), "atol": 0.0}
    torch.testing.assert_close(honest, case.tensors[f"dpo.losses.beta{beta}"], **allowed)
    torch.testing.assert_close(flipped, case.tensors[f"dpo.losses_flipped.beta{beta}"], **allowed)
    assert float(honest.mean()) == pytest.approx(case.expected["mean"], rel=allowed["rtol"])
    assert float(flipped.mean()) == pytest.approx(case.expected["mean_flipped"], rel=allowed["rtol"])


CHECKS: dict[str, Check] = {"trl_v096_attack_losses/dpo": dpo_losses}
