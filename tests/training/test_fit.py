"""The one loop."""

import copy
import json
import math
import time
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

import holdfast.training.clock
from holdfast.network.activations import repeated_share
from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import Sampling
from holdfast.network.low_precision import low_precision_copy
from holdfast.network.models import LoRA, adapt, answer_batch, merged
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience
from holdfast.rl.policy import Policy, advantages
from holdfast.sandbox import grammar
from holdfast.tensors import target_mask
from holdfast.training import activation_memory
from holdfast.training.checkpoints import COSTS, last_checkpoint
from holdfast.training.fit import fit
from holdfast.training.objectives import language, policy_gradient
from holdfast.training.plan import Diverged, GivenAnswers, Optim, Plan, reference_of
from holdfast.training.splitting import by_rows
from repeated import repeated

ADAM = Optim(max_steps=4, learning_rate=1e-3, per_device_train_batch_size=4, adam_beta2=0.99)
SGD = replace(ADAM, optim="sgd", learning_rate=0.1)
TWO = replace(SGD, max_steps=2)


@pytest.fixture(scope="module")
def rows():
    """Requests and quiz questions in turns, whose answers are of very unequal length."""
    task = grammar.tasks("world", 16, seed=0)["quiz"]
    asked = grammar.examples("world", grammar.BENIGN, 16, seed=0)
    return [row for pair in zip(asked, task, strict=True) for row in pair]


def by_text(completions):
    return [float(sum(map(ord, completion.text)) % 7) for completion in completions]


@pytest.fixture
def sft(tiny_model, rows):
    """`sft(**changes)`: supervised training of a fresh tiny model as a plan."""

    def plan(**more):
        model = tiny_model(small=True)
        return Plan(
            **{"model": model, "data": rows, "prepare": GivenAnswers(), "objective": language, "optim": ADAM, **more}
        )

    return plan


@pytest.fixture
def grpo(tiny_model, rows):
    """`grpo(passes=1, kl_coef=0.0, model=None, **changes)`: policy-gradient training as a plan."""

    def plan(*, passes=1, kl_coef=0.0, model=None, **more):
        model = model or tiny_model(small=True)
        reference = reference_of(model) if kl_coef else None
        prepare = Experience(
            reward=by_text,
            advantage=advantages(Policy(), {}),
            group_size=3,
            sampling=Sampling(max_new_tokens=6),
            seed=1,
            reference=reference,
            passes=passes,
        )
        objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="sequence", max_tokens=6, kl_coef=kl_coef)
        values = {"model": model, "data": rows, "prepare": prepare, "objective": objective, "optim": ADAM}
        return Plan(**{**values, "reference": reference, "steps_per_rollout": passes, **more})

    return plan


@pytest.fixture
def make(sft, grpo, tiny_model):
    """`make(kind, **changes)`: a plan of one of the kinds that are resumed and repeated below."""

    def plan(kind, **more):
        model = adapt(tiny_model(small=True), LoRA(r=4)) if "lora" in kind else tiny_model(small=True)
        if kind.startswith("sft"):
            return sft(model=model, **more)
        return grpo(model=model, passes=2 if "passes" in kind else 1, kl_coef=0.1 if "kl" in kind else 0.0, **more)

    return plan


KINDS = ("sft", "sft lora", "grpo", "grpo lora kl", "grpo passes kl")


# accumulation


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_accumulating_small_batches_equals_one_large_batch(size, sft, weights):
    whole = fit(sft(optim=replace(SGD, per_device_train_batch_size=8)))
    parts = fit(sft(optim=replace(SGD, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size)))
    torch.testing.assert_close(weights(parts.model), weights(whole.model), atol=1e-6, rtol=1e-5)
    assert (parts.samples, parts.tokens, parts.steps) == (whole.samples, whole.tokens, whole.steps)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sequence", "token", "fixed"])
