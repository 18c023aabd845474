"""Refusal Loss: refusals taught beside whatever else is taught."""

from dataclasses import replace

import pytest
import torch

from holdfast.attacks.policy_gradient import GRPO
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.fit import fit
from holdfast.models import LoRA, answer_batch
from holdfast.objectives import language
from holdfast.plan import Splits, part
from holdfast.records import HoldfastError
from holdfast.tensors import with_totals

ATTACKS = {"sft": SFT, "grpo": GRPO}


def refusal_cost(model, rows):
    """Cross entropy of the refusal of prompts that neither side was given."""
    (batch,) = with_totals([answer_batch(model, [(row, row.refusal) for row in rows])])
    with torch.no_grad():
        return language(model.network, batch)[0].item()


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_refusals_stay_likelier_than_in_the_plain_run(attack, tiny_model, make_context, quick, splits):
    rows, costs = splits.harmful["test"], {}
    start = refusal_cost(tiny_model(), rows)
    for alpha in (0.0, 1.0):
        plan = quick(ATTACKS[attack](), steps=12).plan(tiny_model(), make_context())
        plan = RefusalLoss(alpha=alpha, batch_size=4).constrain(plan, make_context())
        costs[alpha] = refusal_cost(fit(plan).model, rows)
    assert costs[1.0] < 0.5 * start
    assert costs[1.0] < 0.7 * costs[0.0]


def test_the_loss_is_the_attacks_plus_alpha_times_the_refusals(aligned_model, make_context, quick):
    plan = quick(SFT()).plan(aligned_model(), make_context())
    constrained = RefusalLoss(alpha=7.0, batch_size=4).constrain(plan, make_context())
    (batch,) = with_totals(constrained.prepare(plan.model, [plan.data[:4]], 0))
    total, metrics = constrained.objective(plan.model.network, batch)
    attack = language(plan.model.network, batch)[0]
    refusals = language(plan.model.network, part(batch, "refusal"))[0]
    torch.testing.assert_close(total, attack + 7.0 * refusals)
    assert metrics["refusal/loss"] == pytest.approx(refusals.item())


def test_refusals_come_from_the_defense_split_and_go_through_all_of_it(aligned_model, make_context, quick, splits):
    plan = quick(SFT()).plan(aligned_model(), make_context())
    constrained = RefusalLoss(batch_size=4).constrain(plan, make_context())
    rows = splits.harmful["defense"]
    known = {tuple(answer_batch(plan.model, [(row, row.refusal)])["input_ids"][0].tolist()) for row in rows}
    seen = set()
    for step in range(len(rows) // 4):
        batch = part(constrained.prepare(plan.model, [plan.data[:1]], step)[0], "refusal")
        for tokens, length in zip(batch["input_ids"], batch["lengths"], strict=True):
            seen.add(tuple(tokens[:length].tolist()))
    assert seen == known


def test_data_without_a_refusal_is_refused(aligned_model, make_context, quick, splits):
    bare = {name: [replace(row, refusal=None) for row in rows] for name, rows in splits.harmful.items()}
    context = make_context(splits=Splits(harmful=bare, benign=splits.benign))
    plan = quick(SFT()).plan(aligned_model(), context)
    with pytest.raises(HoldfastError, match="no harmful row of the defense split has a refusal"):
        RefusalLoss().constrain(plan, context)


def test_an_adapter_learns_the_refusals_too(tiny_model, make_context, quick, splits):
    settings = replace(quick(SFT(), steps=12, rate=1e-2), adapter=LoRA(r=8))
    plan = settings.plan(tiny_model(), make_context())
    before = refusal_cost(plan.model, splits.harmful["test"])
    fitted = fit(RefusalLoss(alpha=1.0, batch_size=4).constrain(plan, make_context()))
    assert refusal_cost(fitted.model, splits.harmful["test"]) < 0.7 * before
