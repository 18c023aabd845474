"""Decoding in recorded steps: what plain sampling samples, whatever is recorded, and plainly where it cannot be."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from graph_tape import Tape, Tapes

from holdfast.experiment.machine import environment
from holdfast.network import capturing, static_decoding, static_use
from holdfast.network.anatomy import unwrapped
from holdfast.network.capturing import NothingWaits, Waits, state_of
from holdfast.network.flops import Meter
from holdfast.network.generate import DROP_SHARE, Sampling, SamplingError, sample
from holdfast.network.models import LoRA, Model, adapt
from holdfast.network.precision import mark
from holdfast.network.shortcuts import shortcuts
from holdfast.network.static_buffers import rounded_up
from holdfast.network.static_use import is_in_use, static_reasons
from holdfast.sandbox.build import tokenizer
from holdfast.tensors import token_logprobs
from repeated import repeated
from tiny import shallow

pytestmark = pytest.mark.slow

DIFFERENT = ("llama", "gpt2", "mistral", "gemma2", "mixtral")  # positions, windows in all or some layers, experts
FURTHER = (
    *("qwen2", "qwen3", "gemma", "phi3", "gpt_neox", "falcon", "olmo2", "smollm3", "opt"),
    *("gemma3_text", "qwen3_moe", "gpt_oss", "deepseek_v3"),
)
UNFIT = {"mamba": "LinearAttentionLayer", "jamba": "LinearAttentionLayer", "bloom": "ValueError", "rwkv": "cache"}
PROMPTS = ([5, 9, 31, 40], [7, 8, 11, 12, 13, 14, 15, 16, 17, 21, 22], [50])
LONG = Sampling(max_new_tokens=24)


def model(name="llama"):
    wrapped = Model(network=shallow(name), tokenizer=tokenizer(), name=name)
    with torch.no_grad():  # an end that is likely, so that answers leave at different lengths
        wrapped.network.get_output_embeddings().weight *= 0.3
    return wrapped


@pytest.fixture(autouse=True)
def _turned_on(monkeypatch):
    monkeypatch.setenv(static_use.VARIABLE, "1")


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(static_use, "_problems", weakref.WeakKeyDictionary())
    monkeypatch.setattr(static_use, "_of_network", weakref.WeakKeyDictionary())
    monkeypatch.setattr(static_use, "_warned", weakref.WeakSet())


@pytest.fixture
def tapes(monkeypatch):
    """Recorded steps on the CPU, as on CUDA."""
    made = Tapes()
    monkeypatch.setattr(static_decoding, "recorder", lambda device: made)
    return made


def steadily(tested, sampling=LONG, *, prompts=PROMPTS, repeats=6, seed=3, tried=False):
    """Answers in steps of fixed shape; an error if they were not used. Without a trial, which takes most of the time,
    unless it is to be `tried`."""
    if not tried:
        static_use._problems.setdefault(unwrapped(tested.network), "")
    static_use.DEVICES.add("cpu")
    try:
        answers = sample(tested, prompts, sampling, seed=seed, repeats=repeats, logprobs=True)
    finally:
        static_use.DEVICES.discard("cpu")
    assert is_in_use(tested.network), static_reasons(tested.network)
    return answers


def sample_on_any_device(tested, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(static_use, "DEVICES", {"cpu"})
        return plainly(tested)


def plainly(tested, sampling=LONG, *, prompts=PROMPTS, repeats=6, seed=3):
    return sample(tested, prompts, sampling, seed=seed, repeats=repeats, logprobs=True)


def assert_same(steady, plain, tolerance=1e-5):
    assert [answer[:2] for answer in steady] == [answer[:2] for answer in plain]
    for one, other in zip(steady, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=tolerance)


@pytest.mark.parametrize("name", [*DIFFERENT, *repeated(*FURTHER)])
def test_recorded_steps_sample_what_plain_sampling_does(name, tapes):
    """With prompts of unlike length, windows of 8 tokens, and answers that end at different lengths."""
    tested = model(name)
    plain = plainly(tested)
    assert len({len(answer.tokens) for answer in plain}) > 3
    assert_same(steadily(tested, tried=True), plain)
    assert sum(tape.repeated for tape in tapes.made) > 20
    assert not static_reasons(tested.network)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=24, temperature=0.0),
        Sampling(max_new_tokens=24, temperature=1.7, top_k=5),
        Sampling(max_new_tokens=24, temperature=0.8, top_p=0.7),
    ],
)
def test_every_way_of_drawing_is_the_plain_one(sampling, tapes):
    tested = model()
    assert_same(steadily(tested, sampling), plainly(tested, sampling))


@pytest.mark.parametrize("repeats", [1, [2, 4, 3]])
def test_each_prompt_may_have_a_number_of_answers_of_its_own(repeats, tapes):
    tested = model()
    assert_same(steadily(tested, repeats=repeats), plainly(tested, repeats=repeats))


def test_prompts_of_equal_length_need_no_padding(tapes):
    tested, prompts = model("gemma2"), ([5, 9, 31, 40], [7, 8, 11, 12])
    assert_same(steadily(tested, prompts=prompts), plainly(tested, prompts=prompts))


def test_without_recording_the_same_steps_are_called():
    tested = model()
    assert_same(steadily(tested), plainly(tested))


@pytest.mark.parametrize("checked", [1, 3, 100])
def test_when_finished_rows_leave_changes_no_answer(checked, tapes, monkeypatch):
    tested = model()
    monkeypatch.setattr(static_decoding, "CHECKED", checked)
    monkeypatch.setattr(static_decoding, "LEAST_ROWS", 1)
    assert_same(steadily(tested, repeats=7), plainly(tested, repeats=7))
    shapes = {key[0] for key in static_use._of_network[tested.network].steps}
    assert len(shapes) > 1 or checked == 100


def test_many_kinds_of_steps_are_let_go_of_and_recorded_anew(tapes, monkeypatch):
    tested = model()
    monkeypatch.setattr(static_decoding, "MOST_STEPS", 1)
    monkeypatch.setattr(static_decoding, "CHECKED", 1)
    monkeypatch.setattr(static_decoding, "LEAST_ROWS", 1)
    assert_same(steadily(tested, repeats=7), plainly(tested, repeats=7))
    assert len(static_use._of_network[tested.network].steps) == 1
    assert len(tapes.made) > 1


def test_too_little_memory_is_not_taken_for_a_step_that_cannot_be_recorded(tapes, monkeypatch):
    def none(self, *_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(static_use.Probe, "followed", none)
    with pytest.raises(torch.OutOfMemoryError):
        static_use._trial(model().network)


def test_nothing_is_read_long_after_the_last_answer_has_ended(tapes):
    tested = model()
    (free, *_) = plainly(tested, Sampling(max_new_tokens=24, temperature=0.0), prompts=PROMPTS[:1], repeats=1)
    tested.network.generation_config.eos_token_id = [tested.end_id, free.tokens[0]]
    steadily(tested, Sampling(max_new_tokens=200, temperature=0.0), prompts=PROMPTS[:1], repeats=1)
    tapes.made.clear()
    steadily(tested, Sampling(max_new_tokens=200, temperature=0.0), prompts=PROMPTS[:1], repeats=1)
    assert not tapes.made


def test_recorded_steps_follow_weights_that_change_in_place(tapes):
    tested = model()
    first = steadily(tested, repeats=1)
    recorded = len(tapes.made)
    with torch.no_grad():
        for weight in tested.network.parameters():
            weight.mul_(1.3).add_(0.01)
    changed = plainly(tested, repeats=1)
    assert [answer.tokens for answer in changed] != [answer.tokens for answer in first]
    assert_same(steadily(tested, repeats=1), changed)
    assert len(tapes.made) == recorded


def test_weights_in_another_place_are_recorded_anew(tapes):
    tested = model()
    steadily(tested)
    before = state_of(tested.network)
    head = tested.network.get_output_embeddings().weight
    kept = head.data
    head.data = kept * -0.5
    assert state_of(tested.network) != before
    recorded = len(tapes.made)
    assert_same(steadily(tested), plainly(tested))
    assert len(tapes.made) > recorded


def test_an_adapter_that_is_switched_off_is_recorded_anew(tapes):
    tested = adapt(model(), LoRA(r=4), seed=0)
    with torch.no_grad():
        for name, weight in tested.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    adapted = plainly(tested)
    assert_same(steadily(tested), adapted)
    with tested.network.disable_adapter():
        bare = plainly(tested)
        assert [answer.tokens for answer in bare] != [answer.tokens for answer in adapted]
        assert_same(steadily(tested), bare)
    assert_same(steadily(tested), adapted)


def test_longer_prompts_and_more_answers_find_room(tapes):
    tested = model()
    long = ([5 + i % 50 for i in range(120)], [9])
    for prompts, repeats in ((PROMPTS, 2), (long, 9), (PROMPTS, 2)):
        assert_same(
            steadily(tested, prompts=prompts, repeats=repeats), plainly(tested, prompts=prompts, repeats=repeats)
        )


@pytest.mark.parametrize("width", [128, 512, 4096])
def test_masked_columns_change_log_probabilities_by_rounding_only(width, tapes, monkeypatch):
    """Each is a term 0 of a sum: how it is split into partial sums differs, of which float32 shows the last digit."""
    tested = model()
    monkeypatch.setattr(static_decoding, "LEAST_COLUMNS", width)
    assert_same(steadily(tested), plainly(tested), tolerance=5e-6)


def test_half_precision_differs_by_rounding(tapes):
    """Tokens may then differ, so each answer's log-probabilities are compared with a pass over that very answer."""
    tested = model()
    tested.network.to(torch.bfloat16)
    answers = iter(steadily(tested, repeats=3))
    for prompt in PROMPTS:
        for answer in (next(answers) for _ in range(3)):
            ids = torch.tensor([[*prompt, *answer.tokens]])
            with torch.no_grad():
                wanted = token_logprobs(tested.network(ids, use_cache=False).logits, ids)[0, len(prompt) - 1 :]
            assert answer.logprobs == pytest.approx(wanted.tolist(), abs=0.05)


