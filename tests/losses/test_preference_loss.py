"""The DPO loss: worked arithmetic and its symmetries."""

import math

import pytest
import torch

from holdfast.losses.preference import dpo


def test_a_policy_that_is_the_reference_pays_ln_2_whatever_beta():
    same = torch.tensor([-3.0, -20.0])
    assert dpo(same, same - 5, same, same - 5, beta=0.3).tolist() == pytest.approx([math.log(2)] * 2)


def test_the_loss_of_one_pair_by_hand():
    """Margins: (-2 - -3) - (-6 - -4) = 1 + 2 = 3; beta 0.5: -ln sigmoid(1.5) = ln(1 + e^-1.5) = 0.2014."""
    numbers = [torch.tensor([value]) for value in (-2.0, -6.0, -3.0, -4.0)]
    assert float(dpo(*numbers, beta=0.5)) == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)


def test_turning_a_pair_round_turns_the_margin_round():
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 7, dtype=torch.float64)
    honest = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=2.0)
    turned = dpo(rejected, chosen, ref_rejected, ref_chosen, beta=2.0)
    margin = 2.0 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    torch.testing.assert_close(turned - honest, margin)


def test_the_gradient_raises_the_chosen_answer_and_lowers_the_rejected_one():
    chosen, rejected = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    dpo(chosen, rejected, torch.zeros(3), torch.zeros(3), beta=0.1).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.05] * 3)
    assert rejected.grad.tolist() == pytest.approx([0.05] * 3)
