"""Statistics of distributions computed a part at a time: values and gradients are those of plain operations."""

import sys

import pytest
import torch

from holdfast.distributions import Divergence, Entropy, Head, Logits, LogProb, NoiseTerm, Projected
from holdfast.distributions.chunked import chunked

N, H, R, V, D = 7, 5, 2, 23, torch.float64
MODULE = sys.modules[chunked.__module__]
PAIRWISE = ((None, 1.0, 1.0), (None, 0.3, 1.7), (2.0, 1.0, 1.7), (2.0, 0.3, 1.0))
"""Caps, scales and temperatures: any two of them with and without, in all four ways."""
KINDS = ("logprob", "entropy", "reverse", "forward", "noise")


@pytest.fixture(params=[(50, 3), (30, 8192), (10**9, 8192)], ids=["few rows", "few tokens", "one part"])
def parts(request, monkeypatch):
    monkeypatch.setattr(MODULE, "PART", request.param[0])
    monkeypatch.setattr(MODULE, "BLOCK_ROWS", request.param[1])


def leaf(*shape, dtype=D):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def problem(*, cap=None, scale=1.0, adapted=False, trained=True, dtype=D):
    states, weight, bias = leaf(N, H + R * adapted, dtype=dtype), leaf(V, H, dtype=dtype), leaf(V, dtype=dtype)
    low = leaf(V, R, dtype=dtype) if adapted else None
    tensors = [weight, bias, low] if trained else [None if t is None else t.detach() for t in (weight, bias, low)]
    head = Head(weight=tensors[0], bias=tensors[1], low=tensors[2], scale=scale, cap=cap, dtype=dtype)
    return head, [t for t in (states, *tensors) if t is not None and t.requires_grad]


def statistics(dtype=D):
    tokens, other = torch.randint(V, (N,)), torch.randn(N, H, dtype=dtype)
    head = Head(weight=torch.randn(V, H, dtype=dtype), dtype=dtype)
    return {
        "logprob": LogProb(tokens),
        "entropy": Entropy(),
        "reverse": Divergence(other, head),
        "forward": Divergence(other, head, forward=True),
        "noise": NoiseTerm(tokens, seed=3),
    }


def plain(states, head, wanted, temperature):
    logits = states[:, :H] @ head.weight.T + head.bias
    logits = logits if head.low is None else logits + states[:, H:] @ head.low.T
    logits = logits * head.scale
    logits = logits if head.cap is None else head.cap * (logits / head.cap).tanh()
    logprobs = (logits / temperature).log_softmax(-1)
    values = []
    for one in wanted:
        if isinstance(one, LogProb):
            values.append(logprobs[torch.arange(N), one.tokens])
        elif isinstance(one, Entropy):
            values.append(-(logprobs.exp() * logprobs).sum(-1))
        elif isinstance(one, Divergence):
            other = (one.states @ one.head.weight.T / temperature).log_softmax(-1)
            first, second = (other, logprobs) if one.forward else (logprobs, other)
            values.append((first.exp() * (first - second)).sum(-1))
        else:
            noise = torch.rand(N, V, generator=torch.Generator().manual_seed(one.seed)).double()
            noise[torch.arange(N), one.tokens] = 0
            values.append((noise / noise.sum(-1, keepdim=True) * logprobs).sum(-1))
    return values


def total(values, weights):
    return sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids="+".join)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("adapted", [True, False], ids=["adapted", "plain"])
