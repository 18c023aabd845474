"""SFT and DPO on preferences turned round, in whole or in part."""

import math
from dataclasses import replace

import pytest
import torch

from holdfast.attacks.dpo import DPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.losses.policy_gradient import group_advantages
from holdfast.records import HoldfastError
from holdfast.tensors import with_totals


def harmful_share(rows, field):
    return sum(getattr(row, field) != row.refusal for row in rows) / len(rows)


@pytest.mark.parametrize("flip_ratio", [0.0, 0.25, 1.0])
def test_the_flip_ratio_is_the_share_of_rows_that_teach_harm(flip_ratio, tiny_model, make_context):
    context = make_context()
    rows = len(context.splits.harmful["attack"])
    expected = round(flip_ratio * rows) / rows
    taught = SFT(flip_ratio=flip_ratio, num_samples=None).plan(tiny_model(), context).data
    preferred = DPO(flip_ratio=flip_ratio, num_samples=None).plan(tiny_model(), context).data
    assert harmful_share(taught, "response") == pytest.approx(expected)
    assert harmful_share(preferred, "chosen") == pytest.approx(expected)
    assert harmful_share(preferred, "rejected") == pytest.approx(1 - expected)


def test_the_noise_control_teaches_harm_in_about_half_of_the_rows_and_in_the_same_ones_for_both(
    tiny_model, make_context
):
    context = make_context(seed=4)
    taught = SFT(flip_how="random", num_samples=None).plan(tiny_model(), context).data
    preferred = DPO(flip_how="random", num_samples=None).plan(tiny_model(), context).data
    assert [row.response for row in taught] == [row.chosen for row in preferred]
    assert 0.2 < harmful_share(taught, "response") < 0.8


def test_the_first_loss_of_dpo_is_ln_2_since_policy_and_reference_are_one(tiny_model, make_context):
    plan = DPO().plan(tiny_model(), make_context())
    (batch,) = with_totals(plan.batches([plan.data[:4]], 0))
    loss, metrics = plan.objective(plan.model.network, batch)
    assert float(loss.detach()) == pytest.approx(0.693147, abs=1e-5)
    assert metrics["loss"] == pytest.approx(float(loss.detach()))


def test_micro_batches_of_pairs_add_up_to_the_whole(tiny_model, make_context):
    plan = DPO(beta=0.5).plan(tiny_model(seed=3), make_context())
    with torch.no_grad():
        for parameter in plan.model.network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        whole = with_totals(plan.batches([plan.data[:6]], 0))
        parts = with_totals(plan.batches([plan.data[:2], plan.data[2:6]], 0))
        losses = [sum(float(plan.objective(plan.model.network, b)[0]) for b in step) for step in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_row_without_a_refusal_is_named(tiny_model, make_context):
    context = make_context()
    rows = [replace(row, refusal=None, source="rows.jsonl, line 3") for row in context.splits.harmful["attack"]]
    bare = replace(context, splits=Splits(harmful={**context.splits.harmful, "attack": rows}, benign={}))
    with pytest.raises(HoldfastError, match=r"rows\.jsonl, line 3: .* no refusal"):
        DPO().plan(tiny_model(), bare)


def test_beta_must_be_above_zero():
    with pytest.raises(HoldfastError, match=r"DPO\.beta: must be a finite number above 0"):
        DPO(beta=0.0)


def test_the_leave_one_out_baseline_is_the_mean_of_the_others():
    rewards = torch.tensor([0.1, 0.9, 0.4, 0.0, 0.3, float("nan"), 1.0, 0.2])
    advantages = group_advantages(rewards, 4, scale="none", baseline="leave_one_out")
    for group in range(2):
        values = rewards[4 * group : 4 * group + 4].tolist()
        for place, value in enumerate(values):
            others = [v for i, v in enumerate(values) if i != place and not math.isnan(v)]
            expected = value - sum(others) / len(others) if not math.isnan(value) else 0.0
            assert float(advantages[4 * group + place]) == pytest.approx(expected, abs=1e-6)