def test_computing_in_bfloat16_uses_copies_of_the_present_weights(tapes):
    """Equal up to rounding in bfloat16, before and after weights change in place, and steps are not recorded again."""
    tested = model()
    mark(tested.network, bf16=True)
    steadily(tested)
    for factor in (1.0, -1.0):
        with torch.no_grad():
            tested.network.get_output_embeddings().weight *= factor
        steady, plain = steadily(tested, repeats=1), plainly(tested, repeats=1)
        for one, other in zip(steady, plain, strict=True):
            assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=0.02)
            assert one.tokens[0] == other.tokens[0]
        recorded = len(tapes.made)
        steadily(tested, repeats=1)
        assert len(tapes.made) == recorded
    assert all(weight.dtype == torch.float32 for weight in tested.network.parameters())
    assert tested.network.lm_head.weight.requires_grad


def test_weights_that_only_autocast_casts_are_followed_too(tapes, monkeypatch):
    """Those that are no layer's: autocast's copies of them must not become constants of a recording."""
    tested, early = model(), Sampling(max_new_tokens=8)
    for layer in tested.network.model.layers:
        layer.mlp.register_parameter("own", torch.nn.Parameter(torch.eye(32)))
    inner = type(layer.mlp).forward
    monkeypatch.setattr(
        type(layer.mlp), "forward", lambda self, x: inner(self, torch.nn.functional.linear(x, self.own))
    )
    mark(tested.network, bf16=True)
    first = steadily(tested, early, repeats=1)
    recorded = len(tapes.made)
    with torch.no_grad():
        for layer in tested.network.model.layers:
            layer.mlp.own.mul_(-2)
    steady, plain = steadily(tested, early, repeats=1), plainly(tested, early, repeats=1)
    assert len(tapes.made) == recorded
    assert [answer.tokens for answer in first] != [answer.tokens for answer in plain]
    for one, other in zip(steady, plain, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.05)


