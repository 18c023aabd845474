"""TAR: attackers leave no trace, gradients are what a slow reference finds, memory is bounded, runs repeat."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from holdfast.attacks.dpo import preference
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.offline.tar import TAR
from holdfast.defenses.tampering.attackers import Attackers, among, held_out
from holdfast.defenses.tampering.objectives import mapped, random_table, reference_to, weighed
from holdfast.defenses.tampering.runs import Run, follow, tamper, trainable
from holdfast.defenses.tampering.tensor_store import TensorStore
from holdfast.experiment.grid import Grid, cells
from holdfast.losses.tamper import max_entropy, representation_distance, step_weights
from holdfast.network.models import LoRA
from holdfast.records import HoldfastError, Method
from holdfast.sandbox.build import Sandbox
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import GivenAnswers, Optim, Plan
from repeated import repeated

OUTER = Optim(max_steps=2, learning_rate=1e-3, per_device_train_batch_size=4)
INNER = Optim(max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4, weight_decay=0.01, max_grad_norm=0.0)
QUICK = TAR(optim=OUTER, inner=INNER, tasks=2, evaluate_every=2)
REWARDED = {"reward": {"judge": "graded"}}


def propagate(loss):
    """As the loop does; a loss without a gradient leaves none."""
    if loss.requires_grad:
        loss.backward()


def step_of(plan, step=0, micro_batches=1):
    """The backward rule on the plan's first rows; leaves gradients, returns loss and metrics of each micro-batch."""
    size = len(plan.data) // 4
    rows = [plan.data[i * size : (i + 1) * size] for i in range(micro_batches)]
    batches = with_totals(plan.batches(rows, step))
    plan.model.network.train()
    return [plan.backward(plan.objective, plan.model.network, batch, propagate) for batch in batches]


def gradients(model):
    all_gradients = [p.grad.clone() for p in model.network.parameters()]
    assert any(gradient.any() for gradient in all_gradients)
    return all_gradients


def attackers_of(settings, model, context):
    """The runs of the settings' outer steps."""
    reference = reference_to(model, settings.keep_on)
    return settings._attackers(model, reference, context.splits.benign["defense"], context)


# attackers leave no trace


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo", "grpo", "ppo"])
def test_parameters_are_bit_for_bit_as_before_whoever_attacked(name, wavering_model, make_context, weights):
    more = {name: REWARDED} if name in ("grpo", "ppo") else {name: {}}
    model = wavering_model()
    before, parts = weights(model), [part for part, _ in model.network.named_modules()]
    plan = replace(QUICK, adversaries=more).plan(model, make_context())
    ((loss, _),) = step_of(plan)
    assert loss.isfinite()
    assert torch.equal(weights(model), before)
    assert [part for part, _ in model.network.named_modules()] == parts
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.parameters())


def test_an_attacker_that_fails_half_way_leaves_parameters_and_gradients_as_they_were(
    wavering_model, make_context, weights
):
    model = wavering_model()
    before, held = weights(model), [torch.randn_like(p) for p in model.network.parameters()]
    for p, gradient in zip(model.network.parameters(), held, strict=True):
        p.grad = gradient

    def step(i):
        if i == 1:
            raise ZeroDivisionError
        return language, GivenAnswers()(model, [make_context().splits.harmful["defense"]], 0)[0]

    run = Run(step=step, learning_rate=1e-3, probes=[])
    with pytest.raises(ZeroDivisionError):
        tamper(model.network, [lambda: run], optim=INNER, weights=[0, 0], propagate=propagate)
    assert torch.equal(weights(model), before)
    assert all(p.grad is gradient for p, gradient in zip(model.network.parameters(), held, strict=True))


@pytest.mark.slow
def test_each_attacker_has_an_optimizer_of_its_own(wavering_model, make_context):
    """The same run a second time in the same outer step finds what the first found: no moments are left over."""
    model = wavering_model()
    runs = attackers_of(QUICK, model, make_context())
    once, twice = (
        tamper(
            model.network,
            [partial(runs.run, 0)] * count,
            optim=INNER,
            weights=QUICK.weights(1),
            propagate=propagate,
        )
        for count in (1, 2)
    )
    assert twice.losses == once.losses * 2
    assert twice.probed == once.probed * 2
    for i, _ in enumerate(trainable(model.network)):
        torch.testing.assert_close(twice.gradients.get(i), 2 * once.gradients.get(i))


