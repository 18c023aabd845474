"""A training run as a value, and the combinators."""

import math
from dataclasses import replace

import pytest
import torch

from holdfast.network.forward import answer_logprobs, forward
from holdfast.network.models import LoRA, adapt, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import target_mask, token_logprobs, with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language, policy_gradient
from holdfast.training.plan import (
    Diverged,
    GivenAnswers,
    Optim,
    Plan,
    add,
    as_is,
    backprop,
    part,
    reference_of,
    with_batch,
)

OPTIM = Optim(max_steps=2, per_device_train_batch_size=2, optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
TOKENS = {"input_ids": torch.tensor([[4, 9, 8, 7, 11]])}


@pytest.fixture
def plan(tiny_model, splits):
    return Plan(
        model=tiny_model(),
        data=splits.harmful["attack"],
        prepare=GivenAnswers(),
        objective=language,
        optim=OPTIM,
    )


@pytest.fixture
def refusals(plan, splits):
    """`refusals(step)`: a batch of refusals of its own for each step."""

    def rows(step):
        chosen = splits.harmful["defense"][2 * step : 2 * step + 2]
        return with_totals([answer_batch(plan.model, [(row, row.refusal) for row in chosen])])[0]

    return rows


def gradients(model, objective, batch):
    model.network.zero_grad()
    objective(model.network, batch)[0].backward()
    return torch.cat([p.grad.flatten().clone() for p in model.network.parameters()])


def test_a_second_batch_comes_with_the_first_micro_batch_only(plan, refusals):
    micro = [plan.data[:2], plan.data[2:4], plan.data[4:6]]
    batches = with_batch(plan, "refusal", refusals).batches(micro, 3)
    expected = refusals(3)
    assert {name: value.tolist() for name, value in part(batches[0], "refusal").items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    assert [part(batch, "refusal") for batch in batches[1:]] == [{}, {}]


def test_a_second_batch_leaves_the_plans_own_as_they_are(plan, refusals):
    micro = [plan.data[:2], plan.data[2:4]]
    plain = plan.batches(micro, 0)
    both = with_batch(plan, "refusal", refusals).batches(micro, 0)
    assert len(plain) == 2
    for one, other in zip(plain, both, strict=True):
        assert all(torch.equal(other[name], value) for name, value in one.items())


def test_an_added_objective_adds_its_gradient_times_its_weight(plan, refusals):
    (batch,) = with_batch(plan, "refusal", refusals).batches([plan.data[:2]], 0)
    (batch,) = with_totals([batch])
    combined = add(plan, 2.5, language, on="refusal")
    own = gradients(plan.model, language, batch)
    other = gradients(plan.model, language, refusals(0))
    torch.testing.assert_close(
        gradients(plan.model, combined.objective, batch), own + 2.5 * other, atol=1e-6, rtol=1e-4
    )


def test_an_added_objective_is_the_plans_own_where_its_batch_is_missing(plan):
    (batch,) = with_totals(plan.batches([plan.data[:2]], 0))
    combined = add(plan, 2.5, language, on="refusal")
    assert torch.equal(combined.objective(plan.model.network, batch)[0], language(plan.model.network, batch)[0])


def test_an_added_objective_reports_its_loss_by_name(plan, refusals):
    (batch,) = with_totals(with_batch(plan, "refusal", refusals).batches([plan.data[:2]], 0))
    _, metrics = add(plan, 2.5, language, on="refusal").objective(plan.model.network, batch)
    assert metrics["refusal/loss"] == pytest.approx(language(plan.model.network, refusals(0))[0].item())
    assert metrics["loss"] == pytest.approx(language(plan.model.network, batch)[0].item())


@pytest.mark.slow
def test_accumulation_does_not_repeat_an_added_objective(plan, refusals, tiny_model, weights):
    all_weights = []
    for size, accumulated in ((4, 1), (1, 4)):
        optim = replace(OPTIM, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
        fresh = replace(plan, model=tiny_model(), optim=optim)
        all_weights.append(weights(fit(add(with_batch(fresh, "refusal", refusals), 2.0, language, on="refusal")).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-6, rtol=1e-5)


def test_two_objectives_can_be_added_and_their_order_changes_no_gradient(plan, refusals):
    def both(first, second):
        wrapped = with_batch(with_batch(plan, first, refusals), second, lambda step: refusals(step + 1))
        (batch,) = with_totals(wrapped.batches([plan.data[:2]], 0))
        built = add(add(plan, 2.0, language, on=first), 3.0, language, on=second)
        return gradients(plan.model, built.objective, batch)

    def swapped(first, second):
        wrapped = with_batch(with_batch(plan, second, lambda step: refusals(step + 1)), first, refusals)
        (batch,) = with_totals(wrapped.batches([plan.data[:2]], 0))
        built = add(add(plan, 3.0, language, on=second), 2.0, language, on=first)
        return gradients(plan.model, built.objective, batch)

    torch.testing.assert_close(both("a", "b"), swapped("a", "b"), atol=1e-6, rtol=1e-5)


def test_a_part_is_found_by_its_whole_name():
    batch = {"a/x": torch.ones(1), "ab/x": torch.zeros(1), "x": torch.ones(2)}
    assert list(part(batch, "a")) == ["x"]
    assert part(batch, "a")["x"].item() == 1.0


def test_combinators_leave_the_plan_they_are_given_alone(plan, refusals):
    prepare, objective = plan.prepare, plan.objective
    add(with_batch(plan, "refusal", refusals), 1.0, language, on="refusal")
    assert plan.prepare is prepare
    assert plan.objective is objective


def test_given_answers_are_learnt_and_prompts_are_not(plan):
    (batch,) = plan.batches([plan.data[:3]], 0)
    for row, tokens, mask in zip(plan.data[:3], batch["input_ids"], batch["loss_mask"], strict=True):
        assert tokens[mask.bool()].tolist() == plan.model.encode_response(row.response)


def test_the_plain_rule_leaves_gradients_and_moves_nothing(plan, weights):
    before = weights(plan.model)
    (batch,) = with_totals(plan.batches([plan.data[:2]], 0))
    loss, metrics = backprop(language, plan.model.network, batch, lambda loss: loss.backward())
    assert torch.equal(weights(plan.model), before)
    assert all(parameter.grad is not None for parameter in plan.model.network.parameters())
    assert not loss.requires_grad
    assert metrics["loss"] == pytest.approx(loss.item())


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_training_leaves_a_reference_as_it_was(adapter, plan, tiny_model):
    model = adapt(tiny_model(), adapter)
    reference = reference_of(model)
    fitted = fit(replace(plan, model=model, optim=replace(OPTIM, learning_rate=1.0)))
    with torch.no_grad():
        with reference(fitted.model) as network:
            logits = forward(network, TOKENS)
        expected = forward(tiny_model().network, TOKENS)
        after = forward(fitted.model.network, TOKENS)
    assert torch.equal(logits, expected)
    assert not torch.equal(after, expected)


def test_a_model_is_released_as_it_is(plan):
    with as_is(plan.model) as released:
        assert released is plan.model


def test_divergence_says_what_and_where():
    error = Diverged(7, "loss is nan")
    assert (str(error), error.step, error.cause) == ("loss is nan at step 7", 7, "loss is nan")


def rollouts(**more):
    """Four sequences of three answer tokens, two of them without an advantage."""
    batch = {
        "input_ids": torch.randint(4, 60, (4, 6), generator=torch.Generator().manual_seed(0)),
        "loss_mask": torch.tensor([[0, 0, 0, 1, 1, 1]] * 4),
        "lengths": torch.tensor([6] * 4),
        "advantages": torch.tensor([1.0, 0.0, -1.0, 0.0]),
    }
    return with_totals([{**batch, **more}])[0]


POLICY = {"clip_low": 0.2, "clip_high": 0.2, "max_tokens": 3}


@pytest.mark.parametrize("reduction", ["sequence", "token", "fixed"])
def test_leaving_out_rows_without_an_advantage_changes_no_gradient(reduction, tiny_model):
    model, batch = tiny_model(), rollouts()
    skipping = policy_gradient(**POLICY, reduction=reduction)
    # A negligible advantage keeps every row in the pass.
    whole = {**batch, "advantages": batch["advantages"] + torch.tensor([0.0, 1e-30, 0.0, 1e-30])}
    torch.testing.assert_close(
        gradients(model, skipping, batch), gradients(model, skipping, whole), atol=1e-7, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_an_answers_weight_multiplies_all_that_it_contributes(ratio, tiny_model):
    model, references = tiny_model(), torch.full((4, 5), -4.0)
    objective = policy_gradient(**POLICY, reduction="token", ratio=ratio, kl_coef=0.1 if ratio == "token" else 0.0)
    parts = [
        gradients(model, objective, rollouts(ref_logprobs=references, weights=torch.eye(4)[row])) for row in range(4)
    ]
    counted = torch.tensor([0.5, 2.0, 3.0, 0.0])
    expected = sum(weight * part for weight, part in zip(counted, parts, strict=True))
    gradient = gradients(model, objective, rollouts(ref_logprobs=references, weights=counted))
    # Of single entries the rounding alone may be as large, from machine to machine; a wrong weight moves them all.
    assert float((gradient - expected).norm()) < 1e-5 * float(expected.norm())
    plain = gradients(model, objective, rollouts(ref_logprobs=references))
    assert torch.equal(gradients(model, objective, rollouts(ref_logprobs=references, weights=torch.ones(4))), plain)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_what_another_policy_sampled_is_weighed_by_its_answers_ratio_and_logged(ratio, tiny_model):
    model = tiny_model()
    objective = policy_gradient(**POLICY, reduction="token", ratio=ratio, importance_cap=1.5)
    with torch.no_grad():
        own = answer_logprobs(model.network, rollouts())
    apart = torch.tensor([0.1, 0.0, -0.2, 0.3])
    sampled = own - apart[:, None] / 3  # over three tokens each
    weights = torch.tensor([math.exp(0.1), 1.0, math.exp(-0.2), math.exp(0.3)])
    advantages = torch.tensor([1.0, 2.0, -1.0, 0.5])
    weighed = rollouts(advantages=advantages, weights=weights)
    corrected = rollouts(advantages=advantages, sampled_logprobs=sampled)
    torch.testing.assert_close(gradients(model, objective, corrected), gradients(model, objective, weighed))
    _, metrics = objective(model.network, corrected)
    assert metrics["sampling_kl"] == pytest.approx(-float(apart.mean()) / 3, abs=1e-5)
    assert metrics["sampling_gap"] == pytest.approx(float((weights - 1).abs().mean()), abs=1e-5)
    assert metrics["sampling_capped"] == 0
    far = rollouts(advantages=advantages, sampled_logprobs=own - 1)
    capped = rollouts(advantages=advantages, weights=torch.full((4,), 1.5))
    torch.testing.assert_close(gradients(model, objective, far), gradients(model, objective, capped))
    assert objective(model.network, far)[1]["sampling_capped"] == 1


def test_tokens_may_have_weights_of_their_own_but_not_where_an_answer_is_one_action(tiny_model):
    model, counted = tiny_model(), torch.tensor([0.5, 2.0, 3.0, 0.0])
    objective = policy_gradient(**POLICY, reduction="token")
    by_answer, by_token = (rollouts(weights=weights) for weights in (counted, counted[:, None].expand(4, 5)))
    assert torch.equal(gradients(model, objective, by_answer), gradients(model, objective, by_token))
    with pytest.raises(HoldfastError, match=r"policy\.ratio: `sequence`"):
        policy_gradient(**POLICY, reduction="token", ratio="sequence")(model.network, by_token)


def test_rows_without_an_advantage_are_left_out_of_the_pass(tiny_model):
    class Counting(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.rows = network, []

        def forward(self, input_ids, **more):
            self.rows.append(len(input_ids))
            return self.network(input_ids=input_ids, **more)

    network = Counting(tiny_model().network)
    policy_gradient(**POLICY, reduction="token")(network, rollouts())
    policy_gradient(**POLICY, reduction="token")(network, rollouts(advantages=torch.zeros(4)))
    assert network.rows == [2]


def test_a_batch_without_any_advantage_has_loss_zero(tiny_model):
    loss, metrics = policy_gradient(**POLICY, reduction="token")(
        tiny_model().network, rollouts(advantages=torch.zeros(4))
    )
    assert loss.item() == 0.0
    assert metrics == {"loss": 0.0}


def test_the_policy_gradient_raises_what_paid_and_lowers_what_did_not(tiny_model):
    model, batch = tiny_model(), rollouts()
    gradient = gradients(model, policy_gradient(**POLICY, reduction="token"), batch)
    assert gradient.abs().max() > 0

    def mean_logprob():
        with torch.no_grad():
            logits = forward(model.network, batch)
        return (token_logprobs(logits, batch["input_ids"]) * target_mask(batch["loss_mask"])).sum(1)

    before = mean_logprob()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.sub_(0.05 * parameter.grad)
    after = mean_logprob()
    assert after[0] > before[0]
    assert after[2] < before[2]


def test_a_kl_term_pulls_towards_the_reference(tiny_model):
    """At the reference the term is 0; away from it the loss grows by kl_coef times the estimate."""
    model = tiny_model()
    batch = rollouts()
    with torch.no_grad():
        own = token_logprobs(forward(model.network, batch), batch["input_ids"])
    with_kl = policy_gradient(**POLICY, reduction="token", kl_coef=0.5)
    plain, _ = policy_gradient(**POLICY, reduction="token")(model.network, batch)
    at, metrics = with_kl(model.network, {**batch, "ref_logprobs": own})
    away, far = with_kl(model.network, {**batch, "ref_logprobs": own - 0.3})
    assert at.item() == pytest.approx(plain.item(), abs=1e-6)
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert far["kl"] == pytest.approx(0.3 + 2.718281828**-0.3 - 1, rel=1e-4)
    assert away.item() - plain.item() == pytest.approx(0.5 * far["kl"], rel=1e-3)


def test_the_kl_term_holds_where_it_is_weighed_only(tiny_model):
    model, batch = tiny_model(), rollouts(advantages=torch.zeros(4))
    with torch.no_grad():
        reference = token_logprobs(forward(model.network, batch), batch["input_ids"]) - 0.3
    objective = policy_gradient(**POLICY, reduction="sequence", kl_coef=0.5)
    every, _ = objective(model.network, {**batch, "ref_logprobs": reference})
    half, _ = objective(model.network, {**batch, "ref_logprobs": reference, "kl_weights": torch.tensor([1.0, 0, 1, 0])})
    assert half.item() == pytest.approx(every.item() / 2, rel=1e-5)


def test_what_stands_round_a_prepare_is_called_innermost_first_and_hides_it_from_nobody(plan):
    calls = []

    def around(name):
        def called(prepare, model, micro_batches, step):
            calls.append(name)
            return prepare(model, micro_batches, step)

        return called

    whole = plan.wrapped(around("inner")).wrapped(around("outer"))
    plain = plan.batches([plan.data[:2]], 0)
    prepared = whole.batches([plan.data[:2]], 0)
    assert calls == ["outer", "inner"]
    assert whole.prepare is plan.prepare
    assert torch.equal(prepared[0]["input_ids"], plain[0]["input_ids"])
