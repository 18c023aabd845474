"""The gradient penalty: its norm, the gradient of that, and what it leaves of an attacker's first step."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.defenses.offline.gradient_penalty import GradientPenalty, steepness
from holdfast.losses.tamper import gradient_norm
from holdfast.network.models import LoRA, adapt, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import Optim

FAST = GradientPenalty(optim=Optim(max_steps=8, learning_rate=2e-3, per_device_train_batch_size=4))


def harmful(model, rows):
    return with_totals([answer_batch(model, [(row, row.response) for row in rows])])[0]


def slow_norm(network, batch):
    network.zero_grad()
    language(network, batch)[0].backward()
    return sum(float(p.grad.double().square().sum()) for p in network.parameters() if p.grad is not None) ** 0.5


def test_the_norm_is_that_of_the_whole_gradient(wavering_model, splits):
    model = wavering_model()
    batch = harmful(model, splits.harmful["test"][:4])
    norm, metrics = steepness(squared=False)(model.network, batch)
    assert float(norm.detach()) == pytest.approx(slow_norm(model.network, batch), rel=1e-4)
    assert metrics["norm"] == float(norm.detach())
    assert float(steepness(squared=True)(model.network, batch)[0].detach()) == pytest.approx(metrics["norm"] ** 2)


def test_the_gradient_of_the_norm_is_its_slope(wavering_model, splits):
    network = wavering_model().network.double()
    tokens = harmful(wavering_model(), splits.harmful["test"][:1])["input_ids"]  # no padding, whose state is 0
    trained = list(network.parameters())

    def norm():
        with sdpa_kernel(SDPBackend.MATH):
            return gradient_norm(network(input_ids=tokens).logits.logsumexp(-1).mean(), trained)

    slopes = torch.autograd.grad(norm(), trained, allow_unused=True)
    directions = [
        torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).double() for i, p in enumerate(trained)
    ]
    expected = sum(float((s * d).sum()) for s, d in zip(slopes, directions, strict=True) if s is not None)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(trained, directions, strict=True):
                p.add_(sign * 1e-4 * d)
        ends.append(float(norm().detach()))
        with torch.no_grad():
            for p, d in zip(trained, directions, strict=True):
                p.sub_(sign * 1e-4 * d)
    assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(expected, rel=1e-3)


def test_a_gradient_of_nothing_has_norm_0_and_no_slope():
    weight = torch.ones(3, requires_grad=True)
    norm = gradient_norm((0 * weight**2).sum(), [weight])
    assert float(norm.detach()) < 1e-18
    (slope,) = torch.autograd.grad(norm, [weight])
    assert torch.equal(slope, torch.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_hardening_shrinks_an_attackers_first_gradient_on_unseen_prompts(adapter, wavering_model, make_context, splits):
    before, unseen = wavering_model(), splits.harmful["test"][:16]
    penalised, plain = (
        fit(replace(FAST, adapter=adapter, penalty_weight=w).plan(adapt(wavering_model(), adapter), make_context()))
        for w in (10.0, 0.0)
    )
    norms = [slow_norm(fitted.model.network, harmful(before, unseen)) for fitted in (penalised, plain)]
    assert norms[0] < 0.8 * norms[1]


def test_weights_below_0_and_rows_without_answers_are_refused(wavering_model, make_context, splits):
    with pytest.raises(HoldfastError, match=r"GradientPenalty\.penalty_weight: .* at least 0"):
        GradientPenalty(penalty_weight=-1.0)
    bare = {**splits.harmful, "defense": [replace(row, refusal=None) for row in splits.harmful["defense"]]}
    with pytest.raises(HoldfastError, match="gradient_penalty: the defense split needs"):
        FAST.plan(wavering_model(), replace(make_context(), splits=replace(splits, harmful=bare)))