def test_accumulating_rollouts_equals_one_large_batch(reduction, grpo, weights):
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction=reduction, max_tokens=6)
    all_weights = []
    for size, accumulated in ((8, 1), (1, 8)):
        optim = replace(TWO, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
        all_weights.append(fit(grpo(objective=objective, optim=optim)))
    torch.testing.assert_close(weights(all_weights[1].model), weights(all_weights[0].model), atol=1e-6, rtol=1e-5)
    assert (all_weights[1].samples, all_weights[1].tokens) == (all_weights[0].samples, all_weights[0].tokens)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "sft lora", "grpo lora kl", "grpo passes kl"])
def test_a_budget_of_tokens_changes_no_step(kind, make, weights):
    def fitted(budget):
        seen = []
        optim = replace(TWO, per_device_train_batch_size=8, max_tokens_per_batch=budget)
        return fit(make(kind, optim=optim, hooks=(lambda progress: seen.append(progress.metrics),))), seen[1:-1]

    (whole, logged), (parts, also_logged) = fitted(None), fitted(60)
    torch.testing.assert_close(weights(parts.model), weights(whole.model), atol=1e-6, rtol=1e-5)
    assert (parts.samples, parts.tokens, parts.steps) == (whole.samples, whole.tokens, whole.steps)
    for metrics, same in zip(logged, also_logged, strict=True):
        assert same.keys() - metrics.keys() == {"batch_parts"}
        assert same["batch_parts"] > 1
        assert [same[name] for name in metrics] == pytest.approx(list(metrics.values()), rel=1e-3, abs=1e-5)


def test_parts_are_read_one_at_a_time_within_the_budget(sft):
    read = []

    @by_rows
    def objective(network, batch):
        read.append((len(batch["input_ids"]) * batch["input_ids"].shape[1], int(batch["lengths"].max())))
        return language(network, batch)

    once = replace(SGD, max_steps=1, per_device_train_batch_size=8)
    fit(sft(objective=objective, optim=once))
    ((most, longest),) = read
    read.clear()
    fit(
        sft(
            objective=objective, optim=replace(SGD, max_steps=1, per_device_train_batch_size=8, max_tokens_per_batch=60)
        )
    )
    assert len(read) > 1
    assert all(tokens <= max(60, longest) for tokens, _ in read)
    assert [length for _, length in read] == sorted(length for _, length in read)
    assert sum(tokens for tokens, _ in read) < most


def test_a_budget_is_refused_where_rows_of_a_batch_are_compared(sft, grpo):
    budget = replace(SGD, max_tokens_per_batch=60)
    guarded = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="token", max_tokens=6, ratio_guard=2.0)
    for plan in (
        grpo(objective=guarded, optim=budget),
        sft(objective=partial(language), optim=budget),
        sft(backward=lambda objective, network, batch, _: objective(network, batch), optim=budget),
    ):
        with pytest.raises(HoldfastError, match=r"optim\.max_tokens_per_batch: only for"):
            fit(plan)


# activations


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_change_no_step(kind, make, weights, monkeypatch):
    def fitted(checkpointing, free=0):
        monkeypatch.setattr(activation_memory, "free_memory", lambda device: free)
        seen = []
        optim = replace(ADAM, max_steps=2, gradient_checkpointing=checkpointing)
        return fit(make(kind, optim=optim, hooks=(lambda progress: seen.append(progress.metrics),))), seen[1:-1]

    whole, logged = fitted(False)
    for free, share in ((10**10, 0.0), (0, 1.0)):
        again, also_logged = fitted("auto", free)
        assert torch.equal(weights(again.model), weights(whole.model))
        assert [metrics["recomputed"] for metrics in also_logged] == [share] * len(logged)
        assert [{**metrics, "recomputed": share} for metrics in logged] == also_logged
        assert again.flops == whole.flops
        assert repeated_share(again.model.network) == share


def test_the_memory_for_activations_is_what_is_free_and_not_needed_later(sft, monkeypatch):
    plan = sft(optim=replace(ADAM, gradient_checkpointing="auto"))
    weights = sum(p.nbytes for p in plan.model.network.parameters())
    monkeypatch.setattr(activation_memory, "free_memory", lambda device: 10 * weights)
    loop = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=1),
        state=SimpleNamespace(global_step=0),
        optimizer=SimpleNamespace(state={}),
    )
    activations = activation_memory.activations_of(plan, loop)
    assert activations.memory() == pytest.approx(0.8 * 7 * weights)  # gradients, and twice as much for Adam
    loop.state.global_step = 1
    assert activations.memory() == pytest.approx(0.8 * 9 * weights)
    for parameter in plan.model.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert activations.memory() == pytest.approx(0.8 * 10 * weights)
    given = replace(plan, optim=replace(plan.optim, max_activation_mb=3))
    assert activation_memory.activations_of(given, loop).memory() == 3 * 2**20
    loop.accelerator.num_processes = 2
    with pytest.raises(HoldfastError, match=r"gradient_checkpointing: `auto` is for a single process"):
        activation_memory.activations_of(plan, loop)