@pytest.mark.slow
def test_the_outer_optimizer_counts_its_own_steps_and_every_attacker_begins_at_none(wavering_model, make_context):
    counts = {}

    def count(optimizer, args, kwargs):
        counts[optimizer] = {int(state["step"]) for state in optimizer.state.values()}

    handle = register_optimizer_step_post_hook(count)
    try:
        fit(QUICK.plan(wavering_model(), make_context()))
    finally:
        handle.remove()
    attackers = [{INNER.max_steps}] * QUICK.tasks * OUTER.max_steps
    assert sorted(counts.values(), key=max) == [{OUTER.max_steps}, *attackers]


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(wavering_model, make_context, weights, tmp_path):
    settings = replace(
        QUICK, tasks=1, optim=replace(OUTER, max_steps=4), switch_share=0.5, adversaries={"sft": {}, "dpo": {}}
    )

    def killing(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    def plan(*hooks):
        return replace(settings.plan(wavering_model(), make_context()), hooks=hooks)

    whole = fit(plan())
    with pytest.raises(KeyboardInterrupt):
        fit(plan(killing), folder=tmp_path, checkpoint_every=2)
    resumed = fit(plan(), folder=tmp_path, checkpoint_every=2)
    assert torch.equal(weights(resumed.model), weights(whole.model))


# the gradients


def slow_reference(settings, model, context):
    """The same gradients by a plain loop over copies of the network, with `torch.autograd.grad` and nothing shared."""
    runs = attackers_of(settings, model, context)
    total = [torch.zeros_like(p) for p in model.network.parameters()]
    steps = settings.inner.max_steps
    for make in runs(0):
        run = make()
        twin = copy.deepcopy(model.network).train()
        parameters = list(twin.parameters())
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        for i in range(steps):
            objective, batch = run.step(i)
            slopes = torch.autograd.grad(objective(twin, batch)[0], parameters)
            adamw(parameters, slopes, moments, step=i + 1, rate=run.learning_rate, optim=settings.inner)
            if (steps - 1 - i) % settings.evaluate_every == 0:
                weight = settings.tamper_weight / settings.tasks
                weight *= (
                    1 / steps if settings.decay is None else 2.718281828459045 ** (settings.decay * (i + 1 - steps))
                )
                looked = sum(objective(twin, batch)[0] for objective, batch in run.probes)
                for sum_so_far, gradient in zip(total, torch.autograd.grad(looked, parameters), strict=True):
                    sum_so_far.add_(weight * gradient)
    return total


@torch.no_grad()
def adamw(parameters, slopes, moments, *, step, rate, optim):
    """AdamW by its formula (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    for p, gradient, (first, second) in zip(parameters, slopes, moments, strict=True):
        p.mul_(1 - rate * optim.weight_decay)
        first.lerp_(gradient, 1 - optim.adam_beta1)
        second.lerp_(gradient.square(), 1 - optim.adam_beta2)
        size = (second / (1 - optim.adam_beta2**step)).sqrt() + optim.adam_epsilon
        p.sub_(rate / (1 - optim.adam_beta1**step) * first / size)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.5, None])
@pytest.mark.parametrize("resistance", ["dpo", "max_entropy"])
def test_gradients_are_first_order_and_equal_a_slow_reference(decay, resistance, wavering_model, make_context):
    settings = replace(QUICK, decay=decay, resistance=resistance, rate_factors=(1.0,))
    model = wavering_model()
    expected = slow_reference(settings, model, make_context())
    plan = replace(settings, retain="language").plan(model, make_context())
    step_of(replace(plan, objective=weighed(0.0, plan.objective)))
    for gradient, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-7)


@pytest.mark.slow
def test_the_retained_part_is_added_at_the_weights_before_the_attack(wavering_model, make_context):
    by_name = {}
    for name, tamper_weight, retain_weight in (("both", 4.0, 2.0), ("resist", 4.0, 0.0), ("retain", 0.0, 2.0)):
        model = wavering_model()
        settings = replace(QUICK, tamper_weight=tamper_weight, retain_weight=retain_weight)
        step_of(settings.plan(model, make_context()))
        by_name[name] = gradients(model)
    for both, one, other in zip(by_name["both"], by_name["resist"], by_name["retain"], strict=True):
        torch.testing.assert_close(both, one + other)


def test_the_retained_part_is_that_of_plain_training_where_nothing_else_counts(wavering_model, make_context):
    plan = replace(QUICK, tamper_weight=0.0, retain="language").plan(wavering_model(), make_context())
    plain = Plan(
        model=wavering_model(), data=plan.data, prepare=GivenAnswers(max_length=1024), objective=language, optim=OUTER
    )
    for each in (plan, plain):
        step_of(each)
    for gradient, wanted in zip(gradients(plan.model), gradients(plain.model), strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.slow
def test_attackers_come_once_an_optimizer_step_however_many_micro_batches(wavering_model, make_context):
    one, two = wavering_model(), wavering_model()
    settings = replace(QUICK, retain="language")
    whole, halves = settings.plan(one, make_context()), settings.plan(two, make_context())
    whole = replace(whole, data=[row for row in whole.data for _ in range(2)])
    rows = halves.data[: len(halves.data) // 4 * 2]
    batch = with_totals(whole.batches([rows], 0))[0]
    whole.backward(whole.objective, one.network.train(), batch, propagate)
    first, second = step_of(halves, micro_batches=2)
    assert "resistance" in first[1]
    assert "resistance" not in second[1]
    for gradient, wanted in zip(gradients(two), gradients(one), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_dropped_where_the_loss_is_below_its_bound(wavering_model, make_context):
    kept, dropped, plain = (wavering_model() for _ in range(3))
    settings = replace(QUICK, resistance="max_entropy")
    (_, low), (_, high), _ = (
        step_of(replace(settings, **more).plan(model, make_context()))[0]
        for model, more in (
            (kept, {"lower_bound": -100.0}),
            (dropped, {"lower_bound": 0.0}),
            (plain, {"tamper_weight": 0.0}),
        )
    )
    assert (low["resisted"], high["resisted"]) == (1.0, 0.0)
    assert all(map(torch.equal, gradients(dropped), gradients(plain)))
    assert not all(map(torch.equal, gradients(kept), gradients(plain)))


@pytest.mark.slow
def test_the_code_s_bound_is_held_against_the_sum_and_ours_against_the_mean(wavering_model, make_context):
    """Entropy is at most ln V a token, so a bound between that and the sum of several looks tells the two apart."""
    settings = replace(QUICK, resistance="max_entropy", lower_bound=-6.0, tamper_weight=100.0)
    clean, reference = (
        step_of(replace(settings, mode=mode).plan(wavering_model(), make_context()))[0][1]
        for mode in ("clean", "reference")
    )
    assert (clean["resisted"], reference["resisted"]) == (1.0, 0.0)


def test_looks_are_counted_back_from_the_last_step():
    settings = replace(QUICK, inner=replace(INNER, max_steps=6), evaluate_every=4, decay=None, tamper_weight=12.0)
    assert settings.weights(2) == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


# who attacks


def sampled_run(settings, context, model, number=0):
    return attackers_of(settings, model, context).run(number)


def test_no_attacker_trains_on_what_is_held_out_and_all_on_rows_of_the_defense_split(splits):
    known, heldout = held_out(splits.harmful["defense"], 0.25, seed=3)
    assert len(heldout) == round(len(splits.harmful["defense"]) / 4)
    assert not {row.key for row in known} & {row.key for row in heldout}
    assert {row.key for row in known + heldout} == {row.key for row in splits.harmful["defense"]}


def test_attackers_are_shown_no_split_but_their_own(make_context, splits):
    context = among(make_context(), splits.harmful["defense"][:5], splits.benign["defense"])
    assert (list(context.splits.harmful), list(context.splits.benign)) == (["attack"], ["attack"])
    assert len(context.splits.harmful["attack"]) == 5


def test_a_switching_attacker_begins_with_benign_answers(wavering_model, make_context):
    settings = replace(QUICK, switch_share=1.0, inner=replace(INNER, max_steps=50))
    model, context = wavering_model(), make_context()
    run = sampled_run(settings, context, model)
    plain = sampled_run(replace(settings, switch_share=0.0), context, model)
    benign = {tuple(ids) for ids in encoded(model, context.splits.benign["defense"])}
    shares = [share(run.step(i)[1], benign) for i in (0, 49)]
    assert shares == [1.0, 0.0]
    assert share(plain.step(0)[1], benign) == 0.0


def encoded(model, rows):
    return [model.encode_prompt(row.prompt) + model.encode_response(row.response) for row in rows]


def share(batch, known):
    rows = [tuple(ids[:n].tolist()) for ids, n in zip(batch["input_ids"], batch["lengths"], strict=True)]
    return sum(row in known for row in rows) / len(rows)


@pytest.mark.slow
def test_kinds_rates_and_rows_of_attackers_follow_from_seed_and_step(wavering_model, make_context):
    settings = replace(QUICK, adversaries={"sft": {}, "dpo": {}}, switch_share=0.5)
    model = wavering_model()

    def told(seed, number):
        run = sampled_run(settings, make_context(seed=seed), model, number)
        return (run.learning_rate, run.step(0)[1]["input_ids"].tolist())

    first = [told(0, number) for number in range(6)]
    assert [told(0, number) for number in range(6)] == first
    assert len({rate for rate, _ in first}) > 1
    assert len({len(ids) for _, ids in first}) == 2  # pairs are twice as many sequences
    assert told(1, 0) != first[0]


@pytest.mark.slow
def test_a_share_of_nought_leaves_an_attack_out(wavering_model, make_context):
    settings = replace(QUICK, adversaries={"sft": {}, "dpo": {}}, shares={"dpo": 0.0})
    model, context = wavering_model(), make_context()
    sizes = {len(sampled_run(settings, context, model, n).step(0)[1]["input_ids"]) for n in range(8)}
    assert sizes == {INNER.per_device_train_batch_size}


def test_a_part_of_the_network_may_learn_at_a_rate_of_its_own(wavering_model, make_context):
    model, seen = wavering_model(), {}
    run = sampled_run(QUICK, make_context(), model)
    head = "lm_head" if any("lm_head" in name for name, _ in model.network.named_parameters()) else "model.embed"
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}

    def probe(network, batch):
        seen.update({name: float((p.detach() - before[name]).abs().max()) for name, p in network.named_parameters()})
        return language(network, batch)

    run = replace(run, learning_rates={head: 0.0}, probes=[(probe, run.step(0)[1])])
    tamper(model.network, [lambda: run], optim=INNER, weights=[1.0], propagate=propagate)
    assert set(seen) == set(before)
    assert all((moved == 0) is name.startswith(head) for name, moved in seen.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"adversaries": {"sfd": {}}}, "did you mean 'sft'"),
        ({"adversaries": {"sft": {"optim": {"max_steps": 3}}}}, "set `inner`"),
        ({"adversaries": {"dpo": {"beta": -1.0}}}, "beta"),
        ({"adversaries": {"best_of_n": {}}}, "adversaries.best_of_n: does not train, so no attacker can run it"),
        ({"adversaries": {}}, "adversary"),
        ({"shares": {"dpo": 1.0}}, "'dpo' is not one of"),
        ({"shares": {"sft": 0.0}}, "not all be 0"),
        ({"tasks": 0}, "tasks"),
        ({"tamper_weight": -1.0}, "tamper_weight"),
        ({"heldout_share": 1.0}, "heldout_share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(HoldfastError, match=words):
        TAR(**settings)


def test_rows_without_answers_are_refused(wavering_model, make_context, splits):
    bare = replace(splits, benign={"defense": [replace(row, response=None) for row in splits.benign["defense"]]})
    with pytest.raises(HoldfastError, match="no benign row"):
        QUICK.plan(wavering_model(), make_context(splits=bare))
    one = replace(splits, harmful={"defense": splits.harmful["defense"][:1]})
    with pytest.raises(HoldfastError, match="at least two harmful rows"):
        QUICK.plan(wavering_model(), make_context(splits=one))


# memory


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors made under it that are still there, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage):
        if storage._cdata not in self.known and storage.nbytes():
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())

    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size


def peak(make):
    """Peak of a run in copies of the weights, the weights themselves included."""
    with Held() as held:
        plan = make()
        fit(plan)
    return held.peak / sum(p.nbytes for p in plan.model.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("resistance", "batch_size"), [("dpo", 8), ("max_entropy", 2)])
def test_peak_memory_is_within_half_as_much_again_as_plain_training_and_a_copy_of_the_weights(
    batch_size, resistance, tiny_model, make_context
):
    sized = {"per_device_train_batch_size": batch_size, "max_steps": 2}
    settings = TAR(optim=Optim(**sized), inner=replace(INNER, **sized), tasks=2, resistance=resistance, keep_on="disk")
    rows = make_context().splits.benign["defense"]

    def plain():
        return Plan(model=tiny_model(), data=rows, prepare=GivenAnswers(), objective=language, optim=Optim(**sized))

    trained = peak(plain)
    assert trained > 4  # weights, gradients, two moments
    assert peak(lambda: settings.plan(tiny_model(), make_context())) <= 1.5 * trained + 1


@pytest.mark.slow
def test_beside_the_weights_four_copies_and_the_reference_are_held_and_on_disk_none_but_the_moments(
    tiny_model, make_context
):
    """Looked at where an attacker's step begins: weights and what waits, without any pass's own tensors."""
    bytes_held = {}
    for place in ("device", "disk"):
        with Held() as held:
            model = tiny_model()
            settings = replace(QUICK, keep_on=place)
            plan = settings.plan(model, make_context())
            runs = attackers_of(settings, model, make_context())
            seen = []
            run = runs.run(0)
            step = run.step

            def watched(i, step=step, seen=seen, held=held):
                seen.append(held.now)
                return step(i)

            size = sum(p.nbytes for p in model.network.parameters())
            before = held.now
            tamper(
                model.network,
                [lambda run=run, watched=watched: replace(run, step=watched)],
                optim=INNER,
                weights=[1.0, 0.0, 0.0],
                propagate=propagate,
                keep_on=place,
            )
            bytes_held[place] = [round((now - before) / size, 1) for now in seen]
            del plan
    # a copy of the weights; then, after a step with a look, two moments and the summed gradients
    assert bytes_held == {"device": [1.0, 4.0, 4.0], "disk": [0.0, 2.0, 2.0]}


@pytest.mark.slow
def test_where_tensors_wait_changes_no_bit(wavering_model, make_context, weights):
    settings = replace(QUICK, tasks=1)
    device, cpu, disk = (
        weights(replace(settings, keep_on=place).harden(wavering_model(), make_context()))
        for place in ("device", "cpu", "disk")
    )
    assert torch.equal(cpu, device)
    assert torch.equal(disk, device)


@pytest.mark.parametrize("place", ["device", "cpu", "disk"])
def test_a_shelf_gives_back_what_was_put_on_it_and_adds_up(place):
    shelf, given = TensorStore(place), torch.randn(3, 5).t()
    shelf.put(2, given)
    kept = given.clone()
    given.zero_()
    assert torch.equal(shelf.get(2), kept)
    shelf.add(2, kept)
    shelf.add(1, kept)
    assert torch.equal(shelf.get(2), 2 * kept)
    assert torch.equal(shelf.get(1), kept)
    assert shelf.get(0) is None


# starts and combinations


@pytest.mark.slow
def test_random_mapping_turns_hidden_states_on_harmful_rows_to_the_random_vectors(wavering_model, make_context):
    model, context = wavering_model(), make_context()
    settings = replace(QUICK, mapping=Optim(max_steps=20, learning_rate=3e-3, per_device_train_batch_size=8))
    plan = settings.mapping_plan(model, context)
    objective = mapped(random_table(model.network, seed=context.seed), "clean")
    harmful = GivenAnswers()(model, [context.splits.harmful["defense"]], 0)[0]
    before = objective(model.network, harmful)[1]["loss"]
    fit(plan)
    assert objective(model.network, harmful)[1]["loss"] < before - 0.1


@pytest.mark.slow
def test_random_mapping_comes_first_where_it_is_asked_for(wavering_model, make_context):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    mapping = Optim(max_steps=1, learning_rate=1e-3, per_device_train_batch_size=4)
    settings = replace(QUICK, start="random_mapping", mapping=mapping)
    settings.harden(wavering_model(), make_context(fit=watched))
    assert [plan.optim for plan in plans] == [mapping, OUTER]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inner_eval", "outer_only"])
def test_repnoise_joins_at_the_looks_or_at_the_outer_weights(place, wavering_model, make_context):
    alone, joined = wavering_model(), wavering_model()
    ((_, plain),) = step_of(QUICK.plan(alone, make_context()))
    ((_, metrics),) = step_of(replace(QUICK, repnoise_at=place).plan(joined, make_context()))
    assert ("repnoise/loss" in metrics) is (place == "outer_only")
    assert (metrics["resistance"] != plain["resistance"]) is (place == "inner_eval")
    assert not all(map(torch.equal, gradients(alone), gradients(joined)))
    assert all(gradient.isfinite().all() for gradient in gradients(joined))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["repnoise", *repeated("reward_neutralization")])
def test_tar_follows_another_defense_and_is_held_to_what_that_one_made(first, wavering_model, make_context, quick):
    """The chain's second stage starts from, and retains, the first one's model."""
    before, context = wavering_model(), make_context()
    stage = quick(OFFLINE.load(first)())
    hardened = stage.harden(before, context)
    plan = QUICK.plan(hardened, context)
    ((_, metrics),) = step_of(plan)
    assert metrics["moved"] < 1e-3
    last = QUICK.harden(hardened, context)
    assert last.name == f"{before.name}+{first}+tar"


def test_a_chain_with_tar_is_a_stack_of_the_experiment_that_knows_its_attackers_judges():
    attackers = {"adversaries": {"grpo": {"reward": {"judge": "keyword"}}}}
    stack = (Method(name="repnoise"), Method(name="tar", settings=attackers))
    (cell,) = cells(Grid(name="chain", models=(Sandbox(),), defenses=(stack,)))
    assert [stage.name for stage in cell.stages] == ["repnoise", "tar"]
    assert set(cell.stages[1].settings["adversaries"]) == {"sft", "grpo"}  # named ones join the default
    assert "keyword" in cell.judges


@pytest.mark.slow
def test_with_an_adapter_attackers_and_defender_move_nothing_else(wavering_model, make_context, weights):
    settings = replace(QUICK, adapter=LoRA(r=4), adversaries={"dpo": {}})
    moved = []

    def watched(plan):
        before = {name: p.detach().clone() for name, p in plan.model.network.named_parameters()}
        fitted = fit(plan)
        moved.extend(n for n, p in fitted.model.network.named_parameters() if not torch.equal(p, before[n]))
        return fitted

    settings.harden(wavering_model(), make_context(fit=watched))
    assert moved
    assert all("lora" in name for name in moved)


@pytest.mark.slow
def test_an_attack_on_the_hardened_model_gets_less_far_than_on_the_one_it_was_made_of(wavering_model, make_context):
    """Direction: the held-out preference for refusals after the same attack is larger with TAR than without."""
    settings = replace(
        QUICK,
        tasks=1,
        optim=replace(OUTER, max_steps=6, learning_rate=1e-3),
        inner=replace(INNER, max_steps=4, learning_rate=1e-3),
        rate_factors=(1.0,),
        evaluate_every=1,
    )
    original, context = wavering_model(), make_context()
    hardened = settings.harden(original, context)
    after = []
    for model in (original, hardened):
        probes = attackers_of(settings, original, context).run(99).probes
        run = Run(step=follow(attack(model, context), 8), learning_rate=1e-3, probes=probes)
        tampering = tamper(
            model.network.train(),
            [lambda run=run: run],
            optim=INNER,
            weights=[0, 0, 0, 1],
            propagate=propagate,
        )
        after.append(tampering.probed[-1])
    assert after[1] < after[0]


def attack(model, context):
    return Plan(
        model=model,
        data=context.splits.harmful["attack"],
        prepare=GivenAnswers(),
        objective=language,
        optim=INNER,
        seed=5,
    )


# losses


def test_the_distance_has_no_gradient_at_the_reference_once_it_is_smoothed():
    state = torch.randn(2, 3, 4)
    moved = state.clone().requires_grad_()
    value = representation_distance([moved], [state], smoothing=1e-3)
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.equal(moved.grad, torch.zeros_like(state))


def test_padding_counts_in_no_loss_that_has_a_mask():
    logits, state = torch.randn(1, 3, 5), torch.randn(1, 3, 4)
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    spoilt = logits.clone()
    spoilt[:, 2] = 100 * torch.randn(5)
    other = state.clone()
    other[:, 2] += 7
    assert torch.equal(max_entropy(logits, mask), max_entropy(spoilt, mask))
    assert float(representation_distance([state], [other], mask)) == 0.0


def test_the_last_step_weighs_one_and_earlier_ones_less():
    weights = step_weights(4, 0.5)
    assert weights[-1] == 1.0
    assert weights == sorted(weights)
    assert step_weights(4, None) == [0.25] * 4


def test_the_probe_of_pairs_in_two_halves_is_the_loss_of_them_all(wavering_model, make_context):
    model, context = wavering_model(), make_context()
    probes = sampled_run(QUICK, context, model).probes
    assert len(probes) == 2
    batches = [batch for _, batch in probes]
    one, two = (
        sum(float(preference(0.1)(model.network, b)[0].detach()) for b in part) for part in (batches[:1], batches)
    )
    alone = preference(0.1)(model.network, {**batches[0], "num_sequences": torch.tensor(len(batches[0]["input_ids"]))})
    assert one == pytest.approx(float(alone[0].detach()) / 2)
    assert two > one


def test_attackers_are_a_value(wavering_model, make_context):
    attackers = attackers_of(QUICK, wavering_model(), make_context())
    assert isinstance(attackers, Attackers)
    assert len(attackers(3)) == QUICK.tasks
