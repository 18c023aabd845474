"""Schedules, the blend of actions, mixtures of distributions and the weights of what they sample."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from holdfast.losses.interpolation import (
    blend,
    effective_sample_size,
    log_mixture,
    succeeds,
    weights,
)
from holdfast.losses.policy_gradient import group_advantages, surrogate
from holdfast.records import HoldfastError
from holdfast.rl.guidance.schedule import Schedule, alpha
from holdfast.tensors import masked_sum_per_sequence

ENDS = [0.0, 1.0]
SHARES = [0.05, 0.3, 0.5, 0.9]
STRINGS = torch.tensor(list(itertools.product(range(3), repeat=3)))
"""All 27 texts of three tokens out of three."""


def tables(seed, count=2):
    """Logits of policies over texts of three tokens: one row for each of the 13 beginnings, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(13, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def beginnings():
    """(27, 3): which row of a table each token of each text is drawn by."""
    first, second = STRINGS[:, 0], STRINGS[:, 1]
    return torch.stack([torch.zeros(27, dtype=torch.long), 1 + first, 4 + 3 * first + second], 1)


def token_logprobs(table):
    """(27, 3) log-probabilities of the tokens of all texts."""
    return table.log_softmax(-1)[beginnings()].gather(-1, STRINGS[..., None]).squeeze(-1)


# schedules


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant", "start": 0.3}, {0: 0.3, 49: 0.3, 89: 0.3, 90: 1.0, 99: 1.0}),
        ({"kind": "linear", "start": 0.5}, {0: 0.5, 25: 0.75, 50: 1.0, 80: 1.0}),
        ({"kind": "linear", "start": 0.0, "horizon": 20.0}, {0: 0.0, 5: 0.25, 20: 1.0}),
        ({"kind": "exponential", "start": 0.2, "tau": 20.0}, {0: 0.2, 20: 1 - 0.8 / math.e, 90: 1.0}),
        ({"kind": "exponential", "start": 0.0}, {0: 0.0, 10: 1 - 1 / math.e}),
        ({"kind": "success", "start": 0.4}, {0: 0.4, 89: 0.4, 90: 1.0}),
    ],
)
def test_a_schedule_gives_the_learner_the_share_that_its_formula_says(settings, expected):
    alphas = {step: alpha(Schedule(**settings), step, steps=100) for step in expected}
    assert alphas == pytest.approx(expected)


def test_after_success_the_share_rises_from_the_step_of_the_success():
    schedule = Schedule(kind="success", start=0.5, horizon=20.0)
    assert [alpha(schedule, step, steps=100, succeeded=30) for step in (0, 30, 40, 50, 60)] == [0.5, 0.5, 0.75, 1.0, 1]


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 30, 100])
@pytest.mark.parametrize("kind", ["constant", "linear", "exponential", "success"])
def test_the_last_tenth_of_a_run_is_the_learners_alone(kind, steps):
    schedule = Schedule(kind=kind, start=0.1)
    tail = math.ceil(steps / 10)
    assert [alpha(schedule, step, steps=steps) for step in range(steps - tail, steps)] == [1.0] * tail
    assert alpha(Schedule(kind=kind, start=0.1, last=0.0), steps - 1, steps=steps) < 1 or kind == "linear"


def test_steps_that_share_a_rollout_are_the_learners_alone_as_soon_as_the_last_of_them_is():
    schedule = Schedule(kind="constant", start=0.5)
    assert [alpha(schedule, step, steps=100, span=4) for step in (80, 84, 88)] == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("kind", ["constant", "linear", "exponential", "success"])
def test_a_start_of_one_is_the_learner_alone_throughout(kind):
    assert {alpha(Schedule(kind=kind, start=1.0), step, steps=50) for step in range(50)} == {1.0}