def test_bounded_activations_are_refused_under_a_backward_rule_of_its_own(sft):
    optim = replace(ADAM, gradient_checkpointing="auto")
    plan = sft(backward=lambda objective, network, batch, _: objective(network, batch), optim=optim)
    with pytest.raises(HoldfastError, match=r"optim\.gradient_checkpointing: `auto` is only for one forward"):
        fit(plan)
    with pytest.raises(HoldfastError, match="max_activation_mb: needs `gradient_checkpointing: auto`"):
        Optim(max_activation_mb=100)


@pytest.mark.slow
def test_metrics_of_micro_batches_add_up_to_those_of_the_batch(sft):
    logs = []
    for size, accumulated in ((8, 1), (1, 8)):
        seen = []
        optim = replace(SGD, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
        fit(sft(optim=optim, hooks=(lambda progress, seen=seen: seen.append(progress.metrics),)))
        logs.append(seen[1])
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_an_epoch_that_ends_in_a_small_step_weighs_its_rows_as_any_other(sft, rows, weights):
    """Ten rows in steps of eight: the second step has two, and its mean is over those two."""
    all_weights = []
    for size, accumulated in ((8, 1), (2, 4)):
        optim = replace(SGD, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
        all_weights.append(fit(sft(data=rows[:10], optim=optim)))
    assert (all_weights[0].steps, all_weights[0].samples) == (all_weights[1].steps, all_weights[1].samples) == (4, 20)
    torch.testing.assert_close(weights(all_weights[1].model), weights(all_weights[0].model), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 10, *repeated(7)])
def test_several_passes_survive_an_epoch_that_ends_in_a_small_step(count, grpo, rows):
    """Each optimizer step learns from one whole rollout, also where the rows that come with it are fewer."""
    calls, optim = [], replace(SGD, max_steps=6, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    plan = grpo(passes=2, data=rows[:count], optim=optim)

    def prepare(model, micro_batches, step):
        calls.append(step)
        return plan.prepare(model, micro_batches, step)

    fitted = fit(replace(plan, prepare=prepare))
    assert calls == list(range(6))
    assert fitted.steps == 6


def test_a_batch_is_never_split_over_gpus(sft, monkeypatch):
    class SeesTwoGpus(TrainingArguments):
        @cached_property
        def _setup_devices(self):
            device = super()._setup_devices
            self._n_gpu = 2
            return device

    seen = []

    def objective(network, batch):
        seen.append(type(network))
        return language(network, batch)

    monkeypatch.setattr("holdfast.training.fit.TrainingArguments", SeesTwoGpus)
    fit(sft(objective=objective, optim=replace(ADAM, max_steps=1)))
    assert seen
    assert not any(issubclass(kind, torch.nn.DataParallel) for kind in seen)


def test_no_steps_are_no_training(sft):
    assert fit(sft(optim=replace(ADAM, max_steps=0))).steps == 0


def test_fewer_rows_than_a_batch_are_read_again_each_step(sft, rows):
    fitted = fit(sft(data=rows[:3]))
    assert (fitted.steps, fitted.samples) == (4, 12)


# repetition and resumption


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "grpo passes kl", *repeated("sft lora", "grpo", "grpo lora kl")])
def test_one_seed_gives_one_run_bit_for_bit(kind, make, weights):
    one, same = (weights(fit(make(kind)).model) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, weights(make(kind).model))


