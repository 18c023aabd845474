"""The DPO loss: worked arithmetic and its symmetries."""

import math

import pytest
import torch

from holdfast.losses.preference import bradley_terry, dpo


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


def test_equal_rewards_pay_ln_2_and_a_margin_of_3_pays_ln_1_plus_e_to_the_minus_3():
    losses = bradley_terry(torch.tensor([4.0, 1.0]), torch.tensor([4.0, -2.0]))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-3))])


def test_a_constant_added_to_all_rewards_changes_nothing():
    chosen, rejected = torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(bradley_terry(chosen + 7, rejected + 7), bradley_terry(chosen, rejected))


def test_the_gradient_of_a_reward_is_the_chance_that_the_pair_is_out_of_order():
    chosen, rejected = torch.tensor([0.5], requires_grad=True), torch.tensor([1.5], requires_grad=True)
    bradley_terry(chosen, rejected).backward()
    wrong = 1 / (1 + math.exp(-1.0))
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-wrong, wrong))


def test_a_hopeless_pair_still_has_a_finite_loss():
    assert bradley_terry(torch.tensor([-500.0]), torch.tensor([500.0])).item() == pytest.approx(1000.0)
