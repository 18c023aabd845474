"""Shares, weights of tokens and distances of parameters, against plain loops."""

import math

import pytest
import torch

from holdfast.losses import anchor as losses

MASK = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).float()


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_share_is_that_of_the_tokens():
    assert losses.token_share(torch.tensor(16.0), torch.tensor(4.0)) == pytest.approx(0.2)
    assert losses.token_share(torch.tensor(16.0), torch.tensor(4.0), 4.0) == pytest.approx(0.5)
    assert losses.token_share(torch.tensor(0.0), torch.tensor(0.0)) == 0


def test_betas_go_by_the_place_in_the_answer_wherever_it_begins():
    betas = losses.position_betas(MASK, beta=0.5, first=4.0, early=10.0, num_early=3)
    kept = [row[chosen].tolist() for row, chosen in zip(betas, MASK > 0, strict=True)]
    assert kept == [[2.0, 5.0, 5.0, 0.5], [2.0, 5.0], [2.0, 5.0, 5.0]]


def test_with_a_single_early_token_only_the_first_has_a_factor():
    betas = losses.position_betas(torch.ones(1, 3), beta=1.0, first=5.0, early=20.0, num_early=1)
    assert betas.tolist() == [[5.0, 1.0, 1.0]]


def slow_constrained(logprobs, references, betas, mask, floor):
    total, count = 0.0, 0
    for row in range(len(mask)):
        for place in range(mask.shape[1]):
            if mask[row, place]:
                gap = float(logprobs[row, place] - references[row, place])
                weight = 2 * (1 - 1 / (1 + math.exp(-float(betas[row, place]) * gap)))
                total -= max(weight, floor) * float(logprobs[row, place])
                count += 1
    return total / count


def test_the_constrained_loss_agrees_with_a_slow_loop():
    logprobs, references = -draw(3, 6).exp(), -draw(3, 6, seed=1).exp()
    betas = losses.position_betas(MASK, beta=1.0, first=5.0, early=20.0, num_early=2)
    for floor in (0.0, 0.5):
        weights = losses.constrained_weights(logprobs, references, betas, floor=floor)
        loss = losses.constrained_cross_entropy(logprobs, weights, MASK)
        assert loss.item() == pytest.approx(slow_constrained(logprobs, references, betas, MASK, floor), rel=1e-5)


def test_a_token_weighs_one_where_the_reference_stands_and_less_where_it_was_raised():
    references = torch.full((1, 4), -3.0)
    logprobs = references + torch.tensor([[0.0, 1.0, 5.0, -50.0]])
    weights = losses.constrained_weights(logprobs, references, torch.ones(1, 4), floor=0.1)
    assert weights[0].tolist() == pytest.approx([1.0, 2 / (1 + math.e), 0.1, 2.0])


def test_the_constrained_gradient_is_that_of_the_published_objective():
    references, betas = -draw(3, 6, seed=1).exp(), draw(3, 6, seed=2).exp()
    one, other = ((-draw(3, 6).exp()).requires_grad_() for _ in range(2))
    weights = losses.constrained_weights(one, references, betas)
    losses.constrained_cross_entropy(one, weights, MASK).backward()
    objective = -2 / betas * torch.nn.functional.logsigmoid(betas * (other - references))
    ((objective * MASK).sum() / MASK.sum()).backward()
    torch.testing.assert_close(one.grad, other.grad)


def slow_distance(parameters, start, weights):
    total = 0.0
    for own, then, weight in zip(parameters, start, weights, strict=True):
        for a, b, w in zip(own.flatten().tolist(), then.flatten().tolist(), weight.flatten().tolist(), strict=True):
            total += w * (a - b) ** 2
    return total


@pytest.mark.parametrize("weighed", [False, True])
def test_the_distance_and_its_gradient_agree_with_a_slow_loop(weighed):
    shapes = [(3, 4), (5,), ()]
    parameters = [draw(*shape).requires_grad_() for shape in shapes]
    start = [draw(*shape, seed=1) for shape in shapes]
    weights = [draw(*shape, seed=2).exp() if weighed else torch.ones(shape) for shape in shapes]
    distance = losses.squared_distance(parameters, start, weights if weighed else None)
    (3 * distance).backward()
    assert distance.item() == pytest.approx(slow_distance(parameters, start, weights), rel=1e-5)
    for own, then, weight in zip(parameters, start, weights, strict=True):
        torch.testing.assert_close(own.grad, 6 * weight * (own.detach() - then))


def test_the_distances_gradient_passes_a_numerical_check():
    parameters = [draw(3).double().requires_grad_(), draw(2, 2).double().requires_grad_()]
    start, weights = ([draw(*p.shape, seed=seed).double().abs() for p in parameters] for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda *own: losses.squared_distance(own, start, weights), parameters)


def test_at_the_start_distance_and_gradient_are_zero():
    own = draw(4).requires_grad_()
    distance = losses.squared_distance([own], [own.detach().clone()])
    distance.backward()
    assert distance == 0
    assert torch.equal(own.grad, torch.zeros(4))


def test_half_precision_weights_are_compared_in_full_and_get_gradients_of_their_own_kind():
    own, start = draw(100).bfloat16().requires_grad_(), draw(100, seed=1).bfloat16()
    distance = losses.squared_distance([own], [start])
    distance.backward()
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, (own.detach().float() - start.float()).square().sum())
    assert own.grad.dtype == torch.bfloat16


def test_nothing_trained_is_no_distance():
    assert losses.squared_distance([], []) == 0


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this one process."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_sharded_weights_are_never_gathered(mesh, monkeypatch):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    own, start, weight = draw(6, 2), draw(6, 2, seed=1), draw(6, 2, seed=2).exp()
    plain = own.clone().requires_grad_()
    expected = losses.squared_distance([plain], [start], [weight])
    expected.backward()
    sharded = [distribute_tensor(value, mesh, [Shard(0)]) for value in (own, start, weight)]
    sharded[0].requires_grad_()
    gathered, whole = [], DTensor.full_tensor
    monkeypatch.setattr(DTensor, "full_tensor", lambda self, **more: gathered.append(self.shape) or whole(self, **more))
    distance = losses.squared_distance([sharded[0]], [sharded[1]], [sharded[2]])
    distance.backward()
    assert gathered == [torch.Size([])]
    torch.testing.assert_close(distance, expected)
    assert sharded[0].grad.placements == (Shard(0),)
    torch.testing.assert_close(sharded[0].grad.to_local(), plain.grad)
