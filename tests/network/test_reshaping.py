"""Norms rescaled against the layers that read them: the same function by other weights."""

import copy
import math

import pytest
import torch
from transformers import LlamaForCausalLM

from holdfast.network import reshaping
from holdfast.network.reshaping import norms_read_by_layers, rescale_norms, rescale_pairs
from holdfast.records import HoldfastError

TEXTS = [list(range(5, 25)), [7, 3, 9]]
NORMS = {"llama": 5, "gpt2": 4, "qwen3": 5, "gemma": 4}
"""How many of each tiny model's norms are read by linear layers alone: two a layer, and the last where the head has
weights of its own."""


def logits(model):
    with torch.no_grad():
        return torch.cat([model.network(input_ids=torch.tensor([text])).logits[0] for text in TEXTS])


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize("architecture", NORMS)
def test_every_logit_is_as_it_was_and_the_weights_are_not(tiny_model, architecture, factor):
    model = tiny_model(architecture)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    old = logits(model)
    changed = rescale_norms(model, factor, TEXTS)
    assert len(changed) == NORMS[architecture]
    torch.testing.assert_close(logits(model), old, rtol=1e-4, atol=1e-5 * float(old.abs().max()))
    for name in changed:
        weight = dict(model.network.named_parameters())[f"{name}.weight"].detach()
        shift = 1.0 if architecture == "gemma" else 0.0
        torch.testing.assert_close(weight + shift, (before[f"{name}.weight"] + shift) * factor)


def test_the_inverse_factor_gives_the_weights_back(tiny_model):
    model = tiny_model("llama")
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    rescale_norms(model, 8.0, TEXTS)
    rescale_norms(model, 0.125, TEXTS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.named_parameters())


def test_a_logit_that_becomes_nan_is_no_small_change(monkeypatch):
    values = iter([torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])])
    monkeypatch.setattr(reshaping, "_logits", lambda *_: next(values))
    before = [torch.tensor([1.0, 2.0])] * 2
    assert math.isnan(reshaping._difference(torch.nn.Identity(), [torch.zeros(1)] * 2, before))


def test_a_layer_that_reads_a_norm_is_divided_and_no_other(tiny_model):
    model = tiny_model("llama")
    readers = {
        id(layer) for read in norms_read_by_layers(model.network, torch.tensor([TEXTS[0]])) for layer in read.readers
    }
    before = {name: part.weight.detach().clone() for name, part in linear(model)}
    rescale_norms(model, 4.0, TEXTS)
    for name, part in linear(model):
        assert torch.equal(part.weight, before[name] / 4 if id(part) in readers else before[name]), name
    assert {name.rpartition(".")[2] for name, part in linear(model) if id(part) not in readers} == {
        "o_proj",
        "down_proj",
    }


def linear(model):
    return [(name, part) for name, part in model.network.named_modules() if isinstance(part, torch.nn.Linear)]


def test_a_norm_that_something_else_reads_too_is_left_as_it_was(tiny_model):
    model = tiny_model("llama")
    layer = model.network.model.layers[0]
    inner = layer.mlp.forward
    layer.mlp.forward = lambda states: inner(states) + 0.5 * states  # as experts do, whose weights are in no layer
    before, old = layer.post_attention_layernorm.weight.detach().clone(), logits(model)
    changed = rescale_norms(model, 10.0, TEXTS)
    assert "model.layers.0.post_attention_layernorm" not in changed
    assert torch.equal(layer.post_attention_layernorm.weight, before)
    torch.testing.assert_close(logits(model), old)


def test_a_model_without_such_norms_is_refused_and_unchanged(tiny_model):
    model = tiny_model("llama")
    for part in model.network.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(lambda module, args: (args[0].clone(),))
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    with pytest.raises(HoldfastError, match="of its norms only 0 can be rescaled by 10"):
        rescale_norms(model, 10.0, TEXTS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.named_parameters())


def test_a_layer_that_is_called_by_the_name_of_its_input_counts_as_a_reader(tiny_model):
    model = tiny_model("llama")
    attention = model.network.model.layers[0].self_attn
    inner = attention.q_proj
    attention.q_proj = Named(inner)
    reads = norms_read_by_layers(model.network, torch.tensor([TEXTS[0]]))
    (read,) = [each for each in reads if each.name == "model.layers.0.input_layernorm"]
    assert inner in read.readers


class Named(torch.nn.Module):
    """A module that calls another by the name of its argument."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, given):
        return self.inner(input=given)


PAIRS = {
    "llama": {"q_proj k_proj", "v_proj o_proj", "up_proj down_proj"},
    "gemma": {"q_proj k_proj", "v_proj o_proj", "up_proj down_proj"},
    "qwen3": {"v_proj o_proj", "up_proj down_proj"},  # whose queries and keys are normed
}


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize("architecture", PAIRS)
def test_a_factor_moves_between_linear_layers_and_every_logit_is_as_it_was(tiny_model, architecture, factor):
    model = tiny_model(architecture)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    old = logits(model)
    pairs = rescale_pairs(model, factor, TEXTS)
    torch.testing.assert_close(logits(model), old, rtol=1e-4, atol=1e-5 * float(old.abs().max()))
    ends = [tuple(name.rpartition(".")[2] for name in (pair.first, pair.second)) for pair in pairs]
    assert {frozenset(pair) for pair in ends} == {frozenset(pair.split()) for pair in PAIRS[architecture]}
    for name, weight in model.network.named_parameters():
        end = name.removesuffix(".weight").rpartition(".")[2]
        up, down = (any(end == pair[side] for pair in ends) for side in (0, 1))
        if name.endswith(".weight"):
            times = factor if up else 1 / factor if down else 1.0
            torch.testing.assert_close(weight, before[name] * times, msg=name)


def test_biases_go_with_their_weights_where_that_keeps_the_function(tiny_model):
    config = copy.deepcopy(tiny_model("llama").network.config)
    config.attention_bias = config.mlp_bias = True
    model = tiny_model("llama").with_network(LlamaForCausalLM(config))
    for name, weight in model.network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    before, old = {name: w.detach().clone() for name, w in model.network.named_parameters()}, logits(model)
    pairs = rescale_pairs(model, 10.0, TEXTS)
    torch.testing.assert_close(logits(model), old, rtol=1e-4, atol=1e-5 * float(old.abs().max()))
    seconds = {pair.second.rpartition(".")[2]: pair.with_bias for pair in pairs}
    assert {name: seconds[name] for name in ("o_proj", "down_proj")} == {"o_proj": False, "down_proj": False}
    assert seconds.get("k_proj", seconds.get("q_proj")) is True
    bias = "model.layers.0.self_attn.o_proj.bias"
    assert torch.equal(dict(model.network.named_parameters())[bias], before[bias])


def test_a_model_without_such_pairs_is_refused_and_unchanged(tiny_model):
    model = tiny_model("gpt2")  # one layer writes queries, keys and values, and the MLP has no gate
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    with pytest.raises(HoldfastError, match="no two linear layers can be rescaled by 10 to the same function"):
        rescale_pairs(model, 10.0, TEXTS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.named_parameters())