@pytest.mark.parametrize("field", ["start", "kappa", "smoothing", "last"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_that_is_no_number_in_zero_to_one_is_refused_by_name(field, value):
    with pytest.raises(HoldfastError, match=f"Schedule.{field}: must be a number in"):
        Schedule(**{field: value})


@pytest.mark.parametrize("field", ["horizon", "tau"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_length_that_is_no_number_above_zero_is_refused_by_name(field, value):
    with pytest.raises(HoldfastError, match=f"Schedule.{field}: must be a finite number above 0"):
        Schedule(**{field: value})


def test_a_share_of_a_run_of_unknown_length_is_refused():
    with pytest.raises(HoldfastError, match=r"schedule\.horizon: set a number of steps"):
        alpha(Schedule(kind="linear"), 3)


def test_success_is_a_share_of_the_experts_reward_whatever_its_sign():
    assert succeeds(0.5, 1.0, 0.5)
    assert not succeeds(0.49, 1.0, 0.5)
    assert succeeds(-1.4, -1.0, 0.5)
    assert not succeeds(-1.6, -1.0, 0.5)
    assert succeeds(0.0, 0.0, 0.5)


# the blend


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_a_blend_lies_between_and_is_the_one_or_the_other_itself_at_its_ends(make):
    expert, learner = make([1.0, -1.0, 0.1]), make([0.0, 3.0, 0.7])
    assert blend(expert, learner, 0.25).tolist() == pytest.approx([0.75, 0.0, 0.25])
    assert blend(expert, learner, 0.0) is expert
    assert blend(expert, learner, 1.0) is learner


def test_an_end_is_exact_where_the_other_side_is_no_number():
    broken, sound = np.array([np.nan, np.inf]), np.array([0.1, 0.2])
    assert blend(broken, sound, 1) is sound
    assert blend(sound, broken, 0) is sound


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_is_refused(share):
    with pytest.raises(HoldfastError, match="alpha must be in"):
        blend(np.zeros(2), np.ones(2), share)
    with pytest.raises(HoldfastError, match="alpha must be in"):
        log_mixture(torch.zeros(2), torch.zeros(2), share)


# mixtures


def test_a_mixture_of_distributions_is_one_in_float32_over_a_large_vocabulary():
    expert, learner = (8 * torch.randn(4, 50_000) for _ in range(2))
    mixed = log_mixture(expert.log_softmax(-1), learner.log_softmax(-1), 0.3)
    assert mixed.logsumexp(-1).abs().max() < 1e-5


@pytest.mark.parametrize("share", ENDS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_at_its_ends_a_mixture_is_the_one_or_the_other_bit_for_bit(share, as_tensor):
    expert, learner = torch.randn(5, 9).log_softmax(-1), torch.randn(5, 9).log_softmax(-1)
    given = torch.full((5, 1), share) if as_tensor else share
    assert torch.equal(log_mixture(expert, learner, given), learner if share else expert)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_one_or_both_never_say_makes_no_nan(share):
    never = -torch.inf
    expert, learner = torch.tensor([never, never, -1.0, -2.0]), torch.tensor([never, -1.0, never, -1.5])
    mixed = log_mixture(expert, learner, share)
    expected = ((1 - share) * expert.exp() + share * learner.exp()).log()
    assert not mixed.isnan().any()
    torch.testing.assert_close(mixed, expected)


def test_the_share_may_differ_from_row_to_row():
    expert, learner = torch.randn(3, 4).log_softmax(-1), torch.randn(3, 4).log_softmax(-1)
    shares = torch.tensor([0.0, 0.4, 1.0])
    together = log_mixture(expert, learner, shares[:, None])
    alone = [log_mixture(expert[i], learner[i], float(share)) for i, share in enumerate(shares)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("share", SHARES)
def test_the_density_of_a_text_is_that_of_brute_force(share):
    expert, learner = tables(0)
    e, pi = token_logprobs(expert), token_logprobs(learner)
    ones = torch.ones(27, 3)
    whole = log_mixture(masked_sum_per_sequence(e, ones), masked_sum_per_sequence(pi, ones), share)
    brute = (1 - share) * e.exp().prod(1) + share * pi.exp().prod(1)
    torch.testing.assert_close(whole.exp(), brute, rtol=1e-12, atol=0)
    assert whole.exp().sum().item() == pytest.approx(1, abs=1e-12)
    each = masked_sum_per_sequence(log_mixture(e, pi, share), ones)
    torch.testing.assert_close(each.exp(), ((1 - share) * e.exp() + share * pi.exp()).prod(1), rtol=1e-12, atol=0)
    assert each.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_what_is_masked_out_counts_nothing_in_a_texts_density():
    logprobs = torch.tensor([[-1.0, -torch.inf, -2.0]])
    assert masked_sum_per_sequence(logprobs, torch.tensor([[1.0, 0.0, 1.0]])).tolist() == [-3.0]


# weights


@pytest.mark.parametrize("share", SHARES)
def test_weights_are_at_most_one_over_alpha_and_their_effective_share_at_least_alpha(share):
    generator = torch.Generator().manual_seed(1)
    for scale in (0.1, 1.0, 10.0):
        logits = (scale * torch.randn(200, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        expert, learner = (x.log_softmax(-1) for x in logits)
        mixed = log_mixture(expert, learner, share)
        importance = weights(learner, mixed, "exact")
        assert importance.max() <= 1 / share + 1e-6
        assert torch.equal(weights(learner, mixed, "truncated", cap=1 / share + 1e-6), importance)
        effective = 1 / (mixed.exp() * importance.square()).sum(-1)
        assert (effective >= share - 1e-9).all()
        assert (mixed.exp() * importance).sum(-1).sub(1).abs().max() < 1e-9


def test_the_kinds_of_weight_are_what_they_say():
    old, mixed = torch.tensor([0.0, 0.0, -9.0]), torch.tensor([-math.log(4), 0.0, 0.0])
    exact = torch.tensor([4.0, 1.0, math.exp(-9)])
    torch.testing.assert_close(weights(old, mixed, "exact"), exact)
    torch.testing.assert_close(weights(old, mixed, "truncated", cap=2.0), exact.clamp(max=2))
    torch.testing.assert_close(weights(old, mixed, "shaped", shape=0.1), exact / (exact + 0.1))
    assert weights(old, mixed, "none").tolist() == [1, 1, 1]


def test_weights_carry_no_gradient():
    old = torch.zeros(3, requires_grad=True)
    assert not weights(old, torch.ones(3), "exact").requires_grad


def test_as_many_samples_count_as_are_weighed_alike():
    assert effective_sample_size(torch.ones(7)).item() == pytest.approx(7)
    assert effective_sample_size(torch.tensor([5.0, 0.0, 0.0])).item() == pytest.approx(1)
    assert effective_sample_size(torch.zeros(3)).item() == 0


# what is unbiased and what is not


def gradient_of(value, table):
    return torch.autograd.grad(value, table, retain_graph=True)[0]


def error(gradient, truth):
    return ((gradient - truth).norm() / truth.norm()).item()


@pytest.fixture
def world():
    """`world(share, seed)`: a learner's table, the true gradient, and an estimator's expectation by its weights."""

    def made(share, seed):
        expert, table = tables(seed)
        table.requires_grad_()
        reward = torch.rand(27, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
        pi, e = token_logprobs(table), token_logprobs(expert)
        truth = gradient_of((pi.sum(1).exp() * reward).sum(), table)

        def expectation(density, weighed):
            """`weighed` (27, 1) or (27, 3); the mean over `density` of `w (R - b)` times the gradient of log pi."""
            terms = density.detach()[:, None] * weighed.detach() * (reward - 0.3)[:, None] * token_logprobs(table)
            return gradient_of(terms.sum(), table)

        return pi.detach(), e, truth, expectation

    return made


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_mixture_weighed_by_whole_texts_has_the_policys_own_gradient(share, world):
    for seed in range(5):
        pi, e, truth, expectation = world(share, seed)
        own = pi.sum(1)
        for mixed in (log_mixture(e.sum(1), own, share), log_mixture(e, pi, share).sum(1)):
            gradient = expectation(mixed.exp(), weights(own, mixed, "exact")[:, None])
            assert error(gradient, truth) < 1e-12


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_without_weights_or_with_those_of_single_tokens_the_gradient_is_another(share, world):
    """The negative control of the test above."""
    for seed in range(5):
        pi, e, truth, expectation = world(share, seed)
        tokens = log_mixture(e, pi, share)
        density = tokens.sum(1).exp()
        assert error(expectation(density, torch.ones(27, 1)), truth) > 1e-2
        assert error(expectation(density, weights(pi, tokens, "exact")), truth) > 1e-2
        whole = log_mixture(e.sum(1), pi.sum(1), share).exp()
        assert error(expectation(whole, torch.ones(27, 1)), truth) > 1e-2


@pytest.mark.parametrize("size", [2, 3, 4])
def test_with_the_groups_mean_as_baseline_the_expectation_is_the_gradient_less_one_part_in_the_group(size):
    generator = torch.Generator().manual_seed(size)
    learner, expert = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    reward = torch.rand(3, generator=generator, dtype=torch.float64)
    learner.requires_grad_()
    truth = gradient_of((learner.softmax(-1) * reward).sum(), learner)
    own = learner.log_softmax(-1)
    mixed = log_mixture(expert.log_softmax(-1), own.detach(), 0.4)
    counted = weights(own, mixed, "exact")
    total = torch.zeros(())
    for group in itertools.product(range(3), repeat=size):
        sampled = torch.tensor(group)
        advantages = group_advantages(reward[sampled], size, scale="none").double()
        total = total + mixed[sampled].sum().exp() * (counted[sampled] * advantages * own[sampled]).mean()
    torch.testing.assert_close(gradient_of(total, learner), (size - 1) / size * truth, rtol=1e-6, atol=1e-8)


# which ratio is clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "flows"),
    [
        (0.5, 1.0, None, True),
        (1.1, 1.0, None, True),
        (1.9, 1.0, None, False),
        (0.5, -1.0, None, False),
        (1.1, -1.0, None, True),
        (1.9, -1.0, None, True),
        (3.5, -1.0, 3.0, False),
    ],
)
def test_a_clip_round_the_mixture_acts_before_any_update(ratio, advantage, dual, flows):
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    mixed = torch.full((1, 1), -1.0)
    loss = surrogate(logprobs, mixed, torch.full((1, 1), advantage), clip_low=0.2, clip_high=0.2, dual_clip=dual)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert gradient.item() == pytest.approx(-ratio * advantage if flows else 0.0, abs=1e-6)


def test_the_decoupled_form_is_plain_weighing_before_any_update_if_the_cap_is_large_enough():
    share, generator = 0.3, torch.Generator().manual_seed(3)
    logits = torch.randn(40, 6, generator=generator, requires_grad=True)
    expert = torch.randn(40, 6, generator=generator).log_softmax(-1)
    sampled = torch.randint(6, (40, 1), generator=generator)
    advantages = torch.randn(40, 1, generator=generator)
    own, theirs = logits.log_softmax(-1).gather(1, sampled), expert.gather(1, sampled)
    mixed = log_mixture(theirs, own.detach(), share)
    counted = weights(own, mixed, "truncated", cap=1 / share)
    decoupled = counted * surrogate(own, own.detach(), advantages, clip_low=0.2, clip_high=0.2)
    plain = -weights(own, mixed, "exact") * advantages * own
    torch.testing.assert_close(gradient_of(decoupled.sum(), logits), gradient_of(plain.sum(), logits))


def test_a_dead_token_has_weight_zero_and_a_zero_finite_gradient():
    logits = torch.tensor([[0.0, -200.0]], requires_grad=True)
    own = logits.log_softmax(-1)[:, 1:]
    counted = weights(own, log_mixture(torch.zeros(1, 1), own.detach(), 0.5), "exact")
    loss = counted * surrogate(own, own.detach(), torch.ones(1, 1), clip_low=0.2, clip_high=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert counted.item() == 0
    assert gradient.tolist() == [[0.0, 0.0]]


# why it matters: the two optimizers


def bandit(optimizer, weight, *, share=0.5, steps=100, vocabulary=2000, paid=10, seed=0):
    """The mass of the tokens that pay after GRPO on a single token, from a start that all but never gives them."""
    start = torch.full((vocabulary,), 1e-5 / (vocabulary - paid - 1))
    start[1 : 1 + paid] = 1e-5 / paid
    start[0] = 1 - 2e-5
    expert = torch.full((vocabulary,), (1 - 0.286 - 0.4) / (vocabulary - paid - 1))
    expert[1 : 1 + paid], expert[0] = 0.286 / paid, 0.4
    logits = start.log().requires_grad_()
    step = optimizer([logits])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        own = functional.log_softmax(logits, -1)
        mixed = log_mixture(expert.log(), own.detach(), share)
        sampled = mixed.exp().multinomial(32, replacement=True, generator=generator)
        advantages = group_advantages(((sampled > 0) & (sampled <= paid)).float(), 4)
        counted = weights(own[sampled], mixed[sampled], weight)
        loss = counted * surrogate(own[sampled], own[sampled].detach(), advantages, clip_low=0.2, clip_high=0.2)
        step.zero_grad()
        loss.mean().backward()
        step.step()
    return float(logits.detach().softmax(-1)[1 : 1 + paid].sum())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=2.0)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_alone_neither_optimizer_finds_what_is_never_sampled(optimizer):
    assert bandit(optimizer, "none", share=1.0) < 2e-5


@pytest.mark.slow
def test_exact_weights_keep_the_vanishing_gradient_which_moves_adam_and_not_sgd():
    """Plain SGD takes the gradient's size as it is; Adam divides by it."""
    slow, fast = ([bandit(optimizer, "exact", seed=seed) for seed in range(4)] for optimizer in (sgd, adam))
    assert max(slow) < 2e-5
    assert sorted(fast)[1] > 0.3


@pytest.mark.slow
def test_without_weights_the_expectation_moves_and_so_does_sgd():
    assert min(bandit(sgd, "none", seed=seed) for seed in range(4)) > 0.9
