"""The one map of a network's parts, on a small random model of each architecture."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import tiny
from holdfast.network.anatomy import anatomy, outputs_of, residual_stream, unwrapped
from holdfast.network.models import LoRA, Model, adapt, load
from holdfast.network.reach import check_lens, check_outputs
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.sandbox.build import tokenizer
from parts_of_layers import attentions, mlps
from repeated import repeated

LAYERS, HIDDEN = 3, 16
SHARED = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
MODERN = {
    **SHARED,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
HEADED = {**MODERN, "head_dim": 8}
CAPPED = {**HEADED, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 8}
GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_positions": 32, "initializer_range": 0.2}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**MODERN),
    "mistral": lambda: transformers.MistralConfig(**MODERN, sliding_window=8),
    "qwen2": lambda: transformers.Qwen2Config(**MODERN),
    "qwen3": lambda: transformers.Qwen3Config(**HEADED),
    "gemma": lambda: transformers.GemmaConfig(**HEADED),
    "gemma2": lambda: transformers.Gemma2Config(**CAPPED),
    "gemma3": lambda: transformers.Gemma3TextConfig(**CAPPED),
    "phi": lambda: transformers.PhiConfig(**MODERN),
    "phi3": lambda: transformers.Phi3Config(**MODERN),
    "granite": lambda: transformers.GraniteConfig(**MODERN, logits_scaling=3.0),
    "cohere": lambda: transformers.CohereConfig(**MODERN, logit_scale=0.25),
    "gpt2": lambda: transformers.GPT2Config(**SHARED, **GPT2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**{k: v for k, v in MODERN.items() if "key_value" not in k}),
}
TOKENS = torch.arange(24).view(2, 12) % 37 + 3


def network(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32).eval()


def model(name):
    return Model(network=network(name), tokenizer=tokenizer(), name=name)


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


DIFFERENT = ("llama", "gpt2", "phi")  # linear layers, convolutions of width 1, a head with a bias
FEW = pytest.mark.parametrize("name", [*DIFFERENT, *repeated(*(name for name in CONFIGS if name not in DIFFERENT))])


@pytest.mark.slow
def test_every_layer_has_its_mlp_and_its_attention_and_each_is_found_once(name):
    parts = anatomy(network(name))
    assert len(parts.layers) == len(mlps(parts)) == len(attentions(parts)) == LAYERS
    for layer, mlp, attention in zip(parts.layers, mlps(parts), attentions(parts), strict=True):
        own = set(layer.modules())
        assert mlp in own
        assert attention in own
        assert not set(mlp.modules()) & set(attention.modules())


@pytest.mark.slow
def test_weights_of_a_layer_carry_the_name_given(name):
    bare = network(name)
    parts = anatomy(bare)
    assert len(parts.layers) >= 2
    for i, layer in enumerate(parts.layers):
        named = {id(p) for key, p in bare.named_parameters() if key.startswith(f"{parts.layers_name}.{i}.")}
        assert named == {id(p) for p in layer.parameters()}


@pytest.mark.slow
def test_recorded_states_are_those_that_transformers_reports(name):
    bare = network(name)
    with torch.no_grad(), residual_stream(anatomy(bare)) as states:
        reported = bare(TOKENS, output_hidden_states=True).hidden_states
    assert len(states) == len(reported) == LAYERS + 1
    assert all(torch.equal(state, other) for state, other in zip(states, reported, strict=True))


@pytest.mark.slow
def test_the_lens_of_the_last_layer_is_the_models_own_answer(name):
    bare = network(name)
    parts = anatomy(bare)
    with torch.no_grad(), outputs_of([parts.layers[-1]]) as last, residual_stream(parts) as states:
        logits = bare(TOKENS).logits
        torch.testing.assert_close(parts.lens(last[0]), logits)
        torch.testing.assert_close(parts.head(states[-1]), logits)


@pytest.mark.slow
def test_mlps_and_attentions_put_out_what_the_stream_is_wide(name):
    bare = network(name)
    parts = anatomy(bare)
    with outputs_of([*mlps(parts), *attentions(parts)]) as outputs:
        bare(TOKENS)
    assert [tuple(state.shape) for state in outputs] == [(*TOKENS.shape, HIDDEN)] * (2 * LAYERS)
    assert all(state.requires_grad for state in outputs)
    assert len({tuple(state.flatten()[:8].tolist()) for state in outputs}) == 2 * LAYERS


@pytest.mark.slow
def test_hooks_are_gone_afterwards_also_when_the_forward_pass_fails(name):
    bare = network(name)
    parts = anatomy(bare)
    before = hooks(bare)
    with outputs_of(mlps(parts)), residual_stream(parts):
        bare(TOKENS)
        assert hooks(bare) == before + LAYERS + LAYERS + 1
    assert hooks(bare) == before
    with pytest.raises(IndexError), outputs_of(mlps(parts)), residual_stream(parts):
        bare(TOKENS + 1000)
    assert hooks(bare) == before


@pytest.mark.slow
@FEW
def test_the_parts_inside_an_adapter_are_those_of_the_model_itself(name):
    plain = model(name)
    with torch.no_grad(), residual_stream(anatomy(plain.network)) as before:
        logits = plain.network(TOKENS).logits
    adapted = adapt(plain, LoRA(r=2)).network
    parts = anatomy(adapted)
    assert unwrapped(adapted) is plain.network
    with torch.no_grad(), residual_stream(parts) as states:
        assert torch.equal(adapted(TOKENS).logits, logits)
    assert all(torch.equal(state, other) for state, other in zip(states, before, strict=True))
    assert any("lora" in key for key, _ in mlps(parts)[0].named_parameters())


def test_data_parallel_wrappers_are_seen_through():
    bare = network("llama")
    assert anatomy(torch.nn.DataParallel(bare)).layers == anatomy(bare).layers


@pytest.mark.slow
@FEW
@pytest.mark.parametrize("adapter", [None, LoRA(r=2, lora_alpha=2)])
def test_a_model_trained_for_a_step_on_recorded_outputs_gives_the_same_logits_when_saved_and_loaded(
    name, adapter, tmp_path
):
    trained = adapt(model(name), adapter)
    parts = anatomy(trained.network)
    optimizer = torch.optim.SGD([p for p in trained.network.parameters() if p.requires_grad], lr=0.05)
    with torch.no_grad():
        before = trained.network(TOKENS).logits
    for _ in range(2):  # an adapter's first step moves only one of its two factors
        with outputs_of(mlps(parts)) as outputs, residual_stream(parts) as states:
            trained.network(TOKENS)
        optimizer.zero_grad()
        sum(state.square().mean() for state in [*outputs, *states]).backward()
        optimizer.step()
    with torch.no_grad():
        logits = trained.network(TOKENS).logits
    assert not torch.allclose(logits, before)
    save(trained, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path).network(TOKENS).logits, logits, rtol=1e-4, atol=1e-5)


def test_gradients_through_recorded_outputs_survive_checkpointing_of_activations():
    def gradients(checkpointing):
        bare = network("llama").train()
        if checkpointing:
            (getattr(bare, "activation_checkpointing_enable", None) or bare.gradient_checkpointing_enable)()
        parts = anatomy(bare)
        with outputs_of(mlps(parts)) as outputs, residual_stream(parts) as states:
            bare(TOKENS, use_cache=False)
        sum(state.square().mean() for state in [*outputs, *states]).backward()
        return {key: p.grad for key, p in bare.named_parameters() if p.grad is not None}

    plain, saved = gradients(False), gradients(True)
    assert plain.keys() == saved.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(saved[key], gradient)


class Strange(torch.nn.Module):
    """What no architecture looks like, until parts are put in."""

    def __init__(self, **layer):
        super().__init__()
        self.model = torch.nn.Module()
        block = torch.nn.Module()
        for part in layer:
            block.add_module(part, torch.nn.Identity())
        self.model.layers = torch.nn.ModuleList([block])

    def get_output_embeddings(self):
        return torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("strange", "missing"),
    [
        (torch.nn.Linear(2, 2), r"^Linear: no decoder layers found \(looked for model\.layers"),
        (Strange(mlp=1, attn=1), r"^Strange: no final norm found \(looked for norm"),
    ],
)
def test_an_unknown_architecture_is_refused_with_the_name_of_what_is_not_there(strange, missing):
    with pytest.raises(HoldfastError, match=missing):
        anatomy(strange)


NEWER = {
    "qwen3_moe": (1, 1),
    "mixtral": (1, 1),
    "gpt_oss": (1, 1),
    "deepseek_v3": (1, 1),
    "granitemoe": (1, 1),
    "qwen3_next": (1, 1),
    "qwen3_5_text": (1, 1),
    "jamba": (1, 1),
    "bamba": (1, 1),
    "lfm2": (1, 1),
    "recurrent_gemma": (1, 1),
    "olmo_hybrid": (1, 1),
    "falcon_h1": (1, 2),
    "mamba": (0, 1),
    "mamba2": (0, 1),
    "falcon_mamba": (0, 1),
    "rwkv": (1, 1),
}
"""MLPs and mixers in each layer of newer architectures."""


@pytest.mark.slow
@pytest.mark.parametrize("newer", NEWER)
def test_mixtures_and_hybrids_have_their_parts_found_and_the_lens_is_their_own_answer(newer):
    bare, (has_mlps, mixers) = tiny.network(newer), NEWER[newer]
    parts = anatomy(bare)
    check_lens(bare)
    assert len(parts.layers) == 4
    assert len(parts.mixers) == 4 * mixers
    modules = [*(mlps(parts) if has_mlps else ()), *parts.mixers]
    assert len(set(modules)) == 4 * (has_mlps + mixers)
    with torch.no_grad(), outputs_of(modules) as states, residual_stream(parts) as stream:
        reported = bare(TOKENS, output_hidden_states=True, use_cache=False).hidden_states
    assert {tuple(state.shape) for state in states} == {(*TOKENS.shape, 32)}
    assert len(stream) == 5
    if newer not in ("mamba", "mamba2", "falcon_mamba", "rwkv"):  # those leave out what enters the first layer
        assert all(torch.equal(state, other) for state, other in zip(stream, reported, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("newer", "what", "message"),
    [
        (
            "mamba",
            "mlp",
            r"^MambaForCausalLM: no MLP in layer 0 found \(looked for mlp, .*; it has norm, mixer\); use a",
        ),
        ("qwen3_next", "attention", r"^Qwen3NextForCausalLM: no attention in layer 0 found .*it has linear_attn, mlp"),
        ("granitemoehybrid", "mlp", r"^GraniteMoeHybridForCausalLM: more than one MLP in layer 0"),
        ("opt", "mlp", r"^OPTForCausalLM: no MLP in layer 0"),
    ],
)
def test_a_part_that_an_architecture_lacks_is_missed_by_name_when_it_is_asked_for(newer, what, message):
    parts = anatomy(tiny.network(newer))
    assert len(parts.mixers) == 4
    with pytest.raises(HoldfastError, match=message):
        getattr(parts, what)(0)


def test_modules_that_put_out_no_state_for_each_token_are_refused_by_name():
    bare = tiny.network("llama4_text")
    check_outputs(bare, anatomy(bare).layers)
    with pytest.raises(HoldfastError, match=r"^Llama4ForCausalLM: Llama4TextMoe returns \(16, 32\) for 2 texts of 8"):
        check_outputs(bare, mlps(anatomy(bare)))


def test_a_network_that_does_more_to_its_states_than_the_map_knows_is_refused():
    bare = network("llama")
    check_lens(bare)
    bare.lm_head.register_forward_pre_hook(lambda module, inputs: (inputs[0].tanh(),))
    check_lens(bare)
    bare.config.final_logit_softcapping = 1.0  # which a Llama knows nothing of
    with pytest.raises(HoldfastError, match="LlamaForCausalLM: its last states under the final norm and the head"):
        check_lens(bare)


def test_a_model_without_a_language_head_is_refused():
    with pytest.raises(HoldfastError, match="no language-model head found"):
        anatomy(Headless())


class Headless(Strange):
    def get_output_embeddings(self):
        return None


def test_a_network_without_layers_is_refused_by_where_they_would_be(tiny_model):
    network = tiny_model(small=True).network
    network.model.layers = network.model.layers[:0]
    with pytest.raises(HoldfastError, match=r"LlamaForCausalLM: model\.layers holds no decoder layers"):
        anatomy(network)
