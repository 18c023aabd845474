"""Group advantages, the clipped surrogate, estimators of the KL divergence, reductions."""

import math
import statistics

import pytest
import torch

from holdfast.losses.policy_gradient import group_advantages, importance_weights, kl_estimate, reduce, surrogate

NAN = float("nan")
SCALES = ("group", "batch", "none")
REDUCTIONS = ("sequence", "token", "fixed")


def random_rewards(n=24):
    """Multiples of 1/64, so that adding a whole number to them rounds nothing."""
    return torch.randint(65, (n,), generator=torch.Generator().manual_seed(3)) / 64


def slow_advantages(rewards, size, scale, epsilon=1e-4):
    values = rewards.tolist()
    groups = [values[i : i + size] for i in range(0, len(values), size)]
    advantages = []
    for group in groups:
        spread = {"group": lambda g=group: statistics.stdev(g), "batch": lambda: statistics.stdev(values)}.get(scale)
        advantages += [(r - statistics.fmean(group)) / (spread() + epsilon if spread else 1.0) for r in group]
    return advantages


def test_advantages_of_four_rewards_by_hand():
    """Of (1, 0, 0, 1) the mean is 1/2 and the unbiased deviation sqrt(4 * 1/4 / 3) = 0.57735; 0.5 / 0.57745."""
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 4)
    assert advantages.tolist() == pytest.approx([0.865876, -0.865876, -0.865876, 0.865876], abs=1e-5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [2, 3, 8])
def test_advantages_agree_with_a_slow_loop(scale, size):
    rewards = random_rewards()
    advantages = group_advantages(rewards, size, scale=scale)
    assert advantages.tolist() == pytest.approx(slow_advantages(rewards, size, scale), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_adding_a_constant_to_a_groups_rewards_leaves_advantages_alone(scale):
    rewards = random_rewards().view(-1, 4)
    shifted = rewards + torch.tensor([3.0, 0.0, -7.0, 0.0, 1.0, 2.0])[:, None]
    plain, moved = (group_advantages(r.flatten(), 4, scale=scale) for r in (rewards, shifted))
    if scale == "batch":
        # The batch's deviation sees the shift; what stays is the order and the ratio within each group.
        plain, moved = plain / plain.abs().max(), moved / moved.abs().max()
    torch.testing.assert_close(moved, plain)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, -0.7, 1e6 + 0.1, 0.0])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(scale, value, size):
    rewards = torch.full((3 * size,), value)
    rewards[:size] = torch.arange(size) / size
    for epsilon in (1e-4, 0.0):
        assert (group_advantages(rewards, size, scale=scale, epsilon=epsilon)[size:] == 0).all()


def test_gaps_of_a_ten_thousandth_are_told_apart():
    """Of (0, 1e-4) in turns the deviation is 5.77e-5: 5e-5 / (5.77e-5 + 1e-4) = 0.317, and 0.86 without epsilon."""
    rewards = 0.5 + torch.tensor([0.0, 1e-4, 0.0, 1e-4], dtype=torch.float64)
    assert group_advantages(rewards - 0.5, 4).tolist() == pytest.approx([-0.317, 0.317, -0.317, 0.317], abs=1e-3)
    assert group_advantages(rewards, 4, epsilon=1e-6).abs().tolist() == pytest.approx([0.86] * 4, abs=0.02)


@pytest.mark.parametrize("scale", SCALES)
def test_a_sample_without_a_reward_has_advantage_zero_and_all_stay_finite(scale):
    rewards = random_rewards(12)
    rewards[5] = NAN
    advantages = group_advantages(rewards, 4, scale=scale)
    assert advantages[5] == 0
    assert advantages.isfinite().all()


def test_a_sample_without_a_reward_leaves_other_groups_alone():
    rewards = random_rewards(12)
    whole = group_advantages(rewards, 4)
    rewards[5] = NAN
    advantages = group_advantages(rewards, 4)
    assert torch.equal(advantages[[0, 1, 2, 3, 8, 9, 10, 11]], whole[[0, 1, 2, 3, 8, 9, 10, 11]])


@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_sample_without_a_reward_leaves_its_group_as_if_it_were_not_there(scale):
    """(0, 1, NaN) is to be (0, 1): means 1/2, deviation 0.7071, so advantages of -+0.7070 and 0."""
    advantages = group_advantages(torch.tensor([0.0, 1.0, NAN]), 3, scale=scale)
    expected = group_advantages(torch.tensor([0.0, 1.0]), 2, scale=scale)
    torch.testing.assert_close(advantages[:2], expected)