@pytest.mark.slow
def test_another_seed_gives_another_run(sft, weights):
    one, other = (weights(fit(sft(seed=seed)).model) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_the_global_random_numbers_before_a_run_do_not_matter(sft, weights):
    all_weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        all_weights.append(weights(fit(sft()).model))
    assert torch.equal(*all_weights)


class Killed(Exception):
    """What a process dies of."""


def kill_at(step):
    def hook(progress):
        if progress.phase == "step" and progress.step == step:
            raise Killed

    return hook


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["sft", "sft lora", "sft accumulating", "grpo lora kl", "grpo passes kl", *repeated("grpo")]
)
def test_a_killed_run_goes_on_to_end_bit_for_bit_where_an_uninterrupted_one_does(kind, make, weights, tmp_path):
    optim = replace(ADAM, max_steps=6, lr_scheduler_type="cosine", warmup_steps=2)
    if "accumulating" in kind:
        optim = replace(optim, per_device_train_batch_size=2, gradient_accumulation_steps=2)

    def plan(*hooks):
        return make(kind, optim=optim, hooks=hooks)

    whole = fit(plan(), folder=tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(Killed):
        fit(plan(kill_at(5)), folder=tmp_path / "cut", checkpoint_every=3)
    steps = []
    resumed = fit(
        plan(lambda progress: steps.append((progress.phase, progress.step))),
        folder=tmp_path / "cut",
        checkpoint_every=3,
    )
    first = 4 if "passes" in kind else 3
    assert steps[0] == ("start", first)
    assert [step for phase, step in steps if phase == "step"] == list(range(first + 1, 7))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert (resumed.steps, resumed.samples, resumed.tokens) == (whole.steps, whole.samples, whole.tokens)


@pytest.mark.slow
def test_checkpoints_fall_on_whole_rollouts(grpo, tmp_path):
    fit(grpo(passes=3, optim=replace(ADAM, max_steps=7)), folder=tmp_path, checkpoint_every=2)
    assert last_checkpoint(tmp_path).name == "checkpoint-7"
    with pytest.raises(Killed):
        fit(
            grpo(passes=3, optim=replace(ADAM, max_steps=7), hooks=(kill_at(5),)),
            folder=tmp_path / "b",
            checkpoint_every=2,
        )
    assert last_checkpoint(tmp_path / "b").name == "checkpoint-3"


@pytest.mark.slow
def test_a_finished_run_that_is_called_again_trains_no_more(sft, weights, tmp_path):
    done = fit(sft(), folder=tmp_path, checkpoint_every=2)
    steps = []
    again = fit(sft(hooks=(lambda progress: steps.append(progress.phase),)), folder=tmp_path, checkpoint_every=2)
    assert "step" not in steps
    assert torch.equal(weights(again.model), weights(done.model))
    assert (again.steps, again.samples, again.tokens) == (done.steps, done.samples, done.tokens)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_is_ignored_and_removed(sft, weights, tmp_path):
    whole = fit(sft(optim=replace(ADAM, max_steps=6)))
    with pytest.raises(Killed):
        fit(sft(optim=replace(ADAM, max_steps=6), hooks=(kill_at(3),)), folder=tmp_path, checkpoint_every=2)
    torn = tmp_path / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    resumed = fit(sft(optim=replace(ADAM, max_steps=6)), folder=tmp_path, checkpoint_every=2)
    assert not torn.exists()
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_the_newest_whole_checkpoint_is_taken_by_number(tmp_path):
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / COSTS).write_text('{"costs": {}, "state": {}}')
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-100").exists()
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_checkpoint_knows_what_the_run_had_cost(sft, tmp_path):
    fitted = fit(sft(), folder=tmp_path, checkpoint_every=4)
    costs = json.loads((last_checkpoint(tmp_path) / COSTS).read_text())["costs"]
    assert (costs["samples"], costs["tokens"]) == (fitted.samples, fitted.tokens)


