"""The Token Noiser's loss, and what TokenBuncher's argument about entropy rests on."""

import math

import pytest
import torch

from entropies import token_entropy
from holdfast.losses.noise import fixed_point_entropy, noise_of_entropy, noised_cross_entropy
from holdfast.losses.policy_gradient import group_advantages
from holdfast.records import HoldfastError

N, S, V = 3, 5, 11
MASK = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])


@pytest.fixture
def batch():
    return torch.randn(N, S, V), torch.randint(V, (N, S))


def noised(batch, lam=0.1, *, weight=None, seed=0, **more):
    return noised_cross_entropy(
        *batch, MASK, truth_weight=1 - lam, noise_weight=lam if weight is None else weight, seed=seed, **more
    )[0]


def test_without_noise_it_is_the_plain_cross_entropy(batch):
    logits, ids = batch
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(noised(batch, 0.0), -(logprobs * MASK).sum() / MASK.sum())


@pytest.mark.slow
def test_over_many_draws_it_is_label_smoothing_over_the_other_tokens(batch):
    logits, ids = batch
    logprobs = logits[:, :-1].log_softmax(-1)
    truth = torch.nn.functional.one_hot(ids[:, 1:], V)
    target = 0.9 * truth + 0.1 * (1 - truth) / (V - 1)
    expected = -((target * logprobs).sum(-1) * MASK).sum() / MASK.sum()
    mean_loss = torch.stack([noised(batch, seed=seed) for seed in range(3000)]).mean()
    assert mean_loss.item() == pytest.approx(expected.item(), rel=2e-3)


def test_the_target_has_mass_one_and_the_noise_none_on_the_truth(batch):
    # The gradient of a cross entropy whose target has mass m is m p - target: its sum over tokens is m - m = 0, and on
    # the truth it is m p - truth_weight exactly, whatever the noise.
    logits, ids = batch[0].requires_grad_(), batch[1]
    noised((logits, ids)).backward()
    grad, probabilities = logits.grad[:, :-1] * MASK.sum(), logits.detach()[:, :-1].softmax(-1)
    kept = MASK.bool()
    torch.testing.assert_close(grad[kept].sum(-1), torch.zeros(int(MASK.sum())), atol=1e-5, rtol=0)
    on_truth = (grad - probabilities).gather(-1, ids[:, 1:, None]).squeeze(-1)[kept]
    torch.testing.assert_close(on_truth, torch.full_like(on_truth, -0.9), atol=1e-5, rtol=1e-5)
    assert (logits.grad[:, :-1][~kept] == 0).all()


def test_the_repositorys_weights_are_the_papers_with_lambda_squared(batch):
    paper, plain = noised(batch, 0.1), noised(batch, 0.1, weight=0.0)
    repo = noised(batch, 0.1, weight=0.01)
    torch.testing.assert_close(repo, plain + 0.1 * (paper - plain))


def test_the_loss_is_that_of_the_distribution_at_the_temperature(batch):
    logits, ids = batch
    torch.testing.assert_close(noised((logits, ids), temperature=1.5), noised((logits / 1.5, ids)), rtol=1e-6, atol=0)


def test_the_noise_follows_from_its_seed(batch):
    assert torch.equal(noised(batch, seed=3), noised(batch, seed=3))
    assert not torch.equal(noised(batch, seed=3), noised(batch, seed=4))


def test_nothing_to_learn_from_is_a_loss_of_zero_with_a_gradient_of_zero(batch):
    logits, ids = batch[0].requires_grad_(), batch[1]
    loss, mass = noised_cross_entropy(logits, ids, 0 * MASK, truth_weight=0.9, noise_weight=0.1, seed=0)
    loss.backward()
    assert loss.item() == mass.item() == 0.0
    assert (logits.grad == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lam", "size", "nats"), [(0.1, 151_936, 1.52), (0.01 / 0.91, 151_936, 0.19), (0.1, 50_257, 1.41)]
)
def test_entropy_at_the_noisers_fixed_point(lam, size, nats):
    logits = torch.full((1, 2, size), math.log(lam / (size - 1)))
    logits[..., 0] = math.log(1 - lam)
    assert token_entropy(logits).item() == pytest.approx(nats, abs=0.005)
    assert fixed_point_entropy(lam, size) == pytest.approx(token_entropy(logits).item(), abs=0.005)
    ids = torch.zeros(1, 2, dtype=torch.long)
    logits.requires_grad_()
    smoothed = sum(
        noised_cross_entropy(logits, ids, torch.ones(1, 1), truth_weight=1 - lam, noise_weight=lam, seed=s)[0]
        for s in range(20)
    )
    (smoothed / 20).backward()
    assert logits.grad.abs().max().item() < 1e-3


@pytest.mark.parametrize("size", [2, 131, 50_257, 151_936])
@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.1, 0.5, 0.999])
def test_the_noise_of_an_entropy_has_that_entropy_at_its_fixed_point(size, share):
    entropy = share * math.log(size)
    noise = noise_of_entropy(entropy, size)
    assert 0 < noise < 1 - 1 / size
    assert fixed_point_entropy(noise, size) == pytest.approx(entropy, rel=1e-9)


def test_a_small_vocabulary_needs_more_noise_for_the_same_entropy():
    large, small = 151_936, 131
    for noise, same in [(0.1, 0.207), (0.011, 0.0196)]:
        scaled = noise_of_entropy(fixed_point_entropy(noise, large), small)
        assert scaled == pytest.approx(same, rel=0.005)
    assert noise_of_entropy(0.0, small) == fixed_point_entropy(0.0, small) == 0.0


@pytest.mark.parametrize("entropy", [-0.1, math.log(131), 9.0, math.nan])
def test_an_entropy_that_no_noise_has_is_refused_with_the_highest(entropy):
    with pytest.raises(HoldfastError, match=r"^noise_entropy: must be below 4\.875 nats.* 131 equally likely"):
        noise_of_entropy(entropy, 131)


def test_entropy_bounds_how_far_sampling_can_tell_tokens_apart():
    for scale in (0.01, 1.0, 5.0, 30.0):
        p = (torch.randn(200, 50) * scale).double().softmax(-1)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
        assert (1 - p.square().sum(-1) <= entropy + 1e-12).all()


def test_entropy_is_that_of_the_whole_vocabulary_at_temperature_one():
    assert token_entropy(torch.zeros(1, 2, 7)).item() == pytest.approx(math.log(7))
    hot = torch.full((1, 2, 7), -1e9)
    hot[..., 3] = 0.0
    assert token_entropy(hot).item() == 0.0
    logits = torch.randn(2, 3, 7)
    torch.testing.assert_close(token_entropy(logits), token_entropy(logits + 5.0))


def test_only_equal_rewards_give_no_advantage_and_small_gaps_are_blown_up():
    def largest(gap, epsilon):
        return group_advantages(torch.tensor([0.0, 0.0, 0.0, gap]), 4, epsilon=epsilon).abs().max().item()

    assert largest(0.0, 1e-6) == 0.0
    assert largest(1e-4, 1e-6) > 1.0
    assert largest(1e-9, 1e-6) < 0.01
