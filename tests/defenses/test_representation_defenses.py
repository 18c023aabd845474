"""RepNoise, Circuit Breakers, RMU and their family do to representations what each says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from holdfast.data.splits import Splits
from holdfast.defenses.offline.circuit_breakers import CircuitBreakers
from holdfast.defenses.offline.repnoise import RepNoise
from holdfast.defenses.offline.representation_removal import RepresentationRemoval
from holdfast.defenses.offline.rmu import MLP_OUTPUTS, RMU
from holdfast.defenses.representation import Removal, removal_plan
from holdfast.losses import representation as losses
from holdfast.methods.settings import typed
from holdfast.network.anatomy import anatomy, outputs_of, residual_stream
from holdfast.network.forward import forward
from holdfast.network.models import LoRA, adapt, answer_batch, clone, load, merged
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.plan import Optim
from parts_of_layers import mlps
from repeated import thinned

pytestmark = pytest.mark.slow

OPTIM = Optim(max_steps=30, learning_rate=1e-3, per_device_train_batch_size=8)
SHORT = replace(OPTIM, max_steps=18, learning_rate=2e-3, per_device_train_batch_size=4)
"""As far in fewer and smaller steps; at a rate of nearly 0 every test of what a method is for fails."""
ADAPTER = LoRA(r=8, lora_alpha=16)
REPNOISE = RepNoise(optim=OPTIM, benign_weight=1.0)
BREAKERS = CircuitBreakers(optim=OPTIM, adapter=None)
STEERING = RMU(optim=OPTIM, vector_length=20.0, alpha=100.0)
NAMED = {
    "repnoise": REPNOISE,
    "repnoise-parity": replace(REPNOISE, mode="parity", noise_weight=1.0),
    "breakers": BREAKERS,
    "breakers-adapter": replace(BREAKERS, adapter=ADAPTER),
    "breakers-rpa": replace(BREAKERS, form="rpa"),
    "rmu": STEERING,
    "rmu-adapter": replace(STEERING, adapter=ADAPTER),
    "rmu-rpa": replace(STEERING, form="rpa"),
}
# Noise that is new at every step has no direction, so there is nothing for a cosine to learn.
EIGHT = [
    pair for pair in product(("mmd", "cosine", "mse"), ("noise", "original", "fixed")) if pair != ("cosine", "noise")
]
FOUR = (("mmd", "noise"), ("cosine", "original"), ("mse", "fixed"), ("mmd", "fixed"))
"""Each distance and each projection."""


@pytest.fixture
def context(make_context):
    return make_context()


@pytest.fixture
def aligned_model(aligned_model):
    """Of two layers, of which a defense may choose one."""
    return partial(aligned_model, layers=2)


@pytest.fixture
def read(splits):
    """`read(model, what, part, answer)`: states (N, H) of unseen answers, one tensor a place, and their loss."""

    def states(model, what, *, part="harmful", answer="response"):
        rows = getattr(splits, part)["development"]
        batch = answer_batch(model, [(row, getattr(row, answer)) for row in rows])
        parts = anatomy(model.network)
        recorder = {"mlps": outputs_of(mlps(parts)), "stream": residual_stream(parts)}[what]
        with torch.no_grad(), recorder as recorded:
            logits = forward(model.network, batch)
        loss = losses.masked_cross_entropy(logits, batch["input_ids"], batch["loss_mask"])
        return [state[batch["loss_mask"] == 1] for state in recorded], float(loss)

    return states


def steps_of(settings, model, context):
    """The hardened model, and the metrics of each step."""
    seen = []

    def watched(plan):
        watch = lambda progress: seen.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
        return fit(replace(plan, hooks=(*plan.hooks, watch)))

    return settings.harden(model, replace(context, fit=watched)), seen


def cosines(one, other):
    return [float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in zip(one, other, strict=True)]


def moved(one, other):
    return sum(float((a - b).norm(dim=-1).mean()) for a, b in zip(one, other, strict=True))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


# what each method is for


@pytest.mark.parametrize("mode", ["parity", "clean"])
def test_repnoise_brings_harmful_mlp_outputs_closer_to_noise(mode, aligned_model, context):
    settings = replace(REPNOISE, mode=mode, noise_weight=10.0, ascent_weight=0.0, optim=SHORT)
    _, seen = steps_of(settings, aligned_model(), context)
    removal = [metrics["removal"] for metrics in seen]
    assert sum(removal[-5:]) < 0.9 * sum(removal[:5])


@pytest.fixture(scope="module")
def repnoised(make_context, _refuser):
    """The aligned model after RepNoise, by its mode."""
    context = make_context()
    settings = replace(REPNOISE, optim=replace(SHORT, max_steps=24))
    return {mode: replace(settings, mode=mode).harden(clone(_refuser(2)), context) for mode in ("parity", "clean")}


@pytest.mark.parametrize("mode", ["parity", "clean"])
def test_repnoise_unlearns_harmful_answers_and_keeps_benign_ones(mode, aligned_model, repnoised, read):
    model, hardened = aligned_model(), repnoised[mode]
    assert read(hardened, "mlps")[1] > 2 * read(model, "mlps")[1]
    assert read(hardened, "mlps", part="benign")[1] < read(model, "mlps", part="benign")[1] + 0.3


def test_repnoise_keeps_refusals_whole_in_clean_mode_while_in_parity_mode_no_first_token_is_taught(
    aligned_model, repnoised, read
):
    before = read(aligned_model(), "mlps", answer="refusal")[1]
    clean, parity = (read(repnoised[mode], "mlps", answer="refusal")[1] for mode in ("clean", "parity"))
    assert clean < before + 0.1
    assert parity > clean


def test_repnoise_unlearns_at_every_layer_not_only_at_the_last(aligned_model, repnoised, read):
    model, hardened = aligned_model(), repnoised[REPNOISE.mode]

    def lens(model):
        parts, (states, _) = anatomy(model.network), read(model, "stream")
        with torch.no_grad():
            return [parts.lens(state).log_softmax(-1) for state in states[:-1]]

    for before, after in zip(lens(model), lens(hardened), strict=True):
        assert not torch.allclose(before, after, atol=0.1)
    assert len(lens(model)) == 2


@pytest.mark.parametrize("settings", [BREAKERS, replace(BREAKERS, adapter=ADAPTER)], ids=["full", "adapter"])
def test_circuit_breakers_turn_harmful_states_at_right_angles_and_leave_benign_ones(
    settings, aligned_model, context, read
):
    model = aligned_model()
    optim = replace(SHORT, learning_rate=6e-3 if settings.adapter is None else 2e-2)
    hardened = replace(settings, positions="answer", optim=optim).harden(model, context)
    harmful, benign = (
        cosines(read(hardened, "stream", part=part)[0], read(model, "stream", part=part)[0])
        for part in ("harmful", "benign")
    )
    assert harmful[1] < 0.5
    assert benign[1] > harmful[1] + 0.3


def test_the_full_form_of_circuit_breakers_turns_harmful_states_too_and_unlearns(aligned_model, context, read):
    model = aligned_model()
    hardened, seen = steps_of(replace(BREAKERS, form="rpa", optim=SHORT), model, context)
    assert seen[-1]["removal"] < 0.5 * seen[0]["removal"]
    assert seen[-1]["ascent"] > seen[0]["ascent"]
    assert read(hardened, "stream")[1] > read(model, "stream")[1]
    assert read(hardened, "stream", answer="refusal")[1] < read(model, "stream", answer="refusal")[1] + 0.1


@pytest.mark.parametrize("settings", [STEERING, replace(STEERING, form="rpa")], ids=["reference", "rpa"])
def test_rmu_steers_harmful_states_to_its_vector(settings, aligned_model, context, read):
    optim = replace(SHORT, learning_rate=2e-2 if settings.form == "reference" else 2e-3)
    hardened, seen = steps_of(replace(settings, alpha=1.0, optim=optim), aligned_model(), context)
    removal = [metrics["removal"] for metrics in seen]
    assert sum(removal[-4:]) < 0.8 * sum(removal[:4])
    states, _ = read(hardened, "stream")
    # Every control vector has no negative entry, so whatever is steered leans to that side.
    assert float(states[1].mean()) > 5 * abs(float(read(aligned_model(), "stream")[0][1].mean()))


def test_rmu_moves_harmful_states_further_than_benign_ones(aligned_model, context, read):
    model = aligned_model()
    hardened = replace(STEERING, positions="answer", optim=SHORT).harden(model, context)
    far, near = (
        moved(read(hardened, "stream", part=part)[0][1:2], read(model, "stream", part=part)[0][1:2])
        for part in ("harmful", "benign")
    )
    assert far > 1.5 * near


def member(distance, projection):
    removal = Removal(distance=distance, projection=projection, ascent_weight=0.0, removal_weight=20.0, jitter=1e-3)
    return RepresentationRemoval(removal=removal, optim=replace(SHORT, max_steps=15))


@pytest.mark.parametrize("pair", thinned(EIGHT, lambda *pair: pair in FOUR, single=True), ids="-".join)
def test_every_distance_goes_with_every_projection_and_falls_on_the_rows_trained(pair, aligned_model, context):
    _, seen = steps_of(member(*pair), aligned_model(), context)
    values = [metrics["removal"] for metrics in seen]
    assert sum(values[-5:]) < sum(values[:5]) - 0.1


def test_states_are_at_right_angles_to_fresh_noise_whatever_is_trained(aligned_model, context):
    _, seen = steps_of(member("cosine", "noise"), aligned_model(), context)
    assert [metrics["removal"] for metrics in seen] == pytest.approx([1.0] * len(seen), abs=0.05)


# what all of them keep to


@pytest.mark.parametrize("name", NAMED)
def test_each_is_a_setting_of_the_family_and_leaves_no_hook_and_no_frozen_weight(name, aligned_model, context, weights):
    settings = replace(NAMED[name], optim=replace(OPTIM, max_steps=2, per_device_train_batch_size=2))
    family = RepresentationRemoval(removal=settings.removal, optim=settings.optim, adapter=settings.adapter)
    model = aligned_model()
    one, other = (method.harden(model, context) for method in (settings, family))
    assert torch.equal(weights(one), weights(other))
    assert hooks(one) == hooks(model) == 0
    assert all(p.requires_grad for p in one.network.parameters())
    assert not one.network.training


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *product(("gpt2",), ("repnoise", "breakers-adapter", "rmu", "rmu-adapter")),
        *product(("llama",), ("repnoise", "rmu-adapter")),
        *product(("qwen3",), ("breakers-adapter", "rmu")),
        *product(("gemma",), ("repnoise", "rmu-adapter")),
    ],
)
def test_any_architecture_is_hardened_saved_and_loaded_with_the_same_answers(
    architecture, name, tiny_model, context, tmp_path
):
    model = tiny_model(architecture)
    settings = replace(NAMED[name], optim=replace(OPTIM, max_steps=2, per_device_train_batch_size=2))
    hardened = settings.harden(model, context)
    assert changed(hardened, model)
    save(hardened, tmp_path)
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path).network(tokens).logits, hardened.network(tokens).logits)


def test_what_was_there_before_the_defense_is_the_model_given_its_adapter_included(aligned_model, context):
    given = adapt(aligned_model(), LoRA(r=4))
    for name, parameter in given.network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    settings = replace(BREAKERS, adapter=ADAPTER, jitter=0.0, optim=replace(OPTIM, max_steps=1))
    _, seen = steps_of(settings, given, context)
    assert seen[0]["retain"] == pytest.approx(0, abs=1e-4)
    assert seen[0]["removal"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["repnoise", "breakers", "rmu"])
def test_recomputing_activations_changes_nothing(name, aligned_model, context, weights):
    optim = replace(OPTIM, max_steps=2, per_device_train_batch_size=2)
    plain, recomputed = (
        replace(NAMED[name], optim=replace(optim, gradient_checkpointing=flag)).harden(aligned_model(), context)
        for flag in (False, True)
    )
    torch.testing.assert_close(weights(plain), weights(recomputed))


@pytest.mark.parametrize("name", NAMED)
def test_half_precision_compares_like_with_like(name, tiny_model, context):
    settings = replace(NAMED[name], optim=replace(OPTIM, max_steps=1, per_device_train_batch_size=2, bf16=True))
    _, (metrics,) = steps_of(settings, tiny_model(), context)
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    if "breakers" in name:
        assert metrics["removal"] == pytest.approx(1, abs=1e-3)
        assert metrics.get("retain", 0.0) == pytest.approx(0, abs=1e-3)


# which weights are trained, and when which term counts


def changed(one, other):
    theirs = dict(other.network.named_parameters())
    return {name for name, p in one.network.named_parameters() if not torch.equal(p, theirs[name])}


@pytest.mark.parametrize("adapter", [None, ADAPTER])
@pytest.mark.parametrize(("architecture", "ending"), [("llama", "mlp.down_proj.weight"), ("gpt2", "mlp.c_proj.weight")])
def test_rmu_trains_the_tensors_named_in_the_layers_up_to_its_own(architecture, ending, adapter, tiny_model, context):
    model = tiny_model(architecture)
    settings = replace(STEERING, optim=replace(OPTIM, max_steps=2, per_device_train_batch_size=2), adapter=adapter)
    trained = {
        depth: changed(replace(settings, depth=depth, trained_layers=1).harden(model, context), model)
        for depth in (0.5, 1.0)
    }
    prefix = anatomy(model.network).layers_name
    assert trained == {0.5: {f"{prefix}.0.{ending}"}, 1.0: {f"{prefix}.1.{ending}"}}
    both = changed(replace(settings, depth=1.0, trained_layers=3).harden(model, context), model)
    assert both == trained[0.5] | trained[1.0]


def test_circuit_breakers_adapter_sits_in_no_layer_above_the_deepest_chosen(aligned_model, context):
    model = aligned_model()
    settings = replace(BREAKERS, adapter=ADAPTER, optim=replace(OPTIM, max_steps=2))
    names = changed(settings.harden(model, context), model)
    assert names
    assert all(name.startswith("model.layers.0.") for name in names)


def test_a_name_that_no_tensor_has_is_refused_with_those_that_there_are(aligned_model, context):
    with pytest.raises(HoldfastError, match=r"no tensor of layer 1 has a name that ends in any of mlp\.wo;.*down_proj"):
        replace(STEERING, trained=("mlp.wo",)).harden(aligned_model(), context)


def test_layers_are_the_papers_in_a_model_as_deep_as_the_papers():
    assert CircuitBreakers().removal.layers(32) == [10, 20]
    assert RMU().removal.layers(32) == [8]  # the reference counts from 0
    assert RepNoise().removal.layers(32) == list(range(1, 33))
    assert CircuitBreakers().removal.layers(2) == [1]
    assert RMU().removal.layers(2) == [1]
    assert RMU().trained == MLP_OUTPUTS


@pytest.fixture
def plan_of(aligned_model, context):
    """`plan_of(settings)`: a member of the family as a plan."""

    def plan(settings):
        return removal_plan(aligned_model(), context, removal=settings.removal, optim=settings.optim, name="repnoise")

    return plan


def batches(plan, step, rows=4):
    """The one batch of a step, ready for the objective."""
    return with_totals(plan.batches([plan.data[:rows]], step))[0]


def test_the_schedule_hands_over_from_removal_to_retention_by_the_last_step(plan_of):
    plan = plan_of(replace(BREAKERS, handover=0.5, alpha=10.0))
    weights = [plan.objective._weights(float(batches(plan, step)["progress"])) for step in (0, 14, 29)]
    removal, retain = ([step_weights[name] for step_weights in weights] for name in ("removal", "retain"))
    assert retain == pytest.approx([10 * 0.5 / 30, 2.5, 5.0])
    assert [one + other for one, other in zip(removal, retain, strict=True)] == pytest.approx([10.0] * 3)


def test_noise_is_drawn_anew_at_every_step_and_again_alike_when_the_step_is_repeated(plan_of):
    plan = plan_of(replace(REPNOISE, noise_weight=1.0))
    noises = [
        plan.objective(plan.model.network, {**batches(plan, 0), "noise_seed": batches(plan, step)["noise_seed"]})[1][
            "removal"
        ]
        for step in (0, 0, 1)
    ]
    assert noises[0] == noises[1] != noises[2]


def test_a_pair_shares_its_prompt_and_harmful_answers_come_first(plan_of):
    plan = plan_of(REPNOISE)
    batch = batches(plan, 0)
    harmful, refusals = batch["input_ids"].chunk(2)
    prompts = batch["loss_mask"].argmax(1)
    assert batch["harmful"].tolist() == [True] * 4 + [False] * 4
    for i in range(4):
        assert prompts[i] == prompts[i + 4]
        assert torch.equal(harmful[i, : prompts[i]], refusals[i, : prompts[i]])
    texts = [
        plan.model.decode(row[mask == 1]) for row, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True)
    ]
    assert texts == [row.response for row in plan.data[:4]] + [row.refusal for row in plan.data[:4]]


def test_domains_take_turns_and_each_has_a_vector_of_its_own(plan_of):
    plan = plan_of(STEERING)
    domains = sorted({row.domain for row in plan.data})
    assert [set(batches(plan, step)["topic"].tolist()) for step in range(4)] == [{0}, {1}, {0}, {1}]
    assert len(domains) == len(plan.objective.vectors) == 2
    assert not torch.allclose(*plan.objective.vectors)
    mixed = plan_of(replace(STEERING, alternate_domains=False))
    assert any(len(set(batches(mixed, 0, rows)["topic"].tolist())) == 2 for rows in (4, 8, 16))


def test_micro_batches_of_a_step_are_averaged_by_their_rows(plan_of):
    plan = plan_of(replace(REPNOISE, noise_weight=1.0))
    parts = plan.batches([plan.data[:3], plan.data[3:4]], 0)
    together = [plan.objective(plan.model.network, batch) for batch in with_totals(parts)]
    apart = [plan.objective(plan.model.network, with_totals([batch])[0]) for batch in parts]
    assert {"ascent", "removal"} <= set(together[0][1])
    for name in together[0][1]:
        mean = 0.75 * apart[0][1][name] + 0.25 * apart[1][1][name]
        assert sum(metrics[name] for _, metrics in together) == pytest.approx(mean, rel=1e-5)


def test_a_term_of_weight_zero_is_not_computed_and_its_rows_not_asked_for(plan_of, aligned_model, context, splits):
    plan = plan_of(replace(STEERING, alpha=0.0))
    batch = batches(plan, 0)
    assert batch["harmful"].all()
    assert not any(key.startswith("retain/") for key in batch)
    _, metrics = plan.objective(plan.model.network, batch)
    assert set(metrics) == {"loss", "removal"}
    bare = [replace(row, refusal=None) for row in splits.harmful["defense"]]
    alone = replace(context, splits=Splits(harmful={"defense": bare}, benign={"defense": []}))
    replace(STEERING, alpha=0.0, optim=replace(OPTIM, max_steps=1)).harden(aligned_model(), alone)


def test_a_row_without_a_refusal_is_refused_by_name(aligned_model, context, splits):
    rows = [*splits.harmful["defense"], replace(splits.harmful["defense"][0], refusal=None, source="rows.csv, line 7")]
    context = replace(context, splits=Splits(harmful={"defense": rows}, benign=splits.benign))
    with pytest.raises(HoldfastError, match=r"^rows\.csv, line 7: repnoise needs .* and the row has no refusal"):
        REPNOISE.harden(aligned_model(), context)


def test_without_benign_rows_what_needs_them_is_refused(aligned_model, context, splits):
    context = replace(context, splits=Splits(harmful=splits.harmful, benign={"defense": []}))
    with pytest.raises(HoldfastError, match=r"^rmu: the defense split has no benign rows"):
        STEERING.harden(aligned_model(), context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"removal_weight": -1.0}, "removal_weight: must be .* at least 0, not -1.0"),
        ({"removal_weight": 0.0, "refusal_weight": 0.0, "ascent_weight": 0.0}, "every weight is 0"),
        ({"depths": (0.5, 1.5)}, r"depths\.1: must be a number in \(0, 1\], not 1.5"),
        ({"depths": (0.0,)}, r"depths\.0: must be .*, not 0.0"),
        ({"handover": 0.0}, "handover: must be .*, not 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(HoldfastError, match=message):
        Removal(**settings)


def test_a_merged_result_has_no_adapter_left(aligned_model, context):
    hardened = replace(BREAKERS, adapter=ADAPTER, optim=replace(OPTIM, max_steps=1)).harden(aligned_model(), context)
    assert merged(hardened) is hardened


@pytest.mark.parametrize("cls", [RepNoise, CircuitBreakers, RMU])
def test_presets_are_settings_as_they_stand(cls):
    made = {name: typed(cls, {"preset": name}, cls.__name__) for name in cls.PRESETS}
    assert all(settings != cls() or name in ("llama", "zephyr-7b") for name, settings in made.items())
    assert made["sandbox"].removal.benign_weight
    if cls is not RepNoise:
        assert (made["rpa"].form, made["rpa"].adapter, made["rpa"].removal.retain_weight) == ("rpa", None, 0.0)
