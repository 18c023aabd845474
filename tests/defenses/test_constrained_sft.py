"""Constrained SFT: the first tokens of an answer move least."""

from dataclasses import replace

import pytest
import torch

from holdfast.attacks import ATTACKS
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.constrained_sft import ConstrainedSFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.network.forward import answer_logprobs, forward
from holdfast.network.models import LoRA, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import target_mask, token_logprobs, with_totals
from holdfast.training.contracts import learns_from
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import reference_of

OTHERS = [name for name in ATTACKS if learns_from(ATTACKS.load(name)) in ("preferences", "rewards")]


def answers(model, rows):
    """The given answers' batch with its totals."""
    return with_totals([answer_batch(model, [(row, row.response) for row in rows])])[0]


def test_the_loss_agrees_with_a_slow_loop(wavering_model, aligned_model, make_context, quick):
    start, settings = aligned_model(), ConstrainedSFT(beta=0.7, first_factor=3.0, early_factor=2.0, early_tokens=3)
    plan = quick(SFT()).plan(wavering_model(), make_context())
    plan = settings.constrain(replace(plan, reference=reference_of(start)), make_context())
    (batch,) = with_totals(plan.batches([plan.data[:4]], 0))
    total, metrics = plan.objective(plan.model.network, batch)
    with torch.no_grad():
        ours, theirs = (token_logprobs(forward(m.network, batch), batch["input_ids"]) for m in (plan.model, start))
    mask, expected, weights = target_mask(batch["loss_mask"]), 0.0, 0.0
    for row in range(len(mask)):
        for place, target in enumerate(mask[row].nonzero().flatten().tolist()):
            factor = 3.0 if place == 0 else 2.0 if place < 3 else 1.0
            gap = float(ours[row, target] - theirs[row, target])
            weight = max(2 * (1 - float(torch.tensor(0.7 * factor * gap).sigmoid())), 1e-3)
            expected -= weight * float(ours[row, target]) / float(mask.sum())
            weights += weight / float(mask.sum())
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert metrics == pytest.approx({"loss": expected, "token_weight": weights}, rel=1e-5)


def test_a_model_that_stands_at_the_reference_has_the_gradient_of_plain_sft(wavering_model, make_context, quick):
    plan = quick(SFT()).plan(wavering_model(), make_context())
    constrained = ConstrainedSFT().constrain(plan, make_context())
    (batch,) = with_totals(constrained.batches([plan.data[:4]], 0))
    all_gradients = []
    for objective in (plan.objective, constrained.objective):
        plan.model.network.zero_grad()
        objective(plan.model.network, batch)[0].backward()
        all_gradients.append([p.grad.clone() for p in plan.model.network.parameters()])
    for one, other in zip(*all_gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_tokens_at_the_beginning_rise_less_than_in_plain_sft_and_later_ones_as_much(
    aligned_model, make_context, quick, splits
):
    rows, gains = splits.harmful["attack"], {}
    for beta in (0.0, 0.1):
        model = aligned_model()
        batch = answers(model, rows)
        mask = target_mask(batch["loss_mask"])
        place = mask.cumsum(-1) * mask
        with torch.no_grad():
            before = answer_logprobs(model.network, batch)
        fit(ConstrainedSFT(beta=beta).constrain(quick(SFT(), steps=30).plan(model, make_context()), make_context()))
        with torch.no_grad():
            gain = answer_logprobs(model.network, batch) - before
        early, late = (place >= 2) & (place <= 5), place > 5
        gains[beta] = (float(gain[early].mean()), float(gain[late].mean()))
    assert gains[0.1][0] < 0.85 * gains[0.0][0]
    assert gains[0.1][1] > 0.95 * gains[0.0][1]


@pytest.mark.slow
def test_accumulation_changes_nothing(aligned_model, make_context, quick, weights):
    all_weights = []
    for size, accumulated in ((4, 1), (1, 4)):
        settings = quick(SFT())
        optim = replace(
            settings.optim,
            optim="sgd",
            learning_rate=0.1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        plan = replace(settings, optim=optim).plan(aligned_model(), make_context())
        all_weights.append(weights(fit(ConstrainedSFT().constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_with_an_adapter_the_reference_is_the_model_without_it(aligned_model, make_context, quick):
    settings = replace(quick(SFT(), steps=12, rate=1e-2), adapter=LoRA(r=8, lora_dropout=0.1))
    plan = ConstrainedSFT().constrain(settings.plan(aligned_model(), make_context()), make_context())
    rows = plan.data[:4]
    expected = answer_logprobs(aligned_model().network, answers(plan.model, rows)).detach()
    fit(plan)
    (batch,) = plan.batches([rows], 0)
    torch.testing.assert_close(batch["ref_logprobs"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_recomputed_activations_change_no_weight(aligned_model, make_context, quick, weights):
    all_weights = []
    for recompute in (False, True):
        settings = quick(SFT())
        settings = replace(settings, optim=replace(settings.optim, gradient_checkpointing=recompute))
        plan = settings.plan(aligned_model(), make_context())
        all_weights.append(weights(fit(ConstrainedSFT().constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attack", OTHERS)
def test_other_attacks_are_refused(attack, wavering_model, make_context, quick):
    settings = ATTACKS.load(attack)
    plan = quick(settings()).plan(wavering_model(), make_context())
    with pytest.raises(HoldfastError, match="constrained_sft: it weights the tokens of given answers"):
        ConstrainedSFT().constrain(plan, make_context())
    assert learns_from(settings) != ConstrainedSFT().needs


def test_after_a_defense_that_adds_to_the_loss_it_is_refused_and_before_it_is_not(aligned_model, make_context, quick):
    plan = quick(SFT()).plan(aligned_model(), make_context())
    refusals = RefusalLoss(alpha=1.0, batch_size=4)
    with pytest.raises(HoldfastError, match="name constrained_sft before"):
        ConstrainedSFT().constrain(refusals.constrain(plan, make_context()), make_context())
    both = refusals.constrain(ConstrainedSFT().constrain(plan, make_context()), make_context())
    (batch,) = with_totals(both.batches([plan.data[:4]], 0))
    assert {"token_weight", "refusal/loss"} <= set(both.objective(plan.model.network, batch)[1])


@pytest.mark.parametrize(
    "settings", [{"early_tokens": 0}, {"first_factor": -1.0}, {"early_factor": -1.0}, {"floor": 2.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(HoldfastError, match="ConstrainedSFT"):
        ConstrainedSFT(**settings)


def test_the_loss_it_replaces_is_that_of_sft(aligned_model, make_context, quick):
    assert quick(SFT()).plan(aligned_model(), make_context()).objective is language