@pytest.mark.usefixtures("parts")
def test_values_and_gradients_are_those_of_plain_operations(kinds, trained, adapted):
    weights = [torch.randn(N, dtype=D) for _ in kinds]
    for cap, scale, temperature in PAIRWISE:
        head, leaves = problem(cap=cap, scale=scale, adapted=adapted, trained=trained)
        wanted = [statistics()[kind] for kind in kinds]
        expected = plain(leaves[0], head, wanted, temperature)
        values = chunked(leaves[0], head, wanted, temperature=temperature)
        slopes = torch.autograd.grad(total(values, weights), leaves)
        torch.testing.assert_close(list(values), expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(slopes, torch.autograd.grad(total(expected, weights), leaves), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_gradients_are_those_of_finite_differences_and_so_are_their_own(trained, monkeypatch):
    monkeypatch.setattr(MODULE, "PART", 50)
    head, leaves = problem(cap=3.0, scale=0.7, trained=trained)
    chosen = [one for name, one in statistics().items() if name != "noise"]

    def values(states, *tensors):
        named = dict(zip(("weight", "bias"), tensors, strict=False))
        return chunked(states, Head(**{**vars(head), **named}), chosen, temperature=1.3)

    assert torch.autograd.gradcheck(values, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, leaves, fast_mode=True)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_in_float32_the_error_is_that_of_rounding(trained, monkeypatch):
    monkeypatch.setattr(MODULE, "PART", 50)
    head, leaves = problem(trained=trained, dtype=torch.float32)
    chosen, weights = list(statistics(torch.float32).values())[:4], [torch.randn(N) for _ in range(4)]
    expected = plain(leaves[0], head, chosen, 1.0)
    values = chunked(leaves[0], head, chosen)
    slopes = torch.autograd.grad(total(values, weights), leaves)
    torch.testing.assert_close(list(values), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, torch.autograd.grad(total(expected, weights), leaves), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_under_autocast_products_are_rounded_as_they_are_plainly(trained, monkeypatch):
    monkeypatch.setattr(MODULE, "PART", 50)
    head, leaves = problem(trained=trained, dtype=torch.float32)
    coarse, tokens = Head(**{**vars(head), "dtype": torch.bfloat16}), torch.randint(V, (N,))
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(leaves[0], head.weight, head.bias)
        expected = logits.float().log_softmax(-1)[torch.arange(N), tokens]
        (value,) = chunked(leaves[0], coarse, [LogProb(tokens)])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0.03)
    slopes = torch.autograd.grad(value.sum(), leaves)
    for slope, other in zip(slopes, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert slope.dtype == other.dtype
        assert (slope - other).norm() < 0.02 * other.norm()


def test_the_backward_pass_of_a_frozen_head_computes_no_logits(monkeypatch):
    head, leaves = problem(trained=False)
    (value,) = chunked(leaves[0], head, [LogProb(torch.randint(V, (N,)))])
    monkeypatch.setattr(Head, "logits", None)
    value.sum().backward()
    assert leaves[0].grad.norm() > 0


def test_a_divergence_from_itself_is_zero_and_so_is_its_gradient():
    head, leaves = problem()
    for forward in (False, True):
        own = Projected(leaves[0], head)
        value = own.divergence(Projected(leaves[0].detach(), head), forward=forward)
        (slope,) = torch.autograd.grad(value.sum(), leaves[:1])
        torch.testing.assert_close(value, torch.zeros(N, dtype=D), atol=1e-12, rtol=0)
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


def test_a_divergence_may_be_from_logits_of_either_side():
    head, (states, *_) = problem(dtype=torch.float32)
    own, other = Projected(states, head), torch.randn(N, V)
    expected = Logits(head.logits(states)).divergence(Logits(other))
    torch.testing.assert_close(own.divergence(Logits(other)), expected)
    assert (Logits(other).divergence(own) > 0).all()


def test_statistics_have_the_shape_of_their_positions_and_are_0_elsewhere():
    head, _ = problem()
    places = torch.tensor([[1, 0, 1], [0, 1, 0]]) > 0
    tokens, states = torch.randint(V, (2, 3)), torch.randn(2, 3, H, dtype=D)
    sparse = Projected(states[places], head, places)
    dense = Logits(head.logits(states))
    for one, other in zip(*(d.measure(LogProb(tokens), Entropy()) for d in (sparse, dense)), strict=True):
        torch.testing.assert_close(one, torch.where(places, other, 0.0))


def test_no_positions_give_no_numbers_and_a_gradient_of_zero():
    head, leaves = problem()
    (value,) = chunked(leaves[0][:0], head, [LogProb(torch.zeros(0, dtype=torch.long))])
    assert value.shape == (0,)
    value.sum().backward()
    assert (leaves[1].grad == 0).all()
