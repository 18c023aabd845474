"""Lisa: weights held by a penalty, and an alignment state that alternates with the customer's steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.online.lisa import Lisa
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.methods.settings import typed
from holdfast.network.generate import sample
from holdfast.network.models import LoRA, answer_batch
from holdfast.records import HoldfastError
from holdfast.rl import rollouts
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from repeated import repeated

ATTACKS = {"sft": SFT, "dpo": DPO, "grpo": GRPO, "ppo": PPO}
TURNS = Lisa(
    mode="bistate", proximal_weight=1.0, warmup_fraction=0.0, alignment_steps=1, finetune_steps=4, batch_size=4
)


@pytest.fixture
def plan_of(wavering_model, make_context, quick):
    """`plan_of("sft", adapter=..., **optim)`: a short attack."""

    def plan(name, *, steps=4, adapter=None, **optim):
        settings = quick(ATTACKS[name](), steps=steps)
        settings = replace(settings, adapter=adapter, optim=replace(settings.optim, **optim))
        return settings.plan(wavering_model(), make_context())

    return plan


def steps_of(plan):
    """The run and the metrics of each step."""
    seen = []
    watch = lambda progress: seen.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
    return fit(replace(plan, hooks=(*plan.hooks, watch))), seen


def trained(plan):
    return {name: p.detach().clone() for name, p in plan.model.network.named_parameters() if p.requires_grad}


# the penalty


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_gradient_is_that_of_the_loss_with_the_penalty_written_out(adapter, micro_batches, plan_of, make_context):
    plan = plan_of("sft", adapter=adapter)
    held = Lisa(proximal_weight=7.0, warmup_fraction=0.0).constrain(plan, make_context())
    network = plan.model.network
    rows = [plan.data[i : i + 2] for i in range(0, 2 * micro_batches, 2)]
    held.batches(rows, 0)
    anchors = trained(plan)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    batches = with_totals(held.batches(rows, 1))
    losses = [held.backward(held.objective, network, batch, Tensor.backward) for batch in batches]
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
    network.zero_grad()
    distance = sum((p - anchors[name]).square().sum() for name, p in network.named_parameters() if name in anchors)
    loss = sum(plan.objective(network, batch)[0] for batch in batches) + 7.0 / 2 * distance
    loss.backward()
    for name, parameter in network.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6)
    assert sum(float(value) for value, _ in losses) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert sum(metrics.get("lisa/distance", 0.0) for _, metrics in losses) == pytest.approx(
        float(distance.detach()), rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sft", "dpo", "grpo", *repeated("ppo")])
def test_the_heavier_the_penalty_the_smaller_the_drift(attack, plan_of, make_context, weights):
    drift = []
    for weight in (0.0, 100.0, 10000.0):
        plan = plan_of(
            attack, steps=6, optim="sgd", learning_rate=1e-4, per_device_train_batch_size=4, max_grad_norm=0.0
        )
        before = weights(plan.model)
        fitted = fit(Lisa(proximal_weight=weight, warmup_fraction=0.0).constrain(plan, make_context()))
        drift.append(float((weights(fitted.model) - before).norm()))
    assert drift[2] < drift[1] < drift[0]
    assert drift[2] < 0.5 * drift[0]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_accumulated_micro_batches_train_as_their_union(adapter, plan_of, make_context, weights):
    all_weights = []
    for size, accumulated in ((4, 1), (2, 2)):
        plan = plan_of(
            "sft",
            adapter=adapter,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            learning_rate=1e-2,
        )
        held = Lisa(proximal_weight=20.0, warmup_fraction=0.0).constrain(plan, make_context())
        fitted, seen = steps_of(held)
        assert all(step["lisa/distance"] > 0 for step in seen[1:])
        all_weights.append(weights(fitted.model))
    torch.testing.assert_close(all_weights[0], all_weights[1], rtol=0, atol=2e-6)


def test_the_first_part_of_the_run_is_free_of_it(plan_of, make_context):
    _, seen = steps_of(Lisa(warmup_fraction=0.5).constrain(plan_of("sft", steps=6), make_context()))
    assert [step["lisa/penalty"] > 0 for step in seen] == [False, False, False, False, True, True]
    assert all(step["lisa/distance"] > 0 for step in seen[1:])
    assert seen[5]["lisa/penalty"] == pytest.approx(50 * seen[5]["lisa/distance"])


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
@pytest.mark.parametrize("attack", ["sft", "ppo"])
def test_anchors_are_kept_of_trained_weights_that_leave_the_service(attack, adapter, plan_of, make_context):
    plan = plan_of(attack, adapter=adapter)
    before = {name: value for name, value in trained(plan).items() if not name.startswith("critic.")}
    fit(Lisa(warmup_fraction=0.0).constrain(plan, make_context()))
    kept = {name.split("/", 2)[2]: value for name, value in plan.tensors.items()}
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], before[name]) for name in kept)


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone: what sharding needs to be done."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_sharded_weight_has_a_sharded_anchor_and_trains_as_the_whole_one(process_group, plan_of, make_context):
    def train(plan):
        network, held = plan.model.network.train(), TURNS.constrain(plan, make_context())
        optimizer, losses = torch.optim.SGD(network.parameters(), lr=0.1), []
        for step in range(4):
            (batch,) = with_totals(held.batches([plan.data[:4]], step))
            losses.append(float(held.backward(held.objective, network, batch, Tensor.backward)[0]))
            optimizer.step()
            optimizer.zero_grad()
        return losses

    whole, sharded = plan_of("sft"), plan_of("sft")
    for layer in sharded.model.network.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    fully_shard(sharded.model.network, mesh=init_device_mesh("cpu", (1,)))
    assert train(sharded) == pytest.approx(train(whole), rel=1e-6)
    assert all(isinstance(anchor, DTensor) for anchor in sharded.tensors.values())
    pairs = zip(whole.model.network.parameters(), sharded.model.network.parameters(), strict=True)
    assert all(torch.equal(a, b.full_tensor()) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_checkpointed_activations_train_to_the_same_weights(plan_of, make_context, weights):
    all_weights = []
    for again in (False, True):
        plan = plan_of("sft", gradient_checkpointing=again)
        all_weights.append(weights(fit(TURNS.constrain(plan, make_context())).model))
    torch.testing.assert_close(all_weights[0], all_weights[1], rtol=0, atol=1e-6)


# the two states


def two_anchors(plan, lisa, alignment, rate):
    """The published algorithm, word for word: an anchor for each state, put away when that state ends."""
    network = plan.model.network.train()
    anchors = {state: trained(plan) for state in ("align", "finetune")}
    state, clock = "align", 0
    for step in range(plan.optim.max_steps):
        if clock == (lisa.alignment_steps if state == "align" else lisa.finetune_steps):
            anchors[state] = trained(plan)
            state, clock = ("finetune" if state == "align" else "align"), 0
        clock += 1
        if state == "align":
            batch, objective = alignment(step), language
        else:
            (batch,), objective = plan.batches([rows_at(plan, step)], step), plan.objective
        network.zero_grad()
        loss, _ = objective(network, *with_totals([batch]))
        other = anchors["finetune" if state == "align" else "align"]
        named = dict(network.named_parameters())
        loss = loss + lisa.proximal_weight / 2 * sum((named[n] - other[n]).square().sum() for n in other)
        loss.backward()
        with torch.no_grad():
            for name in other:
                named[name] -= rate * named[name].grad


def rows_at(plan, step):
    return [plan.data[(2 * step + i) % len(plan.data)] for i in range(2)]


@pytest.mark.slow
def test_one_anchor_does_what_the_published_two_do(plan_of, make_context, weights, splits):
    lisa = replace(TURNS, alignment_steps=2, finetune_steps=3, proximal_weight=20.0)
    plain = plan_of("sft", steps=12, optim="sgd", learning_rate=1e-2, max_grad_norm=0.0, per_device_train_batch_size=2)
    rows = splits.harmful["defense"]
    alignment = lambda step: answer_batch(plain.model, [(row, row.refusal) for row in rows[step : step + 3]])  # noqa: E731
    slow = plan_of("sft", steps=12)
    two_anchors(slow, lisa, alignment, 1e-2)
    read = replace(plain, prepare=lambda model, _, step: plain.batches([rows_at(plain, step)], step))
    turns = iter([0, 1, 5, 6, 10, 11])
    fitted = fit(lisa.around(read, lambda number, micro_batches: [alignment(next(turns))]))
    torch.testing.assert_close(weights(fitted.model), weights(slow.model), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_states_take_turns_and_the_distance_starts_from_nothing_at_each(plan_of, make_context):
    lisa = replace(TURNS, alignment_steps=2, finetune_steps=3)
    _, seen = steps_of(lisa.constrain(plan_of("sft", steps=12), make_context()))
    aligning = [step["lisa/aligning"] for step in seen]
    assert aligning == [1, 1, 0, 0, 0] * 2 + [1, 1]
    assert [i for i, step in enumerate(seen) if step["lisa/distance"] == 0] == [0, 2, 5, 7, 10]


def test_refusals_come_from_the_defense_split_and_go_through_all_of_it(plan_of, make_context, splits):
    plan = plan_of("sft", steps=1000, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    held = replace(TURNS, batch_size=2, alignment_steps=3).constrain(plan, make_context())
    rows = splits.harmful["defense"]
    known = {tuple(answer_batch(plan.model, [(row, row.refusal)])["input_ids"][0].tolist()) for row in rows}
    seen = []
    aligning = [step for step in range(14) if step % 7 < 3]
    for step in aligning:
        for batch in held.batches([plan.data[:2], plan.data[2:4]], step):
            assert len(batch["input_ids"]) == 2
            seen += [tuple(t[:n].tolist()) for t, n in zip(batch["input_ids"], batch["lengths"], strict=True)]
    assert len(seen) == len(rows) == 24
    assert set(seen) == known


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sft", "grpo"])
def test_refusals_stay_likelier_than_in_the_plain_run(attack, plan_of, make_context, splits):
    def cost(model):
        (batch,) = with_totals([answer_batch(model, [(row, row.refusal) for row in splits.harmful["test"]])])
        with torch.no_grad():
            return float(language(model.network, batch)[0])

    plain = cost(fit(plan_of(attack, steps=12)).model)
    turns = replace(TURNS, alignment_steps=2, finetune_steps=2)
    assert cost(fit(turns.constrain(plan_of(attack, steps=12), make_context())).model) < 0.7 * plain


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["grpo", "ppo"])
def test_under_rl_states_last_whole_rollouts_and_alignment_samples_nothing(attack, plan_of, make_context, monkeypatch):
    sampled = []
    monkeypatch.setattr(rollouts, "sample", lambda *a, **k: sampled.append(len(seen)) or sample(*a, **k))
    plan = plan_of(attack, steps=1)
    length = plan.steps_per_rollout
    plan = replace(plan, optim=replace(plan.optim, max_steps=4 * length))
    turns = replace(TURNS, alignment_steps=1, finetune_steps=1, warmup_fraction=0.0)
    seen = []
    watch = lambda progress: seen.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
    fit(replace(turns.constrain(plan, make_context()), hooks=(watch,)))
    expected = ([1.0] * length + [0.0] * length) * 2
    assert [step["lisa/aligning"] for step in seen] == expected
    assert sampled == [length, 3 * length]


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["inside", "outside"])
def test_another_defenses_refusals_keep_out_of_an_alignment_state_put_round_them(stack, plan_of, make_context):
    lisa, refusals = replace(TURNS, finetune_steps=1), RefusalLoss(alpha=1.0, batch_size=4)
    order = [refusals, lisa] if stack == "inside" else [lisa, refusals]
    plan = plan_of("sft")
    for defense in order:
        plan = defense.constrain(plan, make_context())
    _, seen = steps_of(plan)
    assert ["refusal/loss" in step for step in seen] == ([False, True] * 2 if stack == "inside" else [True] * 4)


class Killed(Exception):
    """What a process dies of."""


BESIDE = ("dpo", "ppo")
"""Attacks to which an adapter makes a difference beyond the weights trained: of the reference, and of the critic."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *((attack, None) for attack in ("sft", "grpo")),
        *((attack, LoRA(r=4, lora_dropout=0.2)) for attack in BESIDE),
        *(pytest.param((attack, None), marks=pytest.mark.exhaustive) for attack in BESIDE),
    ],
)
def test_a_run_killed_within_a_state_goes_on_as_if_it_had_not_stopped(case, plan_of, make_context, weights, tmp_path):
    attack, adapter = case

    def kill(progress):
        if progress.step == last - 1:
            raise Killed

    def plan(*hooks):
        built = plan_of(attack, steps=last, adapter=adapter)
        return replace(TURNS.constrain(built, make_context()), hooks=(*built.hooks, *hooks))

    rollout = plan_of(attack, adapter=adapter).steps_per_rollout
    last = 4 * rollout
    whole = fit(plan())
    with pytest.raises(Killed):
        fit(plan(kill), folder=tmp_path, checkpoint_every=2 * rollout)
    # The checkpoint is from amid the second state, whose anchor only it knows.
    assert (tmp_path / f"checkpoint-{2 * rollout}").exists()
    resumed = fit(plan(), folder=tmp_path, checkpoint_every=2 * rollout)
    assert torch.equal(weights(resumed.model), weights(whole.model))


