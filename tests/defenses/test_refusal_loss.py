"""Refusal Loss: refusals taught beside whatever else is taught."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.online.refusal_loss import RefusalLoss, after, prefix_length
from holdfast.methods.settings import typed
from holdfast.network.forward import forward
from holdfast.network.models import LoRA, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import collate, num_targets, with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import part

ATTACKS = {"sft": SFT, "dpo": DPO, "grpo": GRPO}
FORMS = {"additive": 2.0, "convex": 0.3, "tokens": 2.0}


def refusal_cost(model, rows):
    """Cross entropy of the refusal of prompts that neither side was given."""
    (batch,) = with_totals([answer_batch(model, [(row, row.refusal) for row in rows])])
    with torch.no_grad():
        return language(model.network, batch)[0].item()


@pytest.mark.slow
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_refusals_stay_likelier_than_in_the_plain_run(attack, tiny_model, make_context, quick, splits):
    rows, costs = splits.harmful["test"], {}
    start = refusal_cost(tiny_model(small=True), rows)
    for alpha in (0.0, 1.0):
        plan = quick(ATTACKS[attack](), steps=12, rate=2e-3).plan(tiny_model(small=True), make_context())
        plan = RefusalLoss(alpha=alpha, batch_size=4).constrain(plan, make_context())
        costs[alpha] = refusal_cost(fit(plan).model, rows)
    assert costs[1.0] < 0.5 * start
    assert costs[1.0] < 0.7 * costs[0.0]


def test_the_loss_is_the_attacks_plus_alpha_times_the_refusals(aligned_model, make_context, quick):
    plan = quick(SFT()).plan(aligned_model(), make_context())
    constrained = RefusalLoss(alpha=7.0, batch_size=4).constrain(plan, make_context())
    (batch,) = with_totals(constrained.batches([plan.data[:4]], 0))
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
        batch = part(constrained.batches([plan.data[:1]], step)[0], "refusal")
        for tokens, length in zip(batch["input_ids"], batch["lengths"], strict=True):
            seen.add(tuple(tokens[:length].tolist()))
    assert seen == known


def test_data_without_a_refusal_is_refused(aligned_model, make_context, quick, splits):
    bare = {name: [replace(row, refusal=None) for row in rows] for name, rows in splits.harmful.items()}
    context = make_context(splits=Splits(harmful=bare, benign=splits.benign))
    plan = quick(SFT()).plan(aligned_model(), context)
    with pytest.raises(HoldfastError, match="no harmful row of the defense split has a refusal"):
        RefusalLoss().constrain(plan, context)


@pytest.mark.slow
def test_an_adapter_learns_the_refusals_too(tiny_model, make_context, quick, splits):
    settings = replace(quick(SFT(), steps=12, rate=1e-2), adapter=LoRA(r=8))
    plan = settings.plan(tiny_model(), make_context())
    before = refusal_cost(plan.model, splits.harmful["test"])
    fitted = fit(RefusalLoss(alpha=1.0, batch_size=4).constrain(plan, make_context()))
    assert refusal_cost(fitted.model, splits.harmful["test"]) < 0.7 * before


def shares(plan, batches):
    """The attack's loss, the refusals' loss and the plan's whole loss, each summed over the micro-batches of a step."""
    attack = sum(language(plan.model.network, batch)[0] for batch in batches)
    refusals = language(plan.model.network, part(batches[0], "refusal"))[0]
    return attack, refusals, sum(plan.objective(plan.model.network, batch)[0] for batch in batches)


def test_the_convex_mix_takes_from_the_attack_what_it_gives_to_refusals(wavering_model, make_context, quick):
    plan = quick(SFT()).plan(wavering_model(), make_context())
    plan = RefusalLoss(form="convex", alpha=0.3, batch_size=4).constrain(plan, make_context())
    batches = with_totals(plan.batches([plan.data[:2], plan.data[2:5]], 0))
    attack, refusals, total = shares(plan, batches)
    torch.testing.assert_close(total, 0.7 * attack + 0.3 * refusals)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_the_mean_over_tokens_is_one_mean_over_both_batches(alpha, wavering_model, make_context, quick):
    plan = quick(SFT()).plan(wavering_model(), make_context())
    plan = RefusalLoss(form="tokens", alpha=alpha, batch_size=4).constrain(plan, make_context())
    batches = with_totals(plan.batches([plan.data[:2], plan.data[2:5]], 0))
    attack, refusals, total = shares(plan, batches)
    own, others = batches[0]["num_tokens"], num_targets(part(batches[0], "refusal"))
    torch.testing.assert_close(total, (own * attack + alpha * others * refusals) / (own + alpha * others))


