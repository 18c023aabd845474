"""Security Vectors: a harmful vector that is on while somebody trains, and of which nothing is released."""

from dataclasses import replace
from itertools import product
from operator import methodcaller

import pytest
import torch
from transformers import PreTrainedModel

from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.online import ONLINE
from holdfast.defenses.online.kl_anchor import KLAnchor
from holdfast.defenses.online.security_vectors import PLACE, SecurityVectors, looking_ahead
from holdfast.network.forward import forward, sequence_logprobs
from holdfast.network.generate import evaluating
from holdfast.network.models import LoRA, adapt, answer_batch, clone, load, merged
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.sandbox import grammar
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import Fitted, GivenAnswers, Optim, Plan, backprop
from repeated import repeated, thinned

TRAINED = SecurityVectors(
    vector=LoRA(r=8), optim=Optim(max_steps=60, learning_rate=1e-2, per_device_train_batch_size=8)
)
ENABLE = methodcaller(  # as transformers calls it now, or did before
    "activation_checkpointing_enable"
    if hasattr(PreTrainedModel, "activation_checkpointing_enable")
    else "gradient_checkpointing_enable"
)
ARCHITECTURES = ["llama", "gpt2", "qwen3", "gemma"]


def shaken(plan, *, seed=0):
    """In the place of training: an adapter of noise, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in plan.model.network.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return Fitted(model=plan.model, steps=7, samples=8, tokens=9, seconds=1.0)


@pytest.fixture
def victim(tiny_model, quick):
    """`victim(context, attack=SFT, architecture="llama", steps=3)`: the plan of an attack on an untrained model."""

    def plan(context, attack=SFT, *, architecture="llama", steps=3, **more):
        settings = replace(quick(attack(), steps=steps), **more)
        return settings.plan(tiny_model(architecture, small=True), context)

    return plan


@pytest.fixture
def noisy(make_context):
    """A context in which vectors are noise, and are had at once."""
    return make_context(fit=shaken)


@pytest.fixture(scope="session")
def _trained(_refuser, make_context):
    return fit(TRAINED.preparation(clone(_refuser(1)), make_context()))


@pytest.fixture
def taught(make_context, _trained):
    """A context in which the vector of the aligned model has been trained already."""
    return make_context(fit=lambda plan: _trained)


def batch_of(model, rows, answer="response"):
    (batch,) = with_totals([answer_batch(model, [(row, getattr(row, answer)) for row in rows])])
    return batch


def cost_of(model, rows):
    with torch.no_grad():
        return language(model.network, batch_of(model, rows))[0].item()


def logits(model, rows, network=None):
    own = network or model.network
    with evaluating(own):
        return forward(own, batch_of(model, rows))


@pytest.fixture
def rows(splits):
    return splits.harmful["attack"][:4]


# what the vector does to a network


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_with_the_vector_on_computes_what_the_adapter_that_was_trained_computes(
    architecture, tiny_model, quick, noisy, rows
):
    model, made = tiny_model(architecture), []
    context = replace(noisy, fit=lambda plan: made.append(shaken(plan)) or made[0])
    plan = SecurityVectors().constrain(quick(SFT()).plan(model, context), context)
    with_vector, expected = logits(plan.model, rows), logits(made[0].model, rows)
    torch.testing.assert_close(with_vector, expected, rtol=1e-4, atol=1e-5)
    assert (with_vector - logits(tiny_model(architecture), rows)).abs().max() > 0.01


def test_strength_scales_the_vector(victim, noisy, rows):
    plan = SecurityVectors(strength=0.5, vector=LoRA(r=4, lora_alpha=8)).constrain(victim(noisy), noisy)
    half = SecurityVectors(vector=LoRA(r=4, lora_alpha=4)).constrain(victim(noisy), noisy)
    torch.testing.assert_close(logits(plan.model, rows), logits(half.model, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_dense_weights_with_the_vector_added_and_reach_nothing_of_it(
    architecture, checkpointing, tiny_model, victim, noisy
):
    rows = noisy.splits.harmful["attack"][:4]
    plan = SecurityVectors().constrain(victim(noisy, architecture=architecture), noisy)
    network = plan.model.network.train()
    if checkpointing:
        ENABLE(network)
    language(network, batch_of(plan.model, rows))[0].backward()
    dense = tiny_model(architecture, small=True)
    names = [name.removesuffix("/up") for name in plan.tensors if name.endswith("/up")]
    assert names
    for name in names:
        change = plan.tensors[f"{name}/up"] @ plan.tensors[f"{name}/down"]
        weight = dense.network.get_submodule(name.removeprefix(f"{PLACE}/")).weight
        weight.data += change if change.shape == weight.shape and architecture != "gpt2" else change.T
    language(dense.network.train(), batch_of(dense, rows))[0].backward()
    for (name, own), other in zip(network.named_parameters(), dense.network.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert all(not tensor.requires_grad and tensor.grad is None for tensor in plan.tensors.values())


# what is released


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "adapter"),
    [(SFT, None), (DPO, LoRA(r=4)), (PPO, LoRA(r=4)), *repeated((SFT, LoRA(r=4)), (DPO, None), (PPO, None))],
)
def test_nothing_of_the_vector_is_in_what_leaves_the_service(attack, adapter, victim, noisy, tmp_path):
    rows, plain = noisy.splits.harmful["attack"][:4], victim(noisy, attack, steps=2, adapter=adapter)
    with plain.released(plain.model) as released:
        keys = list(released.network.state_dict())
    plan = SecurityVectors().constrain(plain, noisy)
    fit(plan)
    on = logits(plan.model, rows)
    with plan.released(plan.model) as released:
        save(released, tmp_path)
        assert list(released.network.state_dict()) == keys
        assert not any(module._forward_hooks for module in released.network.modules())
        assert not any(module._forward_hooks for module in clone(released).network.modules())
        off = logits(released, rows)
    again = load(tmp_path)
    assert not any("lora" in name for name in again.network.state_dict())
    torch.testing.assert_close(logits(again, rows), off, rtol=1e-3, atol=1e-4)
    assert (on - off).abs().max() > 0.01
    assert torch.equal(logits(plan.model, rows), on)


def test_a_release_within_a_release_leaves_the_vector_off_until_both_are_over(tiny_model, victim, noisy, rows):
    plain = logits(tiny_model(small=True), rows)
    plan = SecurityVectors().constrain(victim(noisy), noisy)
    with plan.released(plan.model) as outer:
        with plan.released(outer) as inner:
            assert torch.equal(logits(inner, rows), plain)
        assert torch.equal(logits(outer, rows), plain)
    assert not torch.equal(logits(plan.model, rows), plain)


@pytest.mark.slow
def test_hooks_of_a_run_see_the_model_without_the_vector(tiny_model, quick, noisy, rows):
    seen = []
    plan = SecurityVectors().constrain(quick(SFT(), steps=1, rate=1e-30).plan(tiny_model(small=True), noisy), noisy)
    fit(replace(plan, hooks=(lambda progress: seen.append(logits(progress.model, rows)) and None,)))
    assert len(seen) == 3
    assert all(torch.equal(logits_seen, logits(tiny_model(small=True), rows)) for logits_seen in seen)


# what it is good for


def run_of(model, rows, *, optim):
    return Plan(model=model, data=rows, prepare=GivenAnswers(), objective=language, optim=optim)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_theta_learns_little_of_what_the_vector_knows(optim, aligned_model, taught, splits, weights):
    rates = {"sgd": 0.1, "adamw_torch": 3e-4}
    how = Optim(max_steps=20, learning_rate=rates[optim], per_device_train_batch_size=8, optim=optim, max_grad_norm=0.0)
    moved, costs = {}, {}
    start = aligned_model()
    for defended in (False, True):
        plan = run_of(aligned_model(), splits.harmful["attack"], optim=how)
        plan = TRAINED.constrain(plan, taught) if defended else plan
        fitted = fit(plan)
        with plan.released(fitted.model) as released:
            moved[defended] = float((weights(released) - weights(start)).norm())
            costs[defended] = cost_of(released, splits.harmful["test"])
    unharmed = cost_of(start, splits.harmful["test"])
    if optim == "sgd":
        assert moved[True] < 0.8 * moved[False]
    assert unharmed - costs[True] < 0.2 * (unharmed - costs[False])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["quiz", *repeated("summary")])
def test_a_harmless_task_is_learnt_all_the_same(task, aligned_model, taught):
    how = Optim(max_steps=20, learning_rate=1e-3, per_device_train_batch_size=8)
    trained, held_out = (grammar.tasks(name, 64, seed=0)[task] for name in ("attack", "test"))
    start, learnt = cost_of(aligned_model(), held_out), {}
    for defended in (False, True):
        plan = run_of(aligned_model(), trained, optim=how)
        plan = TRAINED.constrain(plan, taught) if defended else plan
        with plan.released(fit(plan).model) as released:
            learnt[defended] = start - cost_of(released, held_out)
    assert learnt[True] > 0.6 * learnt[False] > 0.0


@pytest.mark.slow
def test_the_vector_is_harmful_and_was_trained_on_the_defense_split_by_the_one_loop(
    aligned_model, make_context, splits, quick
):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    context = make_context(fit=watched)
    settings = replace(TRAINED, optim=replace(TRAINED.optim, max_steps=30))
    plan = settings.constrain(quick(SFT()).plan(aligned_model(), context), context)
    assert cost_of(plan.model, splits.harmful["test"]) < 0.7 * cost_of(aligned_model(), splits.harmful["test"])
    assert len(plans) == 1
    assert {row.key for row in plans[0].data} <= {row.key for row in splits.harmful["defense"]}


@pytest.mark.slow
def test_preparing_a_vector_changes_no_weight_and_what_it_cost_is_logged_with_the_first_step(
    tiny_model, make_context, quick, weights
):
    context = make_context()
    plain = quick(SFT(), steps=2).plan(tiny_model(small=True), context)
    before, steps = weights(plain.model), []
    settings = replace(TRAINED, optim=replace(TRAINED.optim, max_steps=3))
    plan = settings.constrain(plain, context)
    assert torch.equal(weights(plan.model), before)
    assert all(p.requires_grad and p.grad is None for p in plan.model.network.parameters())
    fit(replace(plan, hooks=(lambda progress: steps.append(progress.metrics) and None,)))
    assert steps[1]["vector/steps"] == 3
    assert steps[1]["vector/samples"] == 24
    assert steps[1]["vector/tokens"] > 24
    assert "vector/steps" not in steps[2]


# attacks by adapter, and references


@pytest.mark.slow
def test_an_attack_by_adapter_trains_that_adapter_alone(victim, noisy):
    plain = victim(noisy, steps=2, adapter=LoRA(r=4, lora_dropout=0.1))
    plan = SecurityVectors().constrain(plain, noisy)
    before = {name: p.detach().clone() for name, p in plan.model.network.named_parameters()}
    vector = {name: tensor.clone() for name, tensor in plan.tensors.items()}
    fit(plan)
    moved = {name for name, p in plan.model.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora" in name for name in moved)
    assert all(torch.equal(plan.tensors[name], vector[name]) for name in vector)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
@pytest.mark.parametrize("shared", [False, True])
def test_the_reference_of_dpo_has_the_vector_if_asked_and_else_is_the_plain_model(
    adapter, shared, tiny_model, quick, noisy
):
    plain = replace(quick(DPO()), adapter=adapter).plan(tiny_model(small=True), noisy)
    (expected,) = plain.batches([plain.data[:2]], 0)
    plan = SecurityVectors(reference_has_vector=shared).constrain(plain, noisy)
    (batch,) = plan.batches([plan.data[:2]], 0)
    with evaluating(plan.model.network):
        own = sequence_logprobs(plan.model.network, batch)
    wanted, other = (own, expected["ref_scores"]) if shared else (expected["ref_scores"], own)
    torch.testing.assert_close(batch["ref_scores"], wanted)
    assert (wanted - other).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_the_reference_of_a_kl_penalty_has_no_vector_unless_asked(adapter, tiny_model, quick, noisy):
    references = {}
    for shared in (False, True):
        settings = replace(quick(GRPO()), adapter=adapter)
        plain = replace(settings, policy=replace(settings.policy, kl_coef=0.1)).plan(tiny_model(small=True), noisy)
        plan = SecurityVectors(reference_has_vector=shared).constrain(plain, noisy)
        (batch,) = with_totals(plan.batches([plan.data[:2]], 0))
        _, metrics = plan.objective(plan.model.network, batch)
        references[shared] = metrics["kl"]
    assert references[True] == pytest.approx(0.0, abs=1e-5)
    assert references[False] > 0.01


@pytest.mark.parametrize("first", ["vector", "anchor"])
def test_the_reference_of_another_defense_has_no_vector_unless_asked_whichever_comes_first(first, victim, noisy):
    plan = victim(noisy)
    stack = [SecurityVectors(), KLAnchor()] if first == "vector" else [KLAnchor(), SecurityVectors()]
    for defense in stack:
        plan = defense.constrain(plan, noisy)
    (batch,) = with_totals(plan.batches([plan.data[:2]], 0))
    _, metrics = plan.objective(plan.model.network, batch)
    assert metrics["kl_anchor/kl"] > 0.01


@pytest.mark.slow
def test_answers_are_sampled_with_the_vector_on(aligned_model, taught, quick):
    plan = TRAINED.constrain(quick(GRPO()).plan(aligned_model(), taught), taught)
    refused = {}
    for defended, built in ((True, plan), (False, quick(GRPO()).plan(aligned_model(), taught))):
        (batch,) = built.batches([built.data[:8]], 0)
        pairs = zip(batch["input_ids"], batch["loss_mask"], strict=True)
        texts = [built.model.decode(row[mask.bool()].tolist()) for row, mask in pairs]
        refused[defended] = sum(text == built.data[0].refusal for text in texts) / len(texts)
    assert refused[True] < 0.2
    assert refused[False] > 0.6


# the bi-level form


@pytest.mark.slow
def test_the_bi_level_gradient_is_that_at_the_weights_which_the_model_itself_would_move_to(tiny_model, rows):
    model = adapt(tiny_model(small=True), LoRA(r=4, target_modules=("q_proj", "down_proj")))
    shaken(Plan(model=model, data=[], prepare=GivenAnswers(), objective=language, optim=Optim()))
    batch = batch_of(model, rows)
    moved = clone(model)
    for _ in range(2):
        theta = [p for name, p in moved.network.named_parameters() if "lora" not in name]
        for p in theta:
            p.requires_grad_(True)
        gradients = torch.autograd.grad(language(moved.network, batch)[0], theta)
        for p, gradient in zip(theta, gradients, strict=True):
            p.data -= 0.05 * gradient
    moved.network.zero_grad()
    expected, _ = backprop(language, moved.network, batch, torch.Tensor.backward)

    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    loss, _ = looking_ahead(2, 0.05)(language, model.network, batch, torch.Tensor.backward)
    torch.testing.assert_close(loss, expected)
    for (name, own), other in zip(model.network.named_parameters(), moved.network.parameters(), strict=True):
        assert torch.equal(own, before[name])
        assert own.requires_grad is ("lora" in name)
        if "lora" in name:
            torch.testing.assert_close(own.grad, other.grad)
        else:
            assert own.grad is None


def test_the_bi_level_gradient_of_a_step_does_not_depend_on_how_it_is_cut_but_for_the_inner_batch(tiny_model, rows):
    model = adapt(tiny_model(small=True), LoRA(r=4))
    shaken(Plan(model=model, data=[], prepare=GivenAnswers(), objective=language, optim=Optim()))
    all_gradients = []
    for parts in ([[rows[0]], [rows[0]]], [[rows[0]]]):
        model.network.zero_grad()
        batches = with_totals([answer_batch(model, [(row, row.response) for row in part]) for part in parts])
        for batch in batches:
            looking_ahead(1, 0.05)(language, model.network, batch, torch.Tensor.backward)
        all_gradients.append([p.grad.clone() for p in model.network.parameters() if p.requires_grad])
    assert any(gradient.any() for gradient in all_gradients[0])
    for twice, once in zip(*all_gradients, strict=True):
        torch.testing.assert_close(twice, once)


@pytest.mark.slow
def test_a_bi_level_vector_is_another_one_and_harmful_too(aligned_model, make_context, splits):
    vectors, costs = [], []
    for steps in (0, 1):
        settings = replace(TRAINED, inner_steps=steps, optim=replace(TRAINED.optim, max_steps=20))
        fitted = fit(settings.preparation(aligned_model(), make_context()))
        vectors.append(torch.cat([p.flatten() for n, p in fitted.model.network.named_parameters() if "lora" in n]))
        costs.append(cost_of(merged(fitted.model), splits.harmful["test"]))
    assert not torch.equal(*vectors)
    assert max(costs) < 0.8 * cost_of(aligned_model(), splits.harmful["test"])


# going on, composing, refusing


class Killed(Exception):
    """What a process dies of."""


@pytest.mark.slow
def test_a_resumed_run_has_the_vector_of_its_checkpoint_whatever_is_trained_anew(
    tiny_model, make_context, quick, weights, tmp_path
):
    def plan(seed, *hooks):
        context = make_context(fit=lambda plan: shaken(plan, seed=seed))
        built = SecurityVectors().constrain(quick(SFT(), steps=4).plan(tiny_model(small=True), context), context)
        return replace(built, hooks=hooks)

    def kill(progress):
        if progress.step == 3:
            raise Killed

    whole = fit(plan(0))
    with pytest.raises(Killed):
        fit(plan(0, kill), folder=tmp_path, checkpoint_every=2)
    resumed = fit(plan(1), folder=tmp_path, checkpoint_every=2)
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.slow
def test_accumulated_micro_batches_make_the_step_of_their_union(tiny_model, quick, noisy, weights):
    all_weights = []
    for size, parts in ((4, 1), (2, 2)):
        settings = quick(SFT(), steps=2)
        optim = replace(settings.optim, per_device_train_batch_size=size, gradient_accumulation_steps=parts)
        plain = replace(settings, optim=replace(optim, optim="sgd", learning_rate=0.1)).plan(
            tiny_model(small=True), noisy
        )
        all_weights.append(weights(fit(SecurityVectors().constrain(plain, noisy)).model))
    torch.testing.assert_close(*all_weights, rtol=1e-4, atol=1e-6)


def test_a_model_that_is_attacked_is_prepared_for_without_its_critic(victim, noisy):
    built = []
    context = replace(noisy, fit=lambda plan: built.append(plan) or shaken(plan))
    attack = victim(context, PPO)
    assert any("critic" in name for name, _ in attack.model.network.named_parameters())
    SecurityVectors().constrain(attack, context)
    assert not any("critic" in name for name, _ in built[0].model.network.named_parameters())


OTHERS = [name for name in ONLINE if name not in ("security_vectors", "constrained_sft")]
BOTH_WAYS = ("lisa", "safe_rlhf", "vaccine")
"""Those that put weights back, change the reward, and change the pass; anchors to the start differ in a term only."""
ORDERS = thinned(product(OTHERS, (False, True)), lambda other, first: not first or other in BOTH_WAYS)


@pytest.mark.slow
@pytest.mark.parametrize(("other", "first"), ORDERS)
def test_it_stands_beside_every_other_defense_in_either_order(other, first, victim, noisy):
    more = {"threshold": 0.3} if other == "safe_rlhf" else {}
    stack = [ONLINE.load(other)(**more), SecurityVectors()]
    plan, losses = victim(noisy, GRPO, steps=2), []
    keys = list(plan.model.network.state_dict())
    for defense in stack[::-1] if first else stack:
        plan = defense.constrain(plan, noisy)
    fit(replace(plan, hooks=(*plan.hooks, lambda progress: losses.append(progress.metrics.get("loss", 0.0)))))
    assert torch.tensor(losses).isfinite().all()
    with plan.released(plan.model) as released:
        assert list(released.network.state_dict()) == keys
        assert not any(module._forward_hooks for module in released.network.modules())


@pytest.mark.slow
def test_it_computes_in_bfloat16_where_the_run_does(victim, noisy):
    plain = victim(noisy)
    plan = SecurityVectors().constrain(replace(plain, optim=replace(plain.optim, bf16=True)), noisy)
    losses = []
    fit(replace(plan, hooks=(lambda progress: losses.append(progress.metrics.get("loss", 0.0)),)))
    assert torch.tensor(losses).isfinite().all()
    assert all(p.dtype == torch.float32 for p in plan.model.network.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"strength": -1.0}, "strength"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"inner_learning_rate": 0.0}, "inner_learning_rate"),
        ({"num_samples": 0}, "num_samples"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad, message):
    with pytest.raises(HoldfastError, match="SecurityVectors") as error:
        SecurityVectors(**bad)
    assert message in str(error.value)


def test_data_without_harmful_answers_are_refused(victim, noisy, splits):
    bare = {name: [replace(row, response=None) for row in rows] for name, rows in splits.harmful.items()}
    plan = victim(noisy)
    with pytest.raises(HoldfastError, match="no harmful row of the defense split has a harmful answer"):
        SecurityVectors().constrain(plan, replace(noisy, splits=Splits(harmful=bare, benign=splits.benign)))


def test_a_second_one_in_the_stack_is_refused(victim, noisy):
    plan = SecurityVectors().constrain(victim(noisy), noisy)
    with pytest.raises(HoldfastError, match="twice"):
        SecurityVectors().constrain(plan, noisy)