@pytest.mark.parametrize(("context", "casts"), [(nullcontext, 1), (capturing.nothing_cast, 2)])
def test_a_recording_makes_its_own_copies_of_weights(context, casts):
    """Autocast's earlier copy of the weight is not used, so that the input and the weight are cast."""
    weight, numbers = torch.nn.Parameter(torch.eye(4)), torch.ones(2, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.nn.functional.linear(numbers, weight)
        with context(), Tape() as tape:
            torch.nn.functional.linear(numbers, weight)
    assert sum(func is torch.ops.aten._to_copy.default for func, *_ in tape.operations) == casts


@pytest.mark.parametrize("when", ["at once", "later"])
def test_logits_that_are_no_numbers_raise(when, tapes, monkeypatch):
    tested = model()
    steadily(tested)
    weight = tested.network.get_output_embeddings().weight
    kept = weight.detach().clone()
    if when == "at once":
        weight.data.fill_(torch.nan)
    else:
        real, calls = static_decoding.choose, []

        def choose(logits, *rest):
            calls.append(1)
            tokens, sound = real(logits, *rest)
            return tokens, sound & (len(calls) < 3)

        monkeypatch.setattr(static_decoding, "choose", choose)
        static_use._of_network.clear()
    with pytest.raises(SamplingError):
        steadily(tested)
    monkeypatch.undo()
    weight.data.copy_(kept)


@pytest.mark.parametrize("known", [True, False])
def test_after_numbers_that_are_not_finite_sampling_starts_afresh(known, tapes, monkeypatch):
    """Whether the network was tried before or not: nothing can be said of one that is not finite."""
    tested = model()
    plain = plainly(tested)
    if known:
        assert_same(steadily(tested, tried=True), plain)
    weight = tested.network.model.layers[0].self_attn.k_proj.weight
    kept = weight.detach().clone()
    weight.data.fill_(torch.nan)
    with pytest.raises(SamplingError):
        sample_on_any_device(tested, monkeypatch)
    weight.data.copy_(kept)
    assert_same(steadily(tested, tried=True), plain)


@pytest.mark.parametrize("name", ["mamba", "bloom", "rwkv", *repeated("jamba")])
def test_an_architecture_that_cannot_is_sampled_plainly_and_named(name, tapes):
    tested, few = model(name), {"sampling": Sampling(max_new_tokens=static_use.SHORTEST), "repeats": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shortcuts(tested.network)  # which may warn too
    static_use.DEVICES.add("cpu")
    try:
        with pytest.warns(UserWarning, match="sampled without CUDA graphs"):
            answers = plainly(tested, **few)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plainly(tested, **few)
    finally:
        static_use.DEVICES.discard("cpu")
    assert answers == plainly(tested, **few)
    (reason,) = environment(tested.network)["reading"][-1:]
    assert UNFIT[name] in reason
    assert not tapes.made


def test_a_network_that_is_watched_is_sampled_plainly_for_so_long(tapes):
    tested, seen = model(), []
    plain = plainly(tested)
    steadily(tested)
    handle = tested.network.model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    repeated = sum(tape.repeated for tape in tapes.made)
    with pytest.warns(UserWarning, match="hooks"):
        assert_same(steadily(tested), plain)
    assert len(seen) > 10
    handle.remove()
    assert sum(tape.repeated for tape in tapes.made) == repeated
    assert_same(steadily(tested), plain)
    assert sum(tape.repeated for tape in tapes.made) > repeated


@pytest.mark.parametrize("sampling", [LONG, Sampling(max_new_tokens=7)])
def test_the_setting_and_short_answers_need_no_recording(sampling, tapes, monkeypatch):
    tested = model()
    static_use.DEVICES.add("cpu")
    try:
        if sampling is LONG:
            monkeypatch.setenv("HOLDFAST_CUDA_GRAPHS", "0")
        plainly(tested, sampling)
    finally:
        static_use.DEVICES.discard("cpu")
    assert not tapes.made


def test_on_a_processor_nothing_is_recorded_unless_asked(tapes):
    tested = model()
    plainly(tested)
    assert not tapes.made
    assert tested.network not in static_use._of_network


@pytest.mark.parametrize("seed", [0, 3])
def test_operations_are_counted_as_in_plain_sampling(seed, tapes):
    tested, counts = model(), []
    steadily(tested)
    for way in (plainly, steadily):
        with Meter(pad_id=0).counting() as meter:
            way(tested, seed=seed)
            way(tested, seed=seed, repeats=1)
        counts.append(meter.flops)
    assert counts[0] == counts[1] > 0


def test_a_network_that_nobody_uses_is_let_go(tapes):
    tested = model()
    steadily(tested)
    gone = weakref.ref(tested.network)
    copy.deepcopy(tested.network)
    del tested
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "waiting",
    [lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 1], lambda x: x.nonzero(), torch.unique],
)
def test_what_waits_for_the_device_is_refused_on_any_device(waiting):
    with NothingWaits(), pytest.raises(Waits):
        waiting(torch.arange(4.0))