def test_equal_rewards_beside_a_missing_one_give_exactly_zero():
    for known in range(1, 12):
        for value in (0.1, 0.3, 1 / 3, 0.7):
            rewards = torch.tensor([value] * known + [NAN])
            assert (group_advantages(rewards, known + 1) == 0).all(), (known, value)


@pytest.mark.parametrize("scale", SCALES)
def test_a_batch_without_any_reward_teaches_nothing(scale):
    assert (group_advantages(torch.full((6,), NAN), 3, scale=scale) == 0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_permuting_groups_and_members_permutes_the_advantages(scale):
    rewards = random_rewards().view(6, 4)
    groups, members = torch.tensor([4, 0, 5, 1, 3, 2]), torch.tensor([2, 3, 0, 1])
    moved = group_advantages(rewards[groups][:, members].flatten(), 4, scale=scale).view(6, 4)
    torch.testing.assert_close(
        moved, group_advantages(rewards.flatten(), 4, scale=scale).view(6, 4)[groups][:, members]
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "moves"),
    [
        (1.0, 1.0, -1.0, True),
        (1.5, 1.0, -1.3, False),  # good and already likelier than 1 + 0.3: no more
        (0.5, 1.0, -0.5, True),  # good but less likely: go back at full strength
        (1.5, -1.0, 1.5, True),  # bad and likelier: push down at full strength
        (0.5, -1.0, 0.8, False),  # bad and already less likely than 1 - 0.2: no more
        (1.1, -2.0, 2.2, True),
    ],
)
def test_the_surrogate_clips_what_has_gone_far_enough(ratio, advantage, expected, moves):
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss = surrogate(logprobs, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), clip_low=0.2, clip_high=0.3)
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if moves else 0.0, rel=1e-5)


def test_on_policy_the_surrogate_is_minus_the_advantage_with_the_reinforce_gradient():
    logprobs = torch.randn(3, 4, requires_grad=True)
    advantages = torch.tensor([[1.0], [-2.0], [0.0]])
    loss = surrogate(logprobs, logprobs.detach(), advantages, clip_low=0.2, clip_high=0.2)
    loss.sum().backward()
    assert torch.equal(loss, -advantages.expand(3, 4))
    assert torch.equal(logprobs.grad, -advantages.expand(3, 4))


