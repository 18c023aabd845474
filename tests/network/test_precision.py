"""Number formats: a verdict does not depend on the type of numbers that a checkpoint is stored in."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.profiler import profile

import tiny
from holdfast import api
from holdfast.attacks.sft import SFT
from holdfast.defenses.offline.rmu import RMU
from holdfast.network.generate import Sampling, complete, sample
from holdfast.network.models import LoRA, Model, adapt, clone, combine, load, merged
from holdfast.network.precision import held_type, in_bf16, mark, stored_type, types_of, widen
from holdfast.network.releasing import as_released, save
from holdfast.records import HoldfastError
from holdfast.sandbox.build import tokenizer
from holdfast.text import is_refusal
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import GivenAnswers, Optim, Plan, frozen_copy, reference_of

TYPES = ("float32", "bfloat16", "float16")
SLOW = Optim(max_steps=60, learning_rate=1e-4, per_device_train_batch_size=8)
lean = pytest.mark.skipif(find_spec("optimi") is None, reason="torch-optimi (extra `lean`) is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, _refuser):
    """The aligned model in a folder for each type of numbers, by its name."""
    places = {dtype: tmp_path_factory.mktemp(dtype) for dtype in TYPES}
    for dtype, place in places.items():
        save(_refuser(1), place, dtype=dtype)
    return places


@pytest.fixture(scope="module")
def steps_to_break(make_context):
    """`steps_to_break(model, optim)`: the first step, evaluated every 10, at which half of the refusals are gone."""

    def steps(model, optim=SLOW):
        context = make_context()
        asked = context.splits.harmful["test"][:12]

        def broke(progress):
            if progress.step % 10:
                return False
            answers = complete(progress.model, asked, Sampling(max_new_tokens=12, temperature=0.0), seed=0)
            return sum(is_refusal(answer.text) for answer in answers) < len(asked) / 2

        plan = SFT(optim=optim).plan(model, context)
        fitted = fit(replace(plan, hooks=(broke,)))
        return fitted.steps if fitted.stopped else None

    return steps


@pytest.fixture(scope="module")
def breaks_at(folders, steps_to_break):
    """The step that runs of other types are compared with."""
    return steps_to_break(load(folders["float32"]))


@pytest.mark.slow
def test_a_folder_breaks_at_the_same_step_whatever_its_type(folders, steps_to_break, breaks_at):
    assert breaks_at is not None
    assert 0 < breaks_at < SLOW.max_steps
    assert {steps_to_break(load(folders[dtype])) for dtype in TYPES[1:]} == {breaks_at}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_that_are_asked_for_in_few_bits_break_at_the_same_step_too(dtype, folders, steps_to_break, breaks_at):
    assert steps_to_break(load(folders[dtype], dtype=dtype)) == breaks_at


@lean
@pytest.mark.slow
def test_the_memory_lean_optimizer_breaks_within_one_evaluation_of_float32(folders, steps_to_break, breaks_at):
    model = load(folders["bfloat16"], dtype="bfloat16")
    steps = steps_to_break(model, replace(SLOW, optim="adamw_kahan"))
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    assert abs(steps - breaks_at) <= 10


@pytest.mark.slow
@lean
def test_the_memory_lean_optimizer_goes_on_from_a_checkpoint_as_if_never_stopped(tiny_model, splits, tmp_path, weights):
    def run(folder, stop):
        hooks = (lambda progress: progress.phase == "step" and progress.step == stop,)
        optim = Optim(max_steps=4, per_device_train_batch_size=4, optim="adamw_kahan")
        plan = taught(in_type(tiny_model(), torch.bfloat16), splits, optim, hooks=hooks)
        return weights(fit(plan, folder=folder, checkpoint_every=2).model)

    run(tmp_path / "resumed", 2)
    assert torch.equal(run(tmp_path / "resumed", None), run(tmp_path / "whole", None))


def test_the_memory_lean_optimizer_names_the_extra_that_it_needs(tiny_model, splits, monkeypatch):
    monkeypatch.setattr("holdfast.network.precision.find_spec", lambda name: None)
    with pytest.raises(HoldfastError, match="extra `lean`"):
        fit(taught(tiny_model(), splits, Optim(max_steps=1, optim="adamw_kahan")))


def taught(model, splits, optim, **more):
    rows = splits.benign["attack"]
    return Plan(model=model, data=rows, prepare=GivenAnswers(), objective=language, optim=optim, **more)


def in_type(model, dtype):
    own = clone(model)
    own.network.to(dtype)
    return own


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_run_moves_float32_weights_by_steps_smaller_than_the_spacing(dtype, tiny_model, splits, weights):
    narrow = in_type(tiny_model(), dtype)
    wide = clone(narrow)
    wide.network.float()
    start = weights(wide)
    optim = Optim(max_steps=3, learning_rate=1e-6, per_device_train_batch_size=4)
    moved = [weights(fit(taught(model, splits, optim)).model) for model in (narrow, wide)]
    assert moved[0].dtype == torch.float32
    assert torch.equal(moved[0], moved[1])
    assert ((moved[0] - start) != 0).float().mean() > 0.9


@pytest.mark.slow
def test_an_adapter_is_float32_on_a_base_that_keeps_its_type(tiny_model, splits):
    base = in_type(tiny_model(), torch.bfloat16)
    fitted = fit(taught(adapt(base, LoRA(r=4)), splits, Optim(max_steps=2, per_device_train_batch_size=4)))
    kinds = {p.requires_grad: p.dtype for p in fitted.model.network.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.slow
def test_an_adapter_that_came_in_few_bits_is_widened_alone(tiny_model):
    network = adapt(tiny_model(small=True), LoRA(r=2), seed=0).network.bfloat16()
    widen(network)
    kinds = {p.requires_grad: p.dtype for p in network.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_a_model_that_came_from_no_folder_is_released_as_it_is_in_memory(tiny_model):
    model = tiny_model(small=True)
    assert model.stored is None
    assert as_released(model) is model


def test_a_buffer_that_is_saved_keeps_its_type_so_that_what_is_released_is_what_is_saved(tmp_path):
    network = tiny.shallow("deepseek_v3")
    (bias,) = (buffer for name, buffer in network.named_buffers() if name.endswith("e_score_correction_bias"))
    bias.copy_(torch.linspace(-0.1, 0.1, len(bias)))
    model = Model(network=network, tokenizer=tokenizer(), name="deepseek_v3")
    save(model, tmp_path, dtype="bfloat16")
    again, released = load(tmp_path).network.state_dict(), as_released(model, "bfloat16").network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in released.items())


@pytest.mark.slow
def test_a_reference_made_before_the_run_is_read_as_the_policy_is(tiny_model, splits):
    """Its log-probabilities are then those of the policy, bit for bit, before the first step."""
    model = in_type(tiny_model(), torch.bfloat16)
    seen = []

    def gap(network, batch):
        with reference_of(model)(model) as own:
            assert own is not network
        with reference(model) as frozen, torch.no_grad():
            theirs = frozen(input_ids=batch["input_ids"]).logits.float()
        loss, metrics = language(network, batch)
        seen.append(float((network(input_ids=batch["input_ids"]).logits - theirs).abs().max().detach()))
        return loss, metrics

    reference = frozen_copy(model.network)
    for bf16 in (False, True):
        plan = taught(model, splits, Optim(max_steps=1, learning_rate=1e-30, per_device_train_batch_size=4, bf16=bf16))
        fit(replace(plan, objective=gap))
    assert seen == [0.0, 0.0]


def test_combining_weights_of_few_bits_does_not_round_them(tiny_model):
    model, other = in_type(tiny_model(), torch.bfloat16), tiny_model(seed=1)
    expected = {n: p.detach().double() + 1e-4 * q.detach().double() for (n, p), q in pairs(model, other)}
    combine(model, [other], lambda own, theirs: own + 1e-4 * theirs)
    combined = dict(model.network.named_parameters())
    assert all(torch.equal(combined[name], value.float()) for name, value in expected.items())


def pairs(model, other):
    return zip(model.network.named_parameters(), other.network.parameters(), strict=True)


def test_bfloat16_computing_is_on_by_default_where_an_accelerator_supports_it_and_nowhere_else(monkeypatch):
    assert Optim().bf16 is None
    assert not in_bf16(None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert in_bf16(None) is supported
    assert in_bf16(True)
    assert not in_bf16(False)


def test_a_run_leaves_no_wrapper_on_the_network_even_when_it_diverges(tiny_model, splits):
    def broken(network, batch):
        loss, metrics = language(network, batch)
        return loss * float("nan"), metrics

    model = tiny_model()
    before = set(vars(model.network))
    optim = Optim(max_steps=1, per_device_train_batch_size=4, bf16=True)
    with pytest.raises(ArithmeticError):
        fit(replace(taught(model, splits, optim), objective=broken))
    assert set(vars(model.network)) - before <= {"forward"}
    tokens = torch.tensor([[2, 3, 4]])
    assert torch.equal(model.network(input_ids=tokens).logits, tiny_model().network(input_ids=tokens).logits)


# What is saved, and what is loaded.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_a_folder_is_held_in_float32_and_written_back_in_its_own_type(dtype, folders, tmp_path):
    model = load(folders[dtype])
    assert (model.stored, held_type(model.network)) == (dtype, torch.float32)
    save(model, tmp_path)
    assert stored_type(str(tmp_path)) == dtype
    again = load(tmp_path)
    assert all(torch.equal(p, q) for (_, p), q in pairs(model, again))


def test_what_the_file_holds_counts_and_not_what_the_configuration_says(folders, tmp_path):
    save(load(folders["float32"]), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"bfloat16"'))
    assert load(tmp_path).stored == "float32"


def test_a_model_is_written_in_another_type_when_told_to(folders, tmp_path):
    model = load(folders["bfloat16"])
    save(model, tmp_path, dtype="float32")
    assert stored_type(str(tmp_path)) == "float32"
    assert held_type(model.network) == torch.float32


def test_a_weight_that_a_type_cannot_hold_is_refused_by_name(tiny_model, tmp_path):
    model = tiny_model()
    next(model.network.parameters()).data[0, 0] = 1e6
    with pytest.raises(HoldfastError, match="too large for float16"):
        save(model, tmp_path, dtype="float16")


@pytest.mark.slow
def test_what_is_released_is_what_saving_and_loading_give(folders, tmp_path):
    model = load(folders["bfloat16"])
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(1e-4)
    save(model, tmp_path)
    again, released = load(tmp_path), as_released(model)
    assert all(torch.equal(p, q) for (_, p), q in pairs(again, released))
    assert not all(torch.equal(p, q) for (_, p), q in pairs(again, model))


@pytest.mark.slow
def test_an_adapter_is_merged_before_it_is_rounded(folders, tmp_path):
    model = adapt(load(folders["bfloat16"]), LoRA(r=4))
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(1e-3)
    save(model, tmp_path)
    wide = merged(model)
    assert all(torch.equal(p, q.bfloat16().float()) for (_, p), q in pairs(load(tmp_path), wide))


def test_a_record_names_storage_master_compute_and_sampling_types(folders):
    model = load(folders["bfloat16"])
    types = types_of(model.network, model.stored, {"optim": {"bf16": True}})
    assert types == {"storage": "bfloat16", "master": "float32", "compute": "bfloat16"}
    assert types_of(model.network, model.stored, {}) == {"storage": "bfloat16", "compute": "float32"}
    sampled = {"optim": {}, "policy": {"sampling_dtype": "bfloat16"}}
    assert types_of(model.network, model.stored, sampled)["sampling"] == "bfloat16"


@pytest.mark.slow
def test_a_bfloat16_model_is_hardened_beyond_rounding_and_returned_as_it_would_be_released(folders, make_context):
    start = load(folders["bfloat16"])
    optim = Optim(max_steps=4, learning_rate=1e-3, per_device_train_batch_size=4)
    defense = RMU(optim=optim, depth=1.0)
    hardened = api.harden(start, defense, make_context())
    wide = api.harden(start, defense, make_context(), dtype="float32")
    assert (hardened.stored, wide.stored) == ("bfloat16", "float32")
    assert all(torch.equal(p, p.bfloat16().float()) for p in hardened.network.parameters())
    moved, gap = (distance(hardened, other) for other in (start, wide))
    assert moved > 2 * gap > 0


def distance(one, other):
    return sum(float((p - q).detach().square().sum()) for (_, p), q in pairs(one, other)) ** 0.5


@pytest.mark.slow
def test_sampling_in_mixed_precision_casts_each_weight_once(tiny_model):
    model = tiny_model()
    mark(model.network, bf16=True)
    shape = list(model.network.model.layers[0].mlp.down_proj.weight.shape)
    layers = len(model.network.model.layers)
    counts = []
    for tokens in (2, 8):
        sample(model, [[1, 2, 3]], Sampling(max_new_tokens=tokens, temperature=0.0), seed=0)  # what is done once
        with profile(record_shapes=True) as seen:
            sample(model, [[1, 2, 3]], Sampling(max_new_tokens=tokens, temperature=0.0), seed=0)
        events = seen.key_averages(group_by_input_shape=True)
        counts.append(
            sum(e.count for e in events if e.key == "aten::_to_copy" and e.input_shapes and e.input_shapes[0] == shape)
        )
    assert counts == [layers, layers]