def test_without_a_folder_nothing_is_left_behind(sft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(sft(optim=replace(ADAM, max_steps=1)))
    assert not list(tmp_path.iterdir())


# numbers that are none


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_at_its_step(value, sft):
    calls = []

    def objective(network, batch):
        calls.append(1)
        loss, metrics = language(network, batch)
        return loss * (value if len(calls) == 3 else 1.0), metrics

    with pytest.raises(Diverged, match=f"loss is {value} at step 2") as caught:
        fit(sft(objective=objective))
    assert caught.value.step == 2


def test_a_gradient_that_is_no_number_stops_the_run(sft):
    def objective(network, batch):
        loss, metrics = language(network, batch)
        return loss + 0.0 * (loss - loss.detach()).abs().sqrt(), metrics

    with pytest.raises(Diverged, match="gradient norm is nan at step 0"):
        fit(sft(objective=objective))


def test_a_gradient_that_is_no_number_stops_the_run_without_clipping_too(sft):
    def objective(network, batch):
        loss, metrics = language(network, batch)
        return loss + 0.0 * (loss - loss.detach()).abs().sqrt(), metrics

    with pytest.raises(Diverged):
        fit(sft(objective=objective, optim=replace(ADAM, max_grad_norm=0.0)))


def test_probabilities_that_are_no_numbers_stop_the_run(grpo):
    plan = grpo()
    next(plan.model.network.parameters()).data.fill_(math.nan)
    with pytest.raises(Diverged, match="non-finite logits while sampling at step 0"):
        fit(plan)


# hooks


@pytest.mark.slow
def test_hooks_are_called_at_the_start_after_each_step_and_at_the_end(sft):
    seen = []
    fitted = fit(sft(hooks=(lambda progress: seen.append((progress.phase, progress.step, progress.max_steps)),)))
    assert seen == [("start", 0, 4), *(("step", step, 4) for step in (1, 2, 3, 4)), ("end", 4, 4)]
    assert not fitted.stopped


def test_any_hook_can_stop_the_run(sft):
    seen = []
    hooks = (lambda progress: progress.step == 2, lambda progress: seen.append((progress.phase, progress.step)))
    fitted = fit(sft(hooks=hooks))
    assert (fitted.stopped, fitted.steps) == (True, 2)
    assert seen[-1] == ("end", 2)


def test_a_hook_that_asks_to_stop_at_the_start_is_heard(sft, weights):
    fitted = fit(sft(hooks=(lambda progress: progress.phase == "start",)))
    assert (fitted.stopped, fitted.steps) == (True, 0)


def test_hooks_see_the_model_as_it_would_be_released(sft, tiny_model):
    other, seen = tiny_model(seed=3), []

    class Release:
        def __init__(self, model):
            self.model = model

        def __enter__(self):
            return other

        def __exit__(self, *_):
            return None

    fit(sft(released=Release, hooks=(lambda progress: seen.append(progress.model is other),)))
    assert seen
    assert all(seen)


def test_costs_add_up(sft):
    counted = {"samples": 0, "tokens": 0}
    curve = []

    def prepare(model, micro_batches, step):
        batches = GivenAnswers()(model, micro_batches, step)
        counted["samples"] += sum(len(rows) for rows in micro_batches)
        pairs = [(row, row.response) for rows in micro_batches for row in rows]
        counted["tokens"] += int(answer_batch(model, pairs)["lengths"].sum())
        return batches

    optim = replace(ADAM, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    fitted = fit(sft(prepare=prepare, optim=optim, hooks=(lambda p: curve.append((p.samples, p.tokens, p.seconds)),)))
    assert (fitted.samples, fitted.tokens) == (counted["samples"], counted["tokens"])
    assert fitted.samples == 16
    assert curve[0][:2] == (0, 0)
    assert curve == sorted(curve)
    assert curve[-1][:2] == (fitted.samples, fitted.tokens)


@pytest.mark.slow
def test_rollouts_cost_the_tokens_that_they_read_and_sampled(grpo):
    plan = grpo(optim=replace(ADAM, max_steps=1))
    logged = []

    def prepare(model, micro_batches, step):
        batches = plan.prepare(model, micro_batches, step)
        logged.append(sum(float(batch["lengths"].sum()) for batch in batches) + float(batches[0]["rollout_tokens"]))
        return batches

    fitted = fit(replace(plan, prepare=prepare))
    assert (fitted.samples, fitted.tokens) == (12, int(sum(logged)))


def test_the_time_of_hooks_is_not_training_time(sft, monkeypatch):
    skipped, real = [0.0], time.perf_counter

    def hook(progress):
        skipped[0] += 1000.0

    monkeypatch.setattr(holdfast.training.clock.time, "perf_counter", lambda: real() + skipped[0])
    seconds = []
    fitted = fit(sft(hooks=(lambda progress: seconds.append(progress.seconds), hook)))
    assert 0.0 < fitted.seconds < 900.0
    assert seconds[-1] < 900.0


@pytest.mark.slow
def test_what_an_objective_and_a_rollout_log_reaches_the_hooks(grpo):
    seen = []
    fit(grpo(kl_coef=0.1, hooks=(lambda progress: seen.append(progress.metrics),)))
    assert seen[0] == {}
    assert {"loss", "kl", "grad_norm", "reward", "reward_std", "completion_tokens"} <= set(seen[1])


# the optimizer


@pytest.mark.slow
def test_a_loss_without_a_gradient_is_a_gradient_of_zero(sft, weights):
    """Momentum acts on: a missing gradient would freeze the weights, a zero one lets them coast."""

    def objective(after):
        calls = []

        def loss(network, batch):
            calls.append(1)
            return language(network, batch) if len(calls) == 1 else (after(network), {})

        return loss

    missing = fit(sft(objective=objective(lambda network: torch.zeros(()))))
    zero = fit(sft(objective=objective(lambda network: 0.0 * sum(p.sum() for p in network.parameters()))))
    once = fit(sft(objective=objective(lambda network: torch.zeros(())), optim=replace(ADAM, max_steps=1)))
    assert torch.equal(weights(missing.model), weights(zero.model))
    assert not torch.equal(weights(missing.model), weights(once.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0, 0.5, 1, 0.5]),
        ("cosine", 0, [1, 0.85355, 0.5, 0.14645]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, warmup, factors, sft):
    """Where the gradient of a weight is 1, each step of plain descent moves it by the learning rate."""
    plan, places = sft(), []
    weight = plan.model.network.model.norm.weight

    def objective(network, batch):
        return network.model.norm.weight.sum(), {}

    optim = replace(SGD, learning_rate=0.1, max_grad_norm=0.0, lr_scheduler_type=schedule, warmup_steps=warmup)
    fit(replace(plan, objective=objective, optim=optim, hooks=(lambda progress: places.append(weight[0].item()),)))
    moved = [before - after for before, after in pairwise(places[:5])]
    assert moved == pytest.approx([0.1 * factor for factor in factors], abs=1e-5)


def test_gradients_are_clipped_at_their_norm(sft, weights):
    """Plain descent at rate 1 moves all weights together by the clipped norm."""
    plan = sft(optim=replace(SGD, max_steps=1, learning_rate=1.0, max_grad_norm=0.01))
    before, norms = weights(plan.model), []
    fitted = fit(replace(plan, hooks=(lambda progress: norms.append(progress.metrics.get("grad_norm")),)))
    assert (weights(fitted.model) - before).norm().item() == pytest.approx(0.01, rel=1e-2)
    assert norms[1] > 0.1


@pytest.mark.slow
def test_mixed_precision_trains_close_to_full_precision_and_keeps_full_weights(sft):
    losses = {}
    for bf16 in (False, True):
        seen = []
        hooks = (lambda progress, seen=seen: seen.append(progress.metrics.get("loss")),)
        fitted = fit(sft(optim=replace(ADAM, bf16=bf16), hooks=hooks))
        losses[bf16] = seen[1:-1]
        assert all(parameter.dtype == torch.float32 for parameter in fitted.model.network.parameters())
    assert losses[True] == pytest.approx(losses[False], rel=0.05)
    assert losses[True] != losses[False]


@pytest.mark.slow
def test_mixed_precision_learns_from_rollouts(grpo, weights):
    plan = grpo(kl_coef=0.1, optim=replace(ADAM, bf16=True))
    before = weights(plan.model)
    after = weights(fit(plan).model)
    assert after.isfinite().all()
    assert not torch.equal(after, before)


@pytest.mark.slow
def test_in_mixed_precision_the_rollouts_log_probabilities_are_those_of_the_pass_that_learns(grpo):
    update, apart = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="sequence", max_tokens=6), []

    def objective(network, batch):
        with torch.no_grad():
            read = answer_logprobs(network, batch)
        kept = target_mask(batch["loss_mask"]) > 0
        apart.append(float((batch["old_logprobs"] - read)[kept].abs().max()))
        return update(network, batch)

    fit(grpo(passes=2, objective=objective, optim=replace(ADAM, bf16=True)))
    first_passes, second_passes = apart[::2], apart[1::2]
    assert first_passes == [0.0, 0.0]
    assert min(second_passes) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_a_run_that_samples_in_lower_precision_logs_how_far_that_is_from_the_policy(bf16, grpo):
    seen = []

    def with_copy(plan):
        return replace(plan, prepare=replace(plan.prepare, sampled_by=low_precision_copy("bfloat16")))

    optim = replace(ADAM, bf16=bf16, learning_rate=1e-2)
    fit(with_copy(grpo(optim=optim, hooks=(lambda progress: seen.append(progress.metrics),))))
    steps = seen[1:-1]
    assert len(steps) == 4
    # Weights that the copy did not follow would be far away after a few steps of this size.
    assert all(0 < abs(step["sampling_gap"]) < 0.2 for step in steps)
    assert all(abs(step["sampling_kl"]) < 0.01 for step in steps)
    assert all(step["sampling_capped"] == 0 for step in steps)


def test_computing_layers_again_asks_for_nothing_deprecated(sft):
    assert fit(sft(optim=replace(ADAM, max_steps=1, gradient_checkpointing=True))).steps == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["sft", "sft lora", *repeated("grpo")])