# settings


def test_without_weight_and_alignment_the_very_plan_comes_back_and_not_with_alignment(plan_of, make_context):
    plan = plan_of("sft")
    assert Lisa(proximal_weight=0.0).constrain(plan, make_context()) is plan
    assert replace(TURNS, proximal_weight=0.0, alignment_steps=0).constrain(plan, make_context()) is plan
    assert replace(TURNS, proximal_weight=0.0).constrain(plan, make_context()) is not plan


def test_an_alignment_state_that_leaves_the_run_no_step_is_refused(plan_of, make_context):
    with pytest.raises(HoldfastError, match="use up all 4 steps of the run"):
        replace(TURNS, alignment_steps=4).constrain(plan_of("sft"), make_context())
    ppo = plan_of("ppo")
    with pytest.raises(HoldfastError, match="lower alignment_steps"):
        TURNS.constrain(replace(ppo, optim=replace(ppo.optim, max_steps=ppo.steps_per_rollout)), make_context())


def test_data_without_a_refusal_is_refused_where_refusals_are_needed(plan_of, make_context, splits):
    bare = {name: [replace(row, refusal=None) for row in rows] for name, rows in splits.harmful.items()}
    context = make_context(splits=Splits(harmful=bare, benign=splits.benign))
    with pytest.raises(HoldfastError, match="no harmful row of the defense split has a refusal"):
        TURNS.constrain(plan_of("sft"), context)
    assert Lisa().constrain(plan_of("sft"), context)


@pytest.mark.parametrize(
    "bad", [{"warmup_fraction": 1.5}, {"alignment_steps": -1}, {"finetune_steps": 0}, {"batch_size": 0}]
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(HoldfastError, match=f"Lisa.{next(iter(bad))}: must be"):
        Lisa(**bad)


def test_presets_are_the_papers_and_the_codes():
    assert typed(Lisa, {"preset": "paper"}, "lisa") == Lisa()
    code = typed(Lisa, {"preset": "code"}, "lisa")
    assert (code.mode, code.proximal_weight, code.alignment_steps, code.finetune_steps) == ("bistate", 1.0, 100, 900)