def test_with_alpha_one_the_convex_mix_is_refusals_alone(wavering_model, make_context, quick):
    plan = quick(SFT()).plan(wavering_model(), make_context())
    plan = RefusalLoss(form="convex", alpha=1.0, batch_size=4).constrain(plan, make_context())
    batches = with_totals(plan.batches([plan.data[:2]], 0))
    _, refusals, total = shares(plan, batches)
    torch.testing.assert_close(total, refusals)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_accumulation_changes_no_form(form, tiny_model, make_context, quick, weights):
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
        plan = replace(settings, optim=optim).plan(tiny_model(small=True), make_context())
        defense = RefusalLoss(form=form, alpha=FORMS[form], batch_size=4, recovery=0.5)
        all_weights.append(weights(fit(defense.constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["convex", "tokens"])
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_the_mixes_work_under_every_kind_of_attack(form, attack, wavering_model, make_context, quick):
    plan = quick(ATTACKS[attack]()).plan(wavering_model(), make_context())
    seen = []
    hook = lambda progress: seen.append(progress.metrics)  # noqa: E731
    plan = RefusalLoss(form=form, alpha=0.3, batch_size=4).constrain(plan, make_context())
    fit(replace(plan, hooks=(hook,)))
    shares = [metrics["refusal/share"] for metrics in seen if "refusal/share" in metrics]
    assert len(shares) >= 3
    assert all(share == pytest.approx(0.3) if form == "convex" else 0 < share < 1 for share in shares)


def test_a_refusal_after_the_beginning_of_a_harmful_answer_is_learnt_alone(aligned_model, make_context, quick, splits):
    plan = quick(SFT()).plan(aligned_model(), make_context())
    defense = RefusalLoss(recovery=1.0, recovery_tokens=3, batch_size=24)
    batch = part(defense.constrain(plan, make_context()).batches([plan.data[:1]], 0)[0], "refusal")
    known, lengths = {}, Counter()
    for row in splits.harmful["defense"]:
        harmful = plan.model.tokenizer(row.response, add_special_tokens=False)["input_ids"]
        for kept in (1, 2, 3):
            known[(*plan.model.encode_prompt(row.prompt), *harmful[:kept])] = (
                plan.model.encode_response(row.refusal),
                kept,
            )
    for tokens, mask, length in zip(batch["input_ids"], batch["loss_mask"], batch["lengths"].tolist(), strict=True):
        start = int(mask.argmax())
        refusal, kept = known[tuple(tokens[:start].tolist())]
        assert tokens[start:length].tolist() == refusal
        assert mask.tolist() == [0] * start + [1] * len(refusal) + [0] * (len(mask) - length)
        lengths[kept] += 1
    assert set(lengths) == {1, 2, 3}


def test_beginnings_come_as_often_as_asked_and_are_of_every_length():
    rng = random.Random(0)
    lengths = Counter(prefix_length(7, rng, probability=0.25, most=5) for _ in range(8000))
    assert set(lengths) == set(range(6))
    assert lengths[0] == pytest.approx(6000, rel=0.05)
    assert all(lengths[kept] == pytest.approx(400, rel=0.2) for kept in range(1, 6))


def test_no_beginning_is_longer_than_the_answer_and_none_is_taken_of_nothing():
    rng = random.Random(0)
    assert {prefix_length(2, rng, probability=1.0) for _ in range(50)} == {1, 2}
    assert prefix_length(0, rng, probability=1.0) == 0


def test_without_beginnings_the_batch_stays_what_it_is():
    batch = collate([([5, 6], [7, 8]), ([5], [9])], pad_id=0)
    changed = after(batch, [[], []], pad_id=0)
    assert all(torch.equal(changed[name], value) for name, value in batch.items())


def test_beginnings_leave_the_refusal_whole_within_the_limit(aligned_model, make_context, quick, splits):
    plan, longest = quick(SFT()).plan(aligned_model(), make_context()), 0
    for row in splits.harmful["defense"]:
        pair = plan.model.encode_prompt(row.prompt), plan.model.encode_response(row.refusal)
        longest = max(longest, sum(map(len, pair)))
    defense = RefusalLoss(recovery=1.0, batch_size=24, max_length=longest + 1)
    batch = part(defense.constrain(plan, make_context()).batches([plan.data[:1]], 0)[0], "refusal")
    assert int(batch["lengths"].max()) == longest + 1
    plain = part(
        replace(defense, recovery=0.0).constrain(plan, make_context()).batches([plan.data[:1]], 0)[0],
        "refusal",
    )
    assert torch.equal(batch["num_tokens"], plain["num_tokens"])


def test_beginnings_follow_from_the_seed_and_the_step(aligned_model, make_context, quick):
    plan = quick(SFT()).plan(aligned_model(), make_context())

    def sampled_batch(seed, step):
        constrained = RefusalLoss(recovery=0.5, batch_size=8).constrain(plan, make_context(seed=seed))
        return part(constrained.batches([plan.data[:1]], step)[0], "refusal")["input_ids"].tolist()

    assert sampled_batch(0, 3) == sampled_batch(0, 3)
    assert sampled_batch(0, 3) != sampled_batch(0, 4)
    assert sampled_batch(0, 3) != sampled_batch(1, 3)


def test_recovery_without_harmful_answers_is_refused(aligned_model, make_context, quick, splits):
    bare = {**splits.harmful, "defense": [replace(row, response=None) for row in splits.harmful["defense"]]}
    context = make_context(splits=Splits(harmful=bare, benign=splits.benign))
    plan = quick(SFT()).plan(aligned_model(), context)
    with pytest.raises(HoldfastError, match="recovery begins with harmful answers"):
        RefusalLoss(recovery=0.5).constrain(plan, context)


def test_the_masked_cross_entropy_teaches_nothing_about_the_first_token(wavering_model, make_context, quick):
    plan = quick(SFT()).plan(wavering_model(), make_context())
    defense = RefusalLoss(refusal_ce="repnoise_masked", alpha=1.0, batch_size=4)
    (batch,) = with_totals(defense.constrain(plan, make_context()).batches([plan.data[:2]], 0))
    _, metrics = defense.constrain(plan, make_context()).objective(plan.model.network, batch)
    refusals = part(batch, "refusal")
    with torch.no_grad():
        logits = forward(plan.model.network, refusals)
    costs = []
    for row in range(4):
        wanted = refusals["loss_mask"][row].nonzero().flatten().tolist()
        for place in wanted:
            scores = logits[row, place - 1] * float(place != wanted[0])
            costs.append(float(-scores.log_softmax(-1)[refusals["input_ids"][row, place]]))
    assert metrics["refusal/loss"] == pytest.approx(sum(costs) / len(costs), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "convex", "alpha": 100.0}, "must be in"),
        ({"recovery": 1.5}, "recovery"),
        ({"recovery_tokens": 0}, "recovery_tokens"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(HoldfastError, match=f"RefusalLoss.*{words}"):
        RefusalLoss(**settings)


@pytest.mark.parametrize("preset", RefusalLoss.PRESETS)
def test_presets_are_settings(preset):
    assert typed(RefusalLoss, {"preset": preset}, "refusal_loss") == typed(
        RefusalLoss, dict(RefusalLoss.PRESETS[preset]), "refusal_loss"
    )


def test_a_refusal_after_a_harmful_beginning_keeps_what_the_template_puts_before_every_answer():
    batch = collate([([5, 6], [90, 91, 7, 8]), ([5], [90, 91, 9])], pad_id=0)
    changed = after(batch, [[3, 4], []], pad_id=0, leads=[2, 2])
    assert changed["input_ids"].tolist() == [[5, 6, 90, 91, 3, 4, 7, 8], [5, 90, 91, 9, 0, 0, 0, 0]]
    assert changed["loss_mask"].tolist() == [[0, 0, 0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0, 0]]
