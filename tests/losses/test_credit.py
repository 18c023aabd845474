"""Credit for single tokens, against slow references written out token by token."""

import math

import pytest
import torch

from holdfast.losses.credit import adaptive_kl, gae, token_rewards, whiten

MASK = torch.tensor([[0.0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]])


def one_by_one(rewards, values, gamma, lam):
    """The estimate as the sum of its definition over one answer's tokens."""
    padded = [*values, 0.0]
    deltas = [r + gamma * padded[t + 1] - padded[t] for t, r in enumerate(rewards)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(len(deltas) - t)) for t in range(len(deltas))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_generalized_advantages_are_the_sums_of_their_definition(gamma, lam):
    rewards, values = torch.randn(3, 6) * MASK, torch.randn(3, 6)
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    for i, mask in enumerate(MASK.bool()):
        expected = one_by_one(rewards[i][mask].tolist(), values[i][mask].tolist(), gamma, lam)
        assert advantages[i][mask].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert returns[i][mask].tolist() == pytest.approx((advantages[i] + values[i])[mask].tolist())
    assert (advantages[MASK == 0] == 0).all()
    assert (returns[MASK == 0] == 0).all()


def test_with_lambda_one_and_no_critic_the_advantage_is_the_sum_of_rewards_to_come():
    rewards = torch.randn(3, 6) * MASK
    advantages, _ = gae(rewards, torch.zeros(3, 6), MASK, lam=1.0)
    expected = rewards.flip(-1).cumsum(-1).flip(-1) * MASK
    torch.testing.assert_close(advantages, expected)


def test_the_score_is_paid_on_the_last_token_and_the_penalty_on_each():
    kl = torch.rand(3, 6)
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0]), kl, MASK, kl_coef=0.5)
    expected = -0.5 * kl * MASK
    for i, last in enumerate((5, 3, 3)):
        expected[i, last] += i + 1
    torch.testing.assert_close(rewards, expected)


def test_what_stands_off_the_mask_enters_no_reward():
    kl = torch.where(MASK > 0, 0.1, torch.inf)
    assert token_rewards(torch.ones(3), kl, MASK, kl_coef=0.5).isfinite().all()


def test_whitened_values_have_mean_zero_and_deviation_one_over_the_mask():
    values = torch.randn(3, 6) * 5 + 3
    kept = whiten(values, MASK)[MASK > 0]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert kept.std().item() == pytest.approx(1.0, rel=1e-5)
    unshifted = whiten(values, MASK, shift_mean=False)[MASK > 0]
    assert unshifted.mean().item() == pytest.approx(values[MASK > 0].mean().item(), rel=1e-5)


def test_a_single_value_cannot_be_whitened_and_comes_back():
    mask = torch.zeros(2, 3)
    mask[0, 1] = 1
    values = torch.randn(2, 3)
    assert torch.equal(whiten(values, mask), values)


def test_the_weight_of_the_penalty_rises_above_the_target_falls_below_it_and_never_by_more_than_a_fifth():
    moved = {kl: adaptive_kl(0.2, kl, target=6.0, horizon=100, count=100) for kl in (0.0, 5.9, 6.0, 6.1, 1e9)}
    assert moved[6.0] == 0.2
    assert moved[5.9] < 0.2 < moved[6.1]
    assert moved[0.0] == pytest.approx(0.2 * 0.8)
    assert moved[1e9] == pytest.approx(0.2 * 1.2)
    assert all(map(math.isfinite, moved.values()))