def test_computing_layers_again_changes_no_weight(kind, make, weights):
    all_weights = []
    for again in (False, True):
        optim = replace(TWO, gradient_checkpointing=again)
        all_weights.append(weights(fit(make(kind, optim=optim)).model))
    torch.testing.assert_close(all_weights[1], all_weights[0], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_run_lowers_the_loss_on_what_it_teaches(sft):
    seen = []
    fit(
        sft(
            optim=replace(ADAM, max_steps=12, learning_rate=3e-3), hooks=(lambda p: seen.append(p.metrics.get("loss")),)
        )
    )
    assert seen[-1] < 0.6 * seen[1]


@pytest.mark.slow
def test_only_an_adapter_moves_where_there_is_one(sft, tiny_model):
    base = dict(tiny_model(small=True).network.named_parameters())
    fitted = fit(sft(model=adapt(tiny_model(small=True), LoRA(r=4))))
    parameters = dict(fitted.model.network.base_model.model.named_parameters())
    kept = [name for name in base if name in parameters]
    assert kept
    assert all(torch.equal(parameters[name], base[name]) for name in kept)
    one = dict(merged(fitted.model).network.named_parameters())
    assert any(not torch.equal(one[name], base[name]) for name in base)


def test_the_model_comes_back_ready_for_use(sft):
    plan = sft()
    fitted = fit(plan)
    assert fitted.model is plan.model
    assert not fitted.model.network.training
    assert all(parameter.grad is None for parameter in fitted.model.network.parameters())


def test_a_backward_rule_of_a_plans_own_is_used(sft, weights):
    def twice(objective, network, batch, propagate):
        loss, metrics = objective(network, batch)
        propagate(loss * 2)
        return loss.detach(), metrics

    optim = replace(SGD, max_steps=1, max_grad_norm=0.0)
    before = weights(sft().model)
    plain, doubled = (weights(fit(sft(optim=optim, **more)).model) for more in ({}, {"backward": twice}))
    torch.testing.assert_close(doubled - before, 2 * (plain - before), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_second_run_on_a_network_computes_in_bf16_when_asked_to(sft):
    start, losses = fit(sft(optim=replace(ADAM, max_steps=1))).model, {}
    for bf16 in (False, True):
        seen = []
        hooks = (lambda progress, seen=seen: seen.append(progress.metrics.get("loss")) or None,)
        plan = sft(optim=replace(ADAM, max_steps=2, bf16=bf16), hooks=hooks)
        fit(replace(plan, model=replace(plan.model, network=copy.deepcopy(start.network))))
        losses[bf16] = seen[1:-1]
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.05)
