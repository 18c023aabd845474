"""The multiplier of a constrained policy, mixed advantages, and the loss of a cost model."""

import math

import pytest
import torch
from torch.nn import functional

from holdfast.losses.lagrangian import ascended, cost_model, lagrangian


def test_the_multiplier_takes_the_step_that_plain_gradient_descent_takes_on_its_logarithm():
    for cost, threshold in ((0.9, 0.2), (0.1, 0.4), (0.3, 0.3)):
        xi = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([xi], lr=0.1)
        (-(cost - threshold) * xi.exp()).backward()
        optimizer.step()
        log_multiplier = ascended(0.4, cost, threshold=threshold, rate=0.1, maximum=None)
        assert log_multiplier == pytest.approx(xi.item(), rel=1e-12)


def test_the_multiplier_never_exceeds_its_bound_however_long_costs_are_too_high():
    log_multiplier = 0.0
    for _ in range(2000):
        log_multiplier = ascended(log_multiplier, 1.0, threshold=0.1, rate=0.1, maximum=5.0)
    assert log_multiplier == math.log(5.0)


def test_the_multiplier_sinks_without_end_while_costs_are_tolerated_and_stays_above_0():
    log_multipliers = [0.0]
    for _ in range(200):
        log_multipliers.append(ascended(log_multipliers[-1], 0.0, threshold=0.2, rate=0.1, maximum=5.0))
    assert log_multipliers == sorted(log_multipliers, reverse=True)
    assert 0 < math.exp(log_multipliers[-1]) < 0.25


def test_mixed_advantages_are_the_rewards_at_multiplier_0_and_minus_the_costs_at_a_great_one():
    rewards, costs = torch.randn(2, 3, 4)
    assert torch.equal(lagrangian(rewards, costs, 0.0), rewards)
    torch.testing.assert_close(lagrangian(rewards, costs, 1e9), -costs)
    torch.testing.assert_close(lagrangian(rewards, costs, 2.0), rewards / 3 - 2 * costs / 3)


def test_a_charge_of_what_the_reward_pays_keeps_its_weight_whatever_the_multiplier():
    penalty = torch.randn(5)
    for multiplier in (0.0, 0.7, 4.0):
        torch.testing.assert_close(lagrangian(-penalty, penalty, multiplier), -penalty)


def test_a_cost_models_loss_is_that_of_each_pair_by_hand():
    safer, unsafer = torch.randn(2, 3)
    signs = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([-1.0, -1.0, 1.0])
    loss = cost_model(safer, unsafer, *signs, regularization=0.1)
    for i in range(3):
        order = -functional.logsigmoid(unsafer[i] - safer[i])
        sides = -functional.logsigmoid(-signs[0][i] * safer[i]) - functional.logsigmoid(-signs[1][i] * unsafer[i])
        squares = 0.1 * (safer[i] ** 2 + unsafer[i] ** 2) / 2
        torch.testing.assert_close(loss[i], order + sides + squares)


def test_places_that_do_not_count_enter_no_mean_and_get_no_gradient():
    costs = torch.randn(2, 2, 4, requires_grad=True)
    outside = torch.tensor([[True, False, False, True], [True, True, False, False]])
    safer, unsafer = (part.masked_fill(outside, math.nan) for part in costs)
    signs = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])
    loss = cost_model(safer, unsafer, *signs)
    loss.sum().backward()
    for i in range(2):
        kept = ~outside[i]
        alone = cost_model(costs[0, i, kept][None], costs[1, i, kept][None], signs[0][i : i + 1], signs[1][i : i + 1])
        torch.testing.assert_close(loss[i : i + 1], alone)
    assert not costs.grad[:, outside].any()
    assert costs.grad.isfinite().all()
