"""What a network may be read by: caches that are ignored, lose their state or hold no gradients are found out."""

from __future__ import annotations

import errno
import warnings

import pytest
import torch
import transformers

import holdfast.network.generate
import holdfast.network.shortcuts
from holdfast.experiment.machine import environment
from holdfast.network.flops import Meter
from holdfast.network.forward import answer_logprobs, forward
from holdfast.network.generate import Answer, Sampling, SamplingError, draw, sample
from holdfast.network.models import Model
from holdfast.network.shortcuts import Shortcuts, shortcuts
from holdfast.records import HoldfastError
from holdfast.sandbox.build import tokenizer
from holdfast.tensors import collate
from repeated import repeated
from tiny import network, shallow, tiny_config

COMMON = ("llama", "gpt2", "gemma2", "mixtral")
STATES = ("mamba", "rwkv", "qwen3_next", "falcon_h1")  # alone, without a cache, beside attention, in the same layers
MORE_COMMON = (
    *("mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt_neox", "falcon"),
    *("qwen3_moe", "gpt_oss", "deepseek_v3", "olmo2", "smollm3"),
)
MORE_STATES = (
    *("mamba2", "falcon_mamba", "bamba", "lfm2", "qwen3_5_text", "jamba"),
    *("granitemoehybrid", "nemotron_h", "recurrent_gemma", "zamba2"),
)
PROMPTS = ([5, 9, 31, 40], [7, 8, 11, 12, 13, 14, 15, 16, 17, 21, 22], [50])
LLAMA = tiny_config("llama")
LLAMA.num_hidden_layers = 2
PLAIN = Shortcuts(cache=False, prefixes=False)
EVERYTHING = Shortcuts()


def model(name):
    wrapped = Model(network=shallow(name), tokenizer=tokenizer(), name=name)
    with torch.no_grad():  # an end that is likely, so that answers leave at different lengths
        wrapped.network.get_output_embeddings().weight *= 0.3
    return wrapped


