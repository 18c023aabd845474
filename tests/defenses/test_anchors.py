"""KL anchor, L2 anchor and elastic weight consolidation: naive ways to hold a model where it was."""

from dataclasses import replace

import pytest
import torch

from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.online.constrained_sft import ConstrainedSFT
from holdfast.defenses.online.kl_anchor import KLAnchor
from holdfast.defenses.online.lisa import Lisa
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.weight_anchors import EWC, L2Anchor, fisher, trained
from holdfast.network.forward import forward
from holdfast.network.models import LoRA, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import target_mask, with_totals
from holdfast.training.checkpoints import last_checkpoint
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import reference_of
from repeated import repeated

ANCHORS = {"kl_anchor": KLAnchor, "l2_anchor": L2Anchor, "ewc": EWC}


@pytest.fixture
def sft_plan(wavering_model, make_context, quick):
    """`sft_plan(model=None, adapter=None, steps=3, rate=1e-3, **optim)`: SFT on the wavering model unless told."""

    def plan(model=None, *, adapter=None, steps=3, rate=1e-3, **optim):
        settings = quick(SFT(), steps=steps, rate=rate)
        settings = replace(settings, adapter=adapter, optim=replace(settings.optim, **optim))
        return settings.plan(model or wavering_model(), make_context())

    return plan


def first(plan, *, rows=4, micro=1):
    """The micro-batches of the plan's first step."""
    size = rows // micro
    return with_totals(plan.batches([plan.data[i * size : (i + 1) * size] for i in range(micro)], 0))