def distributions():
    generator = torch.Generator().manual_seed(5)
    policy, reference = torch.randn(2, 50, generator=generator).log_softmax(-1)
    return policy, reference, (policy.exp() * (policy - reference)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    """Weighing the estimate of each token by the policy's own probability of it gives the exact divergence."""
    policy, reference, exact = distributions()
    torch.testing.assert_close((policy.exp() * kl_estimate(policy, reference, estimator)).sum(), exact)


def test_the_mean_of_k1_over_samples_nears_the_divergence():
    policy, reference, exact = distributions()
    tokens = torch.multinomial(policy.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    estimates = kl_estimate(policy, reference, "k1")[tokens]
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / math.sqrt(20_000)


def test_k3_and_k2_are_never_negative_and_zero_where_the_policies_agree():
    difference = torch.linspace(-3, 3, 101)
    for estimator in ("k2", "k3"):
        assert (kl_estimate(difference, torch.zeros(101), estimator) >= 0).all()
        assert kl_estimate(difference, difference, estimator).eq(0).all()


def test_estimates_of_one_token_by_hand():
    """d = ln 2: k1 = 0.6931, k2 = 0.6931^2 / 2 = 0.2402, k3 = 1/2 - 1 + 0.6931 = 0.1931."""
    values = [kl_estimate(torch.tensor(math.log(2)), torch.tensor(0.0), name).item() for name in ("k1", "k2", "k3")]
    assert values == pytest.approx([0.6931, 0.2402, 0.1931], abs=1e-4)


@pytest.fixture
def tokens():
    """Per-token losses (4, 5) and a mask with rows of 5, 2, 3 and no tokens."""
    losses = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).float()
    return losses, mask


def slow_reduce(losses, mask, reduction, max_tokens):
    rows = [
        [v for v, m in zip(row, keep, strict=True) if m]
        for row, keep in zip(losses.tolist(), mask.tolist(), strict=True)
    ]
    if reduction == "sequence":
        return sum(sum(row) / len(row) if row else 0.0 for row in rows) / len(rows)
    count = sum(map(len, rows)) if reduction == "token" else len(rows) * max_tokens
    return sum(map(sum, rows)) / count


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_agree_with_a_slow_loop(reduction, tokens):
    reduced = reduce(*tokens, reduction=reduction, max_tokens=8)
    assert reduced.item() == pytest.approx(slow_reduce(*tokens, reduction, 8), rel=1e-5)


def test_reductions_of_two_sequences_by_hand():
    """Losses (1, 3) and (5): mean of means (2 + 5) / 2, token mean 9 / 3, sum over 2 sequences of at most 4: 9 / 8."""
    losses, mask = torch.tensor([[1.0, 3.0], [5.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    reduced = [reduce(losses, mask, reduction=reduction, max_tokens=4).item() for reduction in REDUCTIONS]
    assert reduced == [3.5, 3.0, 1.125]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("filler", [0.0, float("inf"), NAN])
def test_what_is_masked_out_changes_no_reduction(reduction, filler, tokens):
    losses, mask = tokens
    padded = torch.cat([losses.masked_fill(mask == 0, filler), torch.full((4, 3), filler)], 1)
    reduced = reduce(padded, torch.cat([mask, torch.zeros(4, 3)], 1), reduction=reduction, max_tokens=8)
    torch.testing.assert_close(reduced, reduce(*tokens, reduction=reduction, max_tokens=8))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_permuting_the_batch_changes_no_reduction(reduction, tokens):
    moved = reduce(*(part[[3, 1, 0, 2]] for part in tokens), reduction=reduction, max_tokens=8)
    torch.testing.assert_close(moved, reduce(*tokens, reduction=reduction, max_tokens=8))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_of_micro_batches_sum_to_that_of_the_batch(reduction, tokens):
    parts = [
        reduce(
            *(part[rows] for part in tokens),
            reduction=reduction,
            max_tokens=8,
            num_tokens=tokens[1].sum(),
            num_sequences=torch.tensor(4.0),
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), reduce(*tokens, reduction=reduction, max_tokens=8))


def table_logprobs(table):
    """Log-probabilities (16, 2) of all answers of two of four tokens: by `table[0]`, then by the first one's row."""
    first, second = (part.log_softmax(-1) for part in (table[0], table[1:]))
    return torch.stack([torch.stack([first[i], second[i, j]]) for i in range(4) for j in range(4)])


def expected_gradient(table, sampled, rewards, weights=1.0):
    """The gradient's expectation over answers with log-probabilities `sampled` (16, 2), without any sampling."""
    table = table.clone().requires_grad_()
    logprobs = table_logprobs(table)
    losses = surrogate(logprobs, logprobs.detach(), rewards[:, None], clip_low=0.2, clip_high=0.2)
    (sampled.sum(1).exp()[:, None] * weights * losses).sum().backward()
    return table.grad


def test_importance_weights_take_the_bias_of_another_policys_samples_away():
    generator = torch.Generator().manual_seed(0)
    table, rewards = torch.randn(5, 4, generator=generator), torch.randn(16, generator=generator)
    own, other = table_logprobs(table), table_logprobs(table + 0.05 * torch.randn(5, 4, generator=generator))
    mask, right = torch.ones(16, 2), expected_gradient(table, own, rewards)

    def bias(weights):
        return float((expected_gradient(table, other, rewards, weights) - right).norm() / right.norm())

    assert bias(importance_weights(own, other, mask, cap=1e6)[:, None]) < 1e-6
    assert bias(1.0) > 0.03
    single_tokens = (own - other).exp()
    assert bias(single_tokens) > 0.5 * bias(1.0)


def test_importance_weights_are_capped_and_one_where_nothing_differs():
    own = torch.tensor([[-1.0, -2.0], [-1.0, -1.0]])
    other = torch.tensor([[-1.0, -4.0], [-0.5, 9.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert importance_weights(own, other, mask, cap=9.0).tolist() == pytest.approx([math.exp(2.0), math.exp(-0.5)])
    assert importance_weights(own, other, mask, cap=2.0).tolist() == pytest.approx([2.0, math.exp(-0.5)])
    assert torch.equal(importance_weights(own, own, mask, cap=1.0), torch.ones(2))