def test_what_does_not_wait_is_done():
    numbers = torch.arange(4.0)
    with NothingWaits():
        chosen = numbers[torch.tensor([1, 2])].masked_fill_(numbers[:2] > 0, 5.0)
    assert chosen.tolist() == [1.0, 5.0]


def test_a_step_that_waits_is_found_out_by_the_trial(tapes, monkeypatch):
    tested = model()
    mlp = type(tested.network.model.layers[0].mlp)
    inner = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: inner(self, x) * float(x.isfinite().all().item()))
    static_use.DEVICES.add("cpu")
    try:
        with pytest.warns(UserWarning, match="waits for the device"):
            plainly(tested)
    finally:
        static_use.DEVICES.discard("cpu")
    assert not tapes.made


def test_a_decision_of_python_that_would_be_repeated_is_found_out_by_the_trial(tapes, monkeypatch):
    """The mean of the layer's first numbers is read without an operation, so that it is a constant of the recording."""
    tested = model()
    mlp = type(tested.network.model.layers[0].mlp)
    inner = mlp.forward

    def forward(self, x):
        return inner(self, x) * (1.0 + sum(x.detach().numpy().ravel()[:5].tolist()))

    monkeypatch.setattr(mlp, "forward", forward)
    static_use.DEVICES.add("cpu")
    try:
        with pytest.warns(UserWarning, match="sampled without CUDA graphs"):
            plainly(tested)
    finally:
        static_use.DEVICES.discard("cpu")