def slowly(model, sampling, seed, repeats):
    """Answers one at a time, everything read anew for each token."""
    numbers = torch.rand(len(PROMPTS) * repeats, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    answers = []
    for i, row in enumerate(numbers):
        tokens, finished = [], False
        for number in row:
            text = [*PROMPTS[i // repeats], *tokens]
            with torch.no_grad():
                logits = model.network(torch.tensor([text]), use_cache=False).logits[:, -1]
            tokens.append(draw(logits, number[None], sampling).item())
            finished = tokens[-1] in model.stop_ids
            if finished:
                break
        answers.append(Answer(tokens, finished=finished))
    return answers


@pytest.fixture(autouse=True)
def _found_out_anew(monkeypatch):
    monkeypatch.setattr(holdfast.network.shortcuts, "_of_configuration", {})
    warnings.simplefilter("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMON, *STATES, *repeated(*MORE_COMMON, *MORE_STATES)])
def test_every_architecture_samples_what_a_slow_loop_would(name):
    """With prompts of unlike length, several answers to each, and answers that leave the batch.

    Common ones are read by every short cut.
    """
    tested, sampling = model(name), Sampling(max_new_tokens=6)
    assert sample(tested, PROMPTS, sampling, seed=3, repeats=2) == slowly(tested, sampling, 3, 2)
    assert name in (*STATES, *MORE_STATES) or shortcuts(tested.network) == EVERYTHING


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", *repeated("gpt2", "qwen3", "gemma")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_and_without_a_cache_the_same_tokens_are_sampled(name, temperature, monkeypatch):
    tested, sampling = model(name), Sampling(max_new_tokens=12, temperature=temperature)
    cached = sample(tested, PROMPTS, sampling, seed=2, repeats=[2, 4, 3], logprobs=True)
    monkeypatch.setattr(holdfast.network.generate, "shortcuts", lambda network: PLAIN)
    plain = sample(tested, PROMPTS, sampling, seed=2, repeats=[2, 4, 3], logprobs=True)
    assert [answer[:2] for answer in cached] == [answer[:2] for answer in plain]
    assert any(answer.finished for answer in plain) or temperature == 0
    for one, other in zip(cached, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def rows():
    groups = [([5, 9, 31, 40, 8], [11, 12, 2]), ([5, 9, 31, 40, 8], [13, 14, 15, 16, 17, 2]), ([7, 8, 9], [50, 51, 2])]
    return {**collate([*groups, ([7, 8, 9], [33, 2])], pad_id=0), "groups": torch.tensor([0, 0, 1, 1])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "mamba", "qwen3_next", "zamba", *repeated("mixtral", "bamba", "rwkv", "falcon_h1")]
)
def test_gradients_of_grouped_answers_are_the_plain_ones(name):
    tested, batch = shallow(name), rows()

    def gradients(batch):
        tested.zero_grad()
        mask = batch["loss_mask"][:, 1:]
        (answer_logprobs(tested, batch) * mask * torch.linspace(0.5, 1.5, mask.shape[1])).sum().backward()
        return {key: p.grad.clone() for key, p in tested.named_parameters() if p.grad is not None}

    grouped, plain = gradients(batch), gradients({key: value for key, value in batch.items() if key != "groups"})
    assert grouped.keys() == plain.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(grouped[key], gradient, rtol=2e-3, atol=2e-4 * float(gradient.abs().max() + 1e-6))


class IgnoresItsCache(transformers.LlamaForCausalLM):
    def forward(self, *args, past_key_values=None, position_ids=None, attention_mask=None, **named):
        return super().forward(*args, **named)


class ForgetsGradients(transformers.LlamaForCausalLM):
    def forward(self, *args, past_key_values=None, **named):
        for layer in past_key_values.layers if past_key_values is not None else ():
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return super().forward(*args, past_key_values=past_key_values, **named)


class LosesItsPastToSeveralTokens(transformers.LlamaForCausalLM):
    def forward(self, input_ids=None, past_key_values=None, **named):
        for layer in past_key_values.layers if past_key_values is not None else ():
            if layer.is_initialized and input_ids.shape[1] > 1:
                layer.keys, layer.values = layer.keys * 0, layer.values * 0
        return super().forward(input_ids=input_ids, past_key_values=past_key_values, **named)


class ReadsPadding(transformers.LlamaForCausalLM):
    def forward(self, *args, attention_mask=None, **named):
        return super().forward(*args, **named)


class CannotLeave(transformers.LlamaForCausalLM):
    def forward(self, input_ids=None, past_key_values=None, **named):
        if past_key_values is not None and past_key_values.get_seq_length() and len(input_ids) < 5:
            raise IndexError("a state of another size")
        return super().forward(input_ids=input_ids, past_key_values=past_key_values, **named)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cache", "prefixes", "said"),
    [
        (IgnoresItsCache, False, False, "not read as they are alone"),
        (ForgetsGradients, True, False, "gradients do not go back"),
        (LosesItsPastToSeveralTokens, True, False, "several tokens"),
        (ReadsPadding, False, True, "padded on the left"),
        (CannotLeave, False, False, "IndexError: a state of another size"),
    ],
)
def test_what_a_network_does_wrong_is_found_out_and_said(kind, cache, prefixes, said):
    working = shortcuts(kind(LLAMA).eval())
    assert (working.cache, working.prefixes) == (cache, prefixes)
    assert len(working.reasons) == 2 - cache - prefixes
    assert all(reason.startswith(kind.__name__) for reason in working.reasons)
    assert said in " ".join(working.reasons)


@pytest.mark.slow
def test_what_differs_is_said_once_for_a_configuration():
    config = LLAMA
    with pytest.warns(UserWarning, match="IgnoresItsCache: sampled without a cache, which is slower"):
        first = shortcuts(IgnoresItsCache(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shortcuts(IgnoresItsCache(config)) == first


@pytest.mark.slow
def test_what_a_large_network_can_be_read_by_is_kept_for_other_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(holdfast.network.shortcuts, "LARGE", 0)
    tried = []
    try_out = holdfast.network.shortcuts._working_shortcuts
    monkeypatch.setattr(
        holdfast.network.shortcuts, "_working_shortcuts", lambda *given: tried.append(given) or try_out(*given)
    )

    def in_a_new_process(name):
        monkeypatch.setattr(holdfast.network.shortcuts, "_of_configuration", {})
        return shortcuts(shallow(name))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = [in_a_new_process(name) for name in ("llama", "mamba")]
        assert [in_a_new_process(name) for name in ("llama", "mamba")] == first
    assert len(tried) == 2
    assert first[0] == EVERYTHING != first[1]
    for kept in tmp_path.glob("shortcuts/*.json"):
        kept.write_text("{")
    assert in_a_new_process("llama") == EVERYTHING
    assert len(tried) == 3


def test_a_full_disk_of_the_cache_costs_a_trial_and_no_run(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(holdfast.network.shortcuts, "LARGE", 0)
    monkeypatch.setattr(holdfast.network.shortcuts, "_of_configuration", {})
    monkeypatch.setattr(holdfast.network.shortcuts, "_working_shortcuts", lambda *_: EVERYTHING)
    assert shortcuts(shallow("llama")) == EVERYTHING


@pytest.mark.slow
def test_a_record_says_what_a_network_could_not_be_read_by():
    faulty = IgnoresItsCache(LLAMA)
    assert "reading" not in environment(faulty)
    reasons = shortcuts(faulty).reasons
    assert len(reasons) == 2
    assert environment(faulty)["reading"] == list(reasons)
    assert "reading" not in environment(shallow("llama"))


def test_a_network_that_reads_what_comes_after_is_refused_by_name():
    with pytest.raises(HoldfastError, match="BertLMHeadModel: its logits depend on later tokens"):
        shortcuts(network("bert", is_decoder=False))


def test_a_network_that_cannot_be_read_is_refused_by_name():
    with pytest.raises(
        HoldfastError, match=r"^XmodForCausalLM: cannot be read as a language model of text \(ValueError"
    ):
        shortcuts(network("xmod"))


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_left_for_sampling_to_say_and_not_remembered():
    tested = shallow("llama")
    next(tested.parameters()).data.fill_(float("nan"))
    assert shortcuts(tested) == EVERYTHING
    broken = Model(network=tested, tokenizer=tokenizer(), name="broken")
    with pytest.raises(SamplingError):
        sample(broken, PROMPTS, Sampling(max_new_tokens=2), seed=0)
    assert holdfast.network.shortcuts._of_configuration == {}


@pytest.mark.slow
def test_finding_out_leaves_no_trace():
    tested = shallow("llama").train()
    weights = {key: p.detach().clone() for key, p in tested.named_parameters()}
    state = torch.get_rng_state()
    with Meter(0).counting() as meter:
        shortcuts(tested)
    assert meter.flops == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert tested.training
    assert all(p.grad is None and torch.equal(p, weights[key]) for key, p in tested.named_parameters())
    assert not any(part._forward_hooks for part in tested.modules())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", *repeated("qwen3_moe")])
def test_coarse_weights_are_not_taken_for_a_lost_state(name, dtype):
    assert shortcuts(shallow(name).to(dtype)) == EVERYTHING


@pytest.mark.slow
def test_coarse_weights_hide_no_lost_state():
    assert shortcuts(IgnoresItsCache(LLAMA).to(torch.bfloat16).eval()).cache is False


@pytest.mark.slow
def test_a_batch_in_groups_gives_the_plain_logits_where_prefixes_cannot_be_shared():
    tested, batch = network("zamba"), rows()
    assert not shortcuts(tested).prefixes
    with torch.no_grad():
        logits = forward(tested, batch)
        assert torch.equal(logits, tested(batch["input_ids"], use_cache=False).logits)


@pytest.mark.parametrize("probe", ["padded_and_alone", "sampled", "shared"])
def test_too_little_memory_is_not_taken_for_a_fault_of_the_architecture(probe, monkeypatch):
    def none(self):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(holdfast.network.shortcuts.Probe, probe, none)
    with pytest.raises(torch.OutOfMemoryError):
        holdfast.network.shortcuts._working_shortcuts(shallow("llama"), "model")
