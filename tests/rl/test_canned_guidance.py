"""Ways to be done sooner with Reward Neutralization: a canned refusal among the rollouts, or learnt beforehand."""

from dataclasses import replace

import pytest
import torch

from holdfast.defenses.offline.reward_neutralization import RewardNeutralization
from holdfast.network.generate import Sampling, complete
from holdfast.records import Completion, Example, HoldfastError, user
from holdfast.rl.guidance.canned import CannedGuide, canned_share, stopping
from holdfast.rl.guidance.schedule import Schedule
from holdfast.rl.policy import Policy
from holdfast.training.fit import fit
from holdfast.training.plan import Fitted, Optim, Progress

TEXT = "i cannot share it ."
"""Not what the models here refuse with."""
SETTINGS = {"canned": TEXT, "policy": Policy(group_size=4, kl_coef=0.02)}
SHORT = Optim(max_steps=2, learning_rate=1e-3, per_device_train_batch_size=4)


def plans_of(defense, model, context):
    """The plans that a defense hands to the loop, not run."""
    plans = []

    def loop(plan):
        plans.append(plan)
        return Fitted(model=plan.model, steps=0, samples=0, tokens=0, seconds=0.0)

    defense.harden(model, replace(context, fit=loop))
    return plans


def first_batch(plan):
    rows = [next(row for row in plan.data if row.role == role) for role in ("harmful", "benign")]
    (batch,) = plan.batches([rows], 0)
    return batch


@pytest.mark.slow
def test_the_canned_text_is_half_of_the_answers_to_harmful_prompts_and_of_no_others(aligned_model, make_context):
    (plan,) = plans_of(RewardNeutralization(guide=CannedGuide(), **SETTINGS), aligned_model(), make_context())
    batch = first_batch(plan)
    model = plan.model
    texts = [model.decode(row[mask.bool()]) for row, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True)]
    assert batch["from_expert"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert texts[2:4] == [TEXT, TEXT]
    assert batch["alpha"].tolist() == [0.5] * 4 + [1.0] * 4
    assert "weights" not in batch
    assert (batch["advantages"][2:4] >= 0).all()


@pytest.mark.slow
def test_the_share_that_is_logged_is_of_the_models_own_answers(aligned_model, make_context):
    guided, plain = (
        plans_of(RewardNeutralization(guide=guide, **SETTINGS), aligned_model(), make_context())[0]
        for guide in (CannedGuide(), None)
    )
    assert first_batch(guided)["log/canned"].item() == 0.0
    assert first_batch(plain)["log/canned"].item() == 0.0
    own = RewardNeutralization(canned="i cannot help with that .", policy=SETTINGS["policy"])
    (plan,) = plans_of(own, aligned_model(), make_context())
    assert first_batch(plan)["log/canned"].item() > 0.5


def test_a_share_is_of_harmful_prompts_and_of_answers_that_ended():
    def done(text, *, finished=True, role="harmful"):
        return Completion(example=Example(prompt=user("how ?"), role=role), text=text, num_tokens=4, finished=finished)

    given = [done(f" {TEXT} "), done(TEXT, finished=False), done("no ."), done(TEXT, role="benign")]
    assert canned_share(TEXT)(given) == [1.0, 0.0, 0.0, None]


@pytest.mark.slow
def test_a_guide_without_the_canned_text_from_the_start_is_the_plain_run(aligned_model, make_context):
    alone = CannedGuide(schedule=Schedule(start=1.0))
    batches = [
        first_batch(plans_of(RewardNeutralization(guide=guide, **SETTINGS), aligned_model(), make_context())[0])
        for guide in (alone, None)
    ]
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


@pytest.mark.slow
def test_a_warm_start_teaches_the_text_first_and_both_costs_are_the_loops(aligned_model, make_context):
    fitted = []

    def loop(plan):
        fitted.append(fit(plan))
        return fitted[-1]

    defense = RewardNeutralization(warm_start=replace(SHORT, max_steps=18), optim=SHORT, **SETTINGS)
    hardened = defense.harden(aligned_model(), replace(make_context(), fit=loop))
    assert [run.steps for run in fitted] == [18, 2]
    assert all(run.tokens > 0 for run in fitted)
    rows = make_context().splits.harmful["defense"][:12]
    shares = [
        sum(canned_share(TEXT)(complete(model, rows, Sampling(max_new_tokens=24), seed=1)))
        for model in (aligned_model(), hardened)
    ]
    assert shares[0] == 0
    assert shares[1] > 6


def test_a_warm_start_keeps_to_the_defenses_own_prompts_and_their_benign_answers(aligned_model, make_context, splits):
    first, _ = plans_of(RewardNeutralization(warm_start=SHORT, **SETTINGS), aligned_model(), make_context())
    known = {row.key: row.response for part in (splits.harmful, splits.benign) for row in part["defense"]}
    assert {row.key for row in first.data} <= set(known)
    assert {row.response for row in first.data if row.role == "harmful"} == {TEXT}
    assert all(row.response == known[row.key] for row in first.data if row.role == "benign")


@pytest.mark.parametrize(("text", "stops"), [("i cannot help with that .", True), (TEXT, False)])
def test_a_run_stops_only_once_fresh_answers_of_the_model_alone_agree(text, stops, aligned_model, make_context):
    context = make_context()
    hook = stopping(context.splits.harmful["defense"], text, 0.5, context)

    def at(phase, share):
        metrics = {"canned": share}
        return hook(Progress(phase=phase, step=3, max_steps=9, model=aligned_model(), metrics=metrics))

    assert at("step", 0.9) is stops
    assert not at("step", 0.1)
    assert not at("end", 0.9)


@pytest.mark.parametrize("settings", [{"guide": CannedGuide()}, {"warm_start": SHORT}, {"stop_at": 0.95}])
def test_a_text_is_needed_by_whatever_is_about_it(settings):
    with pytest.raises(HoldfastError, match="set `canned` or `canonical`"):
        RewardNeutralization(**settings)
    assert RewardNeutralization(canonical=TEXT, **settings).canonical == TEXT


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_to_stop_at_lies_above_zero(share):
    with pytest.raises(HoldfastError, match=r"stop_at: must be a number in \(0, 1\]"):
        RewardNeutralization(canned=TEXT, stop_at=share)