def test_a_failure_while_recording_is_said_and_sampling_goes_on(monkeypatch):
    tested = model()

    def fail(step, restore):
        raise RuntimeError("operation not permitted when stream is capturing")

    steadily(tested)
    static_use._of_network.clear()
    monkeypatch.setattr(static_decoding, "recorder", lambda device: fail)
    static_use.DEVICES.add("cpu")
    try:
        with pytest.warns(UserWarning, match="not permitted"):
            answers = plainly(tested)
    finally:
        static_use.DEVICES.discard("cpu")
    assert answers == plainly(tested)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net.config.__setattr__("is_encoder_decoder", True), "encoder"),
        (lambda net: net.lm_head.weight.__setattr__("device_mesh", "mesh"), "sharded"),
        (lambda net: net.__setattr__("is_quantized", True), "quantised"),
        (lambda net: net.register_parameter("q", _integers()), "quantised"),
    ],
)
def test_networks_of_other_kinds_are_refused_by_name(change, reason):
    tested = shallow("llama")
    change(tested)
    assert reason in static_use._unfit(tested)


def test_wrappers_for_distributed_training_are_refused():
    class Wrapped(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert "distributed" in static_use._unfit(Wrapped(shallow("llama")))


def _integers():
    return torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)


def test_hooks_of_transformers_do_not_count():
    tested = shallow("llama")
    tested(torch.tensor([[5, 6]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in tested.modules())
    assert not capturing.has_hooks(tested)


def test_sizes_are_few():
    sizes = {rounded_up(number, 8) for number in range(1, 129)}
    assert sorted(sizes) == [8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert all(number <= rounded_up(number, 1) < max(2, 1.5 * number) for number in range(1, 200))


@pytest.mark.parametrize("room", [9, 12])  # the longest answer, and more
@pytest.mark.parametrize("share", [0.0, DROP_SHARE, 2.0])
def test_the_rows_that_plain_sampling_reads_are_counted_by_its_own_rule(share, room):
    lengths = [3, 9, 4, 4, 9, 1, 7, 2]
    total, rows = 0, list(lengths)
    for step in range(1, room):  # after token `step`
        finished = [length for length in rows if length <= step]
        if len(finished) == len(rows):
            break
        if len(finished) >= share * len(rows):
            rows = [length for length in rows if length > step]
        total += len(rows)
    ended = [sum(length <= step for length in lengths) for step in range(1, room + 1)]
    assert static_decoding.decoded_rows(ended, len(lengths), share) == total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", [*DIFFERENT, *repeated(*FURTHER)])
def test_cuda_graphs_sample_what_plain_sampling_does(name, monkeypatch):
    tested = model(name)
    tested.network.to("cuda")
    graphs = plainly(tested)
    assert is_in_use(tested.network), static_reasons(tested.network)
    monkeypatch.setenv("HOLDFAST_CUDA_GRAPHS", "0")
    assert_same(graphs, plainly(tested), tolerance=1e-4)
