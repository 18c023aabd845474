"""Vaccine under attacks and in stacks, and as a stage before them; its two passes are tested in test_perturbation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.offline.vaccine_alignment import VaccineAlignment
from holdfast.defenses.online.lisa import Lisa
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.vaccine import Vaccine
from holdfast.network.forward import answer_logprobs
from holdfast.network.models import LoRA, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import target_mask, with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.perturbation import two_pass

ATTACKS = {"sft": SFT, "dpo": DPO, "grpo": GRPO, "ppo": PPO}


@pytest.fixture
def plan_of(wavering_model, make_context, quick):
    """`plan_of("sft", adapter=..., **optim)`: a short attack."""

    def plan(name, *, steps=2, adapter=None, **optim):
        settings = quick(ATTACKS[name](), steps=steps)
        settings = replace(settings, adapter=adapter, optim=replace(settings.optim, **optim))
        return settings.plan(wavering_model(), make_context())

    return plan


def losses_of(plan):
    seen = []
    watch = lambda progress: seen.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
    return fit(replace(plan, hooks=(*plan.hooks, watch))), seen


@pytest.mark.slow
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_the_loss_that_trains_is_higher_than_the_clean_one(attack, plan_of, make_context):
    _, seen = losses_of(Vaccine(perturbation_radius=0.1).constrain(plan_of(attack), make_context()))
    read = [metrics for metrics in seen if "clean_loss" in metrics]
    assert read
    assert all(metrics["loss"] > metrics["clean_loss"] for metrics in read)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["grpo", "ppo"])
@pytest.mark.parametrize("stack", ["alone", "inside", "outside"])
def test_under_rl_the_ratio_is_to_the_policy_that_sampled(attack, stack, plan_of, make_context):
    """Its log-probabilities are in the batch, wherever in a stack the defense stands."""
    plan, context = plan_of(attack), make_context()
    vaccine, others = Vaccine(perturbation_radius=5.0), [RefusalLoss(batch_size=2), Lisa()]
    order = {"alone": [vaccine], "inside": [vaccine, *others], "outside": [*others, vaccine]}[stack]
    constrained = plan
    for defense in order:
        constrained = defense.constrain(constrained, context)
    rows = [plan.data[:4]]
    (batch,) = with_totals(constrained.batches(rows, 0))
    with torch.no_grad():
        expected = answer_logprobs(plan.model.network.eval(), batch)
    mask = target_mask(batch["loss_mask"])
    torch.testing.assert_close(batch["old_logprobs"] * mask, expected * mask, rtol=1e-4, atol=1e-4)
    assert constrained.backward is not plan.backward


def test_the_perturbed_policy_is_another_than_the_one_that_sampled(plan_of, make_context):
    """Of a group relative loss at ratio 1 the value is the mean advantage, which is 0; perturbed it is not."""
    plan = Vaccine(perturbation_radius=5.0).constrain(plan_of("grpo"), make_context())
    (batch,) = with_totals(plan.batches([plan.data[:4]], 0))
    assert float(batch["advantages"].abs().sum()) > 0
    loss, metrics = plan.backward(plan.objective, plan.model.network.train(), batch, Tensor.backward)
    assert abs(metrics["clean_loss"]) < 1e-4
    assert float(loss) > 1e-2


@pytest.mark.slow
def test_in_a_stack_the_order_does_not_matter(plan_of, make_context, weights):
    parts = {
        "vaccine": Vaccine(perturbation_radius=1.0),
        "lisa": Lisa(proximal_weight=10.0, warmup_fraction=0.0),
        "refusals": RefusalLoss(alpha=1.0, batch_size=4),
    }
    all_weights = []
    for order in (("vaccine", "lisa", "refusals"), ("lisa", "refusals", "vaccine"), ("refusals", "vaccine", "lisa")):
        plan = plan_of("sft", steps=3)
        for name in order:
            plan = parts[name].constrain(plan, make_context())
        all_weights.append(weights(fit(plan).model))
    assert torch.equal(all_weights[0], all_weights[1])
    assert torch.equal(all_weights[0], all_weights[2])


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sft", "dpo"])
def test_with_a_radius_for_each_token_accumulated_micro_batches_train_as_their_union(
    attack, plan_of, make_context, weights
):
    all_weights = []
    for size, accumulated in ((4, 1), (2, 2)):
        plan = plan_of(attack, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, optim="sgd")
        plan = Vaccine(perturbation_radius=0.5, per_token=True).constrain(plan, make_context())
        all_weights.append(weights(fit(plan).model))
    torch.testing.assert_close(all_weights[0], all_weights[1], rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_checkpointed_activations_train_to_the_same_weights(adapter, plan_of, make_context, weights):
    all_weights = []
    for again in (False, True):
        plan = plan_of("sft", adapter=adapter, gradient_checkpointing=again)
        all_weights.append(weights(fit(Vaccine().constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[0], all_weights[1], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_an_adapter_with_dropout_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    plan_of, make_context, weights, tmp_path
):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 3:
            raise Killed

    def plan(*hooks):
        built = plan_of("sft", steps=4, adapter=LoRA(r=4, lora_dropout=0.3))
        return replace(Vaccine().constrain(built, make_context()), hooks=hooks)

    whole = fit(plan())
    with pytest.raises(Killed):
        fit(plan(kill), folder=tmp_path, checkpoint_every=2)
    assert torch.equal(weights(fit(plan(), folder=tmp_path, checkpoint_every=2).model), weights(whole.model))


def test_what_leaves_the_service_has_no_hooks(plan_of, make_context):
    fitted = fit(Vaccine().constrain(plan_of("sft"), make_context()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fitted.model.network.modules())


# the alignment stage


def stage(quick, **more):
    return replace(quick(VaccineAlignment(), steps=40, rate=4e-3, batch=4), **more)


def cost(model, rows):
    (batch,) = with_totals([answer_batch(model, [(row, row.refusal) for row in rows])])
    with torch.no_grad():
        return float(language(model.network.eval(), batch)[0])


@pytest.mark.slow
def test_alignment_teaches_refusals_and_benign_answers_together(tiny_model, make_context, quick, splits):
    model = tiny_model(small=True)
    hardened = stage(quick).harden(model, make_context())
    benign = [replace(row, refusal=row.response) for row in splits.benign["test"]]
    for rows in (splits.harmful["test"], benign):
        assert cost(hardened, rows) < 0.7 * cost(model, rows)


@pytest.mark.slow
def test_alignment_makes_refusals_stand_a_perturbation_that_plain_alignment_does_not(
    tiny_model, make_context, quick, splits
):
    rows, risen = splits.harmful["development"], {}
    for radius in (0.0, 2.0):
        settings = stage(quick, perturbation_radius=radius, benign_share=0.0)
        model = settings.harden(tiny_model(small=True), make_context())
        (batch,) = with_totals([answer_batch(model, [(row, row.refusal) for row in rows])])
        loss, metrics = two_pass(2.0)(language, model.network.eval(), batch, Tensor.backward)
        risen[radius] = float(loss) - metrics["clean_loss"]
    assert risen[2.0] < 0.8 * risen[0.0]


@pytest.mark.slow
def test_alignment_with_radius_zero_is_plain_training(tiny_model, make_context, quick):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    context = make_context(fit=watched)
    for radius in (0.0, 1.0):
        replace(quick(VaccineAlignment()), perturbation_radius=radius).harden(tiny_model(), context)
    names = [plan.backward.__qualname__ for plan in plans]
    assert names == ["backprop", "two_pass.<locals>.rule"]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_alignment_mixes_benign_rows_by_their_share(share, tiny_model, make_context, quick):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    replace(quick(VaccineAlignment(), steps=1), benign_share=share).harden(tiny_model(), make_context(fit=watched))
    rows = plans[0].data
    assert sum(row.role == "benign" for row in rows) == pytest.approx(share * len(rows), abs=1)
    assert all(row.response == row.refusal for row in rows if row.role == "harmful")
    assert len(rows) >= 24


def test_alignment_without_refusals_or_benign_answers_is_refused(tiny_model, make_context, quick, splits):
    def bare(part, field):
        return {name: [replace(row, **{field: None}) for row in rows] for name, rows in part.items()}

    settings = quick(VaccineAlignment())
    for told, lacking in (
        ("refusal", Splits(harmful=bare(splits.harmful, "refusal"), benign=splits.benign)),
        ("response", Splits(harmful=splits.harmful, benign=bare(splits.benign, "response"))),
    ):
        with pytest.raises(HoldfastError, match=f"row of the defense split has a {told}"):
            settings.harden(tiny_model(), make_context(splits=lacking))


def test_settings_that_mean_nothing_are_refused():
    for bad in ({"perturbation_radius": -1.0}, {"benign_share": 1.0}):
        with pytest.raises(HoldfastError, match="VaccineAlignment"):
            VaccineAlignment(**bad)