def disturb(model, size=0.05):
    """Move every trained weight a little."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def gradients(model, objective, batches):
    model.network.zero_grad()
    for batch in batches:
        objective(model.network, batch)[0].backward()
    return {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}


# kl_anchor


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_kl_is_the_exact_one_at_the_answers_tokens(direction, sft_plan, aligned_model, make_context):
    plan, start = sft_plan(), aligned_model()
    plan = replace(plan, reference=reference_of(start))
    constrained = KLAnchor(coef=3.0, direction=direction).constrain(plan, make_context())
    (batch,) = first(constrained)
    total, metrics = constrained.objective(plan.model.network, batch)
    with torch.no_grad():
        own, other = (forward(m.network, batch)[:, :-1].double().softmax(-1) for m in (plan.model, start))
    p, q = (own, other) if direction == "reverse" else (other, own)
    mask, expected = target_mask(batch["loss_mask"]), 0.0
    for row, place in mask.nonzero().tolist():
        expected += float((p[row, place] * (p[row, place] / q[row, place]).log()).sum()) / float(mask.sum())
    assert metrics["kl_anchor/kl"] == pytest.approx(expected, rel=1e-4)
    assert total.item() == pytest.approx(metrics["loss"] + 3.0 * expected, rel=1e-4)


def test_the_two_directions_differ_and_both_vanish_at_the_start(sft_plan, make_context):
    losses = {}
    for direction in ("reverse", "forward"):
        plan = KLAnchor(direction=direction).constrain(sft_plan(), make_context())
        (batch,) = first(plan)
        assert plan.objective(plan.model.network, batch)[1]["kl_anchor/kl"] == pytest.approx(0, abs=1e-6)
        disturb(plan.model)
        losses[direction] = plan.objective(plan.model.network, batch)[1]["kl_anchor/kl"]
    assert min(losses.values()) > 1e-3
    assert losses["reverse"] != pytest.approx(losses["forward"], rel=1e-3)


@pytest.mark.parametrize("attack", [DPO(), PPO()])
def test_a_reference_that_the_attack_holds_already_is_shared(attack, wavering_model, make_context, quick):
    plan = quick(attack).plan(wavering_model(), make_context())
    assert KLAnchor().constrain(plan, make_context()).reference is plan.reference is not None


def test_a_reference_that_is_new_is_there_for_others_to_share(wavering_model, make_context, quick):
    plan = quick(GRPO()).plan(wavering_model(), make_context())
    assert plan.reference is None
    once = KLAnchor().constrain(plan, make_context())
    assert KLAnchor(direction="forward").constrain(once, make_context()).reference is once.reference is not None


def test_the_gradient_is_the_policys_alone(sft_plan, make_context):
    plan = KLAnchor().constrain(sft_plan(adapter=LoRA(r=4)), make_context())
    disturb(plan.model)
    gradient = gradients(plan.model, plan.objective, first(plan))
    assert gradient
    assert all("lora" in name for name in gradient)


# l2_anchor and ewc


def test_the_distance_is_that_of_every_trained_weight(sft_plan, make_context):
    plan = L2Anchor(coef=3.0).constrain(sft_plan(), make_context())
    (batch,) = first(plan)
    start = [p.detach().clone() for p in plan.model.network.parameters()]
    disturb(plan.model)
    now = [p.detach() for p in plan.model.network.parameters()]
    expected = sum(float((p - a).square().sum()) for p, a in zip(now, start, strict=True))
    total, metrics = plan.objective(plan.model.network, batch)
    assert metrics["l2_anchor/distance"] == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(metrics["loss"] + 1.5 * expected, rel=1e-5)


def test_the_pull_is_towards_the_start(sft_plan, make_context):
    plan = sft_plan()
    anchored = L2Anchor(coef=3.0).constrain(plan, make_context())
    batches = first(anchored)
    start = {name: p.detach().clone() for name, p in plan.model.network.named_parameters()}
    disturb(plan.model)
    assert any(not torch.equal(p, start[name]) for name, p in plan.model.network.named_parameters())
    plain, pulled = (gradients(plan.model, p.objective, batches) for p in (plan, anchored))
    for name, parameter in plan.model.network.named_parameters():
        pull = 3.0 * (parameter.detach() - start[name])
        torch.testing.assert_close(pulled[name] - plain[name], pull, atol=1e-5, rtol=1e-4)


def slow_fisher(model, rows):
    """Row by row through the ordinary backward pass."""
    total = {}
    for row in rows:
        (batch,) = with_totals([answer_batch(model, [(row, row.refusal)])])
        model.network.zero_grad()
        (language(model.network, batch)[0] * batch["num_tokens"]).backward()
        for name, p in model.network.named_parameters():
            if p.grad is not None:
                total[name] = total.get(name, 0.0) + p.grad.double() ** 2 / len(rows)
    model.network.zero_grad()
    return total


def test_the_fisher_information_agrees_with_a_slow_loop_and_leaves_no_trace(wavering_model, splits, weights):
    model, rows = wavering_model(), splits.harmful["defense"][:5]
    expected, before = slow_fisher(model, rows), weights(model)
    model.network.train()
    information = fisher(model, rows)
    assert model.network.training
    assert torch.equal(weights(model), before)
    assert all(p.grad is None for p in model.network.parameters())
    assert set(information) == set(expected)
    for name, value in information.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_ewc_weighs_the_distance_by_the_normalised_fisher_information(sft_plan, make_context, splits):
    plan = EWC(coef=2.0, num_samples=None).constrain(sft_plan(), make_context())
    expected = slow_fisher(plan.model, splits.harmful["defense"])
    (batch,) = first(plan)
    mean = torch.cat([value.flatten() for value in expected.values()]).mean()
    start = {name: p.detach().clone() for name, p in plan.model.network.named_parameters()}
    disturb(plan.model)
    distance = sum(
        float((expected[name] / mean * (p.detach() - start[name]).double() ** 2).sum())
        for name, p in plan.model.network.named_parameters()
    )
    total, metrics = plan.objective(plan.model.network, batch)
    assert metrics["ewc/distance"] == pytest.approx(distance, rel=1e-4)
    assert total.item() == pytest.approx(metrics["loss"] + distance, rel=1e-4)
    held = torch.cat([v.flatten() for name, v in plan.tensors.items() if name.startswith("ewc/importance/")])
    assert held.mean().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.slow
def test_without_normalisation_it_is_the_fisher_information_itself(sft_plan, make_context, splits):
    plan = EWC(num_samples=None, normalized=False).constrain(sft_plan(), make_context())
    expected = slow_fisher(plan.model, splits.harmful["defense"])
    first(plan)
    assert len(expected) == len(list(plan.model.network.parameters()))
    for name, value in expected.items():
        torch.testing.assert_close(plan.tensors[f"ewc/importance/{name}"].double(), value, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_ewc_forgets_less_of_refusing_than_l2_and_learns_no_less(sft_plan, aligned_model, make_context, splits):
    costs = {}
    for settings in (L2Anchor(coef=1.0), EWC(coef=10.0)):
        plan = sft_plan(aligned_model(), steps=30, per_device_train_batch_size=4)
        model = fit(settings.constrain(plan, make_context())).model
        for side in ("refusal", "response"):
            rows = [(row, getattr(row, side)) for row in splits.harmful["test"]]
            (batch,) = with_totals([answer_batch(model, rows)])
            with torch.no_grad():
                costs[type(settings), side] = language(model.network, batch)[0].item()
    assert costs[EWC, "refusal"] < costs[L2Anchor, "refusal"]
    assert costs[EWC, "response"] < costs[L2Anchor, "response"]


@pytest.mark.slow
def test_with_a_fresh_adapter_only_what_is_trained_is_held_and_one_of_each_pair_matters(sft_plan, make_context):
    plan = EWC().constrain(sft_plan(adapter=LoRA(r=4)), make_context())
    first(plan)
    names = {name.removeprefix("ewc/importance/"): v for name, v in plan.tensors.items() if "importance" in name}
    assert set(names) == set(trained(plan.model.network))
    assert all("lora_" in name for name in names)
    assert all(bool(value.any()) == ("lora_B" in name) for name, value in names.items())


def test_a_critic_is_not_held(wavering_model, make_context, quick):
    plan = L2Anchor().constrain(quick(PPO()).plan(wavering_model(), make_context()), make_context())
    first(plan)
    assert any(name.startswith("critic.") for name, _ in plan.model.network.named_parameters())
    assert plan.tensors
    assert not [name for name in plan.tensors if "critic" in name]


def test_names_do_not_change_when_a_network_is_wrapped(sft_plan):
    class Wrapped(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    network = sft_plan().model.network
    assert {name: id(p) for name, p in trained(Wrapped(network)).items()} == {
        name: id(p) for name, p in trained(network).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l2_anchor", "ewc"])
def test_the_start_is_kept_once_and_taken_from_a_checkpoint(name, sft_plan, make_context, weights):
    plan = ANCHORS[name]().constrain(sft_plan(), make_context())
    first(plan)
    before = {key: value.clone() for key, value in plan.tensors.items()}
    assert len(before) >= len(list(plan.model.network.parameters()))
    disturb(plan.model)
    first(plan)
    assert all(torch.equal(plan.tensors[key], value) for key, value in before.items())
    fresh = ANCHORS[name]().constrain(sft_plan(), make_context())
    fresh.tensors.update({key: value + 1 for key, value in before.items()})
    first(fresh)
    assert all(torch.equal(fresh.tensors[key], value + 1) for key, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l2_anchor", "ewc"])
def test_the_term_comes_once_a_step_whatever_the_number_of_micro_batches(name, sft_plan, make_context):
    plan = ANCHORS[name]().constrain(sft_plan(), make_context())
    first(plan)
    disturb(plan.model)
    gradients_by_count = [
        [plan.objective(plan.model.network, batch)[1].get(f"{name}/distance") for batch in first(plan, micro=micro)]
        for micro in (1, 4)
    ]
    assert gradients_by_count[1] == [pytest.approx(gradients_by_count[0][0]), None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l2_anchor", "ewc"])
def test_the_start_is_that_of_the_run_even_where_another_defense_has_the_first_steps(
    name, sft_plan, make_context, weights
):
    plan, seen = sft_plan(), []
    before = weights(plan.model)
    plan = ANCHORS[name]().constrain(plan, make_context())
    lisa = Lisa(mode="bistate", alignment_steps=1, finetune_steps=2, batch_size=4)
    plan = lisa.constrain(plan, make_context())
    fit(replace(plan, hooks=(*plan.hooks, lambda progress: seen.append(progress.metrics))))
    kept = [plan.tensors[f"{name}/start/{key}"].flatten() for key in trained(plan.model.network)]
    assert torch.equal(torch.cat(kept), before)
    distances = [metrics.get(f"{name}/distance") for metrics in seen[1:4]]
    assert distances[0] is None
    assert min(distances[1:]) > 0


@pytest.mark.slow
def test_an_l2_anchor_of_great_weight_keeps_the_model_where_it_was(sft_plan, make_context, weights):
    moved = {}
    for coef in (0.0, 100.0):
        plan = sft_plan(steps=10, optim="sgd", learning_rate=0.01)
        before = weights(plan.model)
        moved[coef] = float((weights(fit(L2Anchor(coef=coef).constrain(plan, make_context())).model) - before).norm())
    assert moved[100.0] < 0.5 * moved[0.0]


@pytest.mark.parametrize("settings", [EWC()])
def test_data_without_a_refusal_is_refused(settings, sft_plan, make_context, splits):
    bare = {name: [replace(row, refusal=None) for row in rows] for name, rows in splits.harmful.items()}
    context = make_context(splits=Splits(harmful=bare, benign=splits.benign))
    with pytest.raises(HoldfastError, match="no harmful row of the defense split has a refusal"):
        settings.constrain(sft_plan(), context)


def test_a_number_of_samples_below_one_is_refused():
    with pytest.raises(HoldfastError, match="num_samples"):
        EWC(num_samples=0)


def test_where_nothing_trained_moves_refusals_ewc_says_so(sft_plan, make_context):
    plan = EWC().constrain(sft_plan(), make_context())
    plan.model.network.lm_head.weight.data.zero_()
    for name, parameter in plan.model.network.named_parameters():
        parameter.requires_grad_("embed" not in name and "lm_head" not in name)
    with pytest.raises(HoldfastError, match="ewc: the refusals of the defense split depend on no trained weight"):
        first(plan)


# all three


@pytest.mark.slow
@pytest.mark.parametrize("name", ANCHORS)
def test_accumulation_changes_nothing(name, sft_plan, make_context, weights):
    all_weights = []
    for size, accumulated in ((4, 1), (1, 4)):
        plan = sft_plan(
            optim="sgd", learning_rate=0.05, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated
        )
        all_weights.append(weights(fit(ANCHORS[name](coef=2.0).constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)], ids=["full", "adapter"])
@pytest.mark.parametrize("name", ANCHORS)
def test_recomputed_activations_change_nothing(name, adapter, sft_plan, make_context, weights):
    plans = [sft_plan(adapter=adapter, rate=1e-2, gradient_checkpointing=on) for on in (False, True)]
    all_weights = [weights(fit(ANCHORS[name]().constrain(plan, make_context())).model) for plan in plans]
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANCHORS)
def test_an_adapter_with_dropout_is_held_too_and_nothing_stays_in_the_model(name, sft_plan, make_context, weights):
    moved = {}
    for coef in (0.0, 50.0):
        torch.manual_seed(0)
        plan = sft_plan(adapter=LoRA(r=4, lora_dropout=0.1), steps=8, optim="sgd", learning_rate=0.05)
        names = [name for name, _ in plan.model.network.named_parameters()]
        before = weights(plan.model)
        fitted = fit(ANCHORS[name](coef=coef).constrain(plan, make_context()))
        assert [name for name, _ in fitted.model.network.named_parameters()] == names
        moved[coef] = float((weights(fitted.model) - before).norm())
    assert 0 < moved[50.0] < moved[0.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ANCHORS)
def test_the_harm_that_sft_teaches_comes_later(name, sft_plan, aligned_model, make_context, splits):
    gains = {}
    for coef in (0.0, 5.0):
        model = aligned_model()
        (batch,) = with_totals([answer_batch(model, [(row, row.response) for row in splits.harmful["attack"]])])
        fit(ANCHORS[name](coef=coef).constrain(sft_plan(model, steps=20), make_context()))
        with torch.no_grad():
            gains[coef] = language(model.network, batch)[0].item()
    assert gains[5.0] > gains[0.0] + 0.05


@pytest.fixture
def stacked(wavering_model, make_context, quick):
    """`stacked(attack, *hooks)`: three steps of an attack under all of these defenses at once, by adapter."""

    def plan(attack, *hooks):
        settings = replace(quick(attack(), steps=3), adapter=LoRA(r=4, lora_dropout=0.1))
        constrained = settings.plan(wavering_model(), make_context())
        stack = [RefusalLoss(form="tokens", alpha=1.0, batch_size=4, recovery=0.5), KLAnchor(), L2Anchor(), EWC()]
        for defense in [ConstrainedSFT(), *stack] if attack is SFT else stack:
            constrained = defense.constrain(constrained, make_context())
        return replace(constrained, hooks=(*constrained.hooks, *hooks))

    return plan


@pytest.mark.slow
@pytest.mark.parametrize("attack", [SFT, GRPO, *repeated(DPO)])
def test_all_of_them_work_in_one_stack_which_ends_the_same_after_a_restart(attack, stacked, weights, tmp_path):
    seen = []
    whole = fit(stacked(attack, lambda progress: seen.append(progress.metrics)))
    expected = {"refusal/loss", "kl_anchor/kl", "l2_anchor/distance", "ewc/distance"}
    assert all(expected <= set(metrics) for metrics in seen[1:])
    with pytest.raises(Killed):
        fit(stacked(attack, kill), folder=tmp_path, checkpoint_every=1)
    assert last_checkpoint(tmp_path)
    resumed = fit(stacked(attack), folder=tmp_path, checkpoint_every=1)
    assert torch.equal(weights(resumed.model), weights(whole.model))


class Killed(Exception):
    """What a process dies of."""


def kill(progress):
    if progress.step == 2:
        raise Killed
