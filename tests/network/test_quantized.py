"""Copies in 8-bit and 4-bit blocks: their weights are those that a GGUF file of the format gives back."""

from dataclasses import replace

import gguf
import pytest
import torch

import tiny
from gguf_files import write_gguf
from holdfast.network import quantized
from holdfast.network.models import LoRA, adapt, load, merged
from holdfast.network.quantized import quantize
from holdfast.network.releasing import FORMATS, copied, save
from holdfast.records import HoldfastError

BLOCKS = ("q8_0", "q4_1", "q4_0")


def stored(weight, blocks):
    kind = gguf.GGMLQuantizationType[blocks.upper()]
    rows = weight.detach().contiguous().numpy()
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind))


def weights_of(model):
    return {name: parameter.detach() for name, parameter in model.network.named_parameters()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_copy_has_the_weights_of_a_file_in_its_format(blocks, tmp_path):
    write_gguf(tmp_path / "whole.gguf")
    write_gguf(tmp_path / "small.gguf", kind=gguf.GGMLQuantizationType[blocks.upper()])
    whole = load(tmp_path / "whole.gguf")
    copy, file = weights_of(copied(whole, blocks)), weights_of(load(tmp_path / "small.gguf"))
    tied = "model.embed_tokens.weight"  # where it is the output head too, it has 8 bits in files of 4 bits
    assert all(torch.equal(copy[name], file[name]) for name in copy if name != tied)
    assert torch.equal(copy[tied], stored(weights_of(whole)[tied], "q8_0"))
    assert not torch.equal(
        copy["model.layers.0.mlp.up_proj.weight"], weights_of(whole)["model.layers.0.mlp.up_proj.weight"]
    )
    assert whole.network.lm_head.weight is whole.network.model.embed_tokens.weight


def test_a_head_of_its_own_has_eight_bits_and_the_embedding_four(tiny_model):
    model = tiny_model("llama")
    copy, given = weights_of(copied(model, "q4_0")), weights_of(model)
    assert torch.equal(copy["lm_head.weight"], stored(given["lm_head.weight"], "q8_0"))
    assert torch.equal(copy["model.embed_tokens.weight"], stored(given["model.embed_tokens.weight"], "q4_0"))


def test_rows_are_the_inputs_of_a_layer_whichever_way_its_matrix_lies(tiny_model):
    model = tiny_model("gpt2")
    copy, given = weights_of(copied(model, "q4_0")), weights_of(model)
    name = "transformer.h.0.mlp.c_fc.weight"  # (in, out)
    assert torch.equal(copy[name], stored(given[name].T, "q4_0").T)
    kept = ("transformer.wpe.weight", "transformer.h.0.mlp.c_fc.bias", "transformer.ln_f.weight")
    assert all(torch.equal(copy[name], given[name]) for name in kept)


@pytest.mark.parametrize(("name", "lies"), [("mixtral", "out, in"), ("gpt_oss", "in, out")])
def test_experts_are_quantised_along_their_inputs_and_routers_are_not(name, lies):
    network = tiny.network(name, hidden_size=32, intermediate_size=64, moe_intermediate_size=64)
    before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
    quantize(network, "q4_0")
    after = dict(network.named_parameters())
    experts, router = (
        next(key for key in before if part in key and key.endswith(end))
        for part, end in (
            ("experts", "gate_up_proj"),
            ("layers.0.mlp", {"mixtral": "gate.weight"}.get(name, "router.weight")),
        )
    )
    turned = lies == "in, out"
    expected = stored(before[experts].mT if turned else before[experts], "q4_0")
    assert torch.equal(after[experts], expected.mT if turned else expected)
    assert torch.equal(after[router], before[router])


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_a_saved_copy_is_loaded_as_it_was(to, tiny_model, tmp_path):
    copy = copied(replace(tiny_model(), stored="bfloat16"), to)
    save(copy, tmp_path)
    again = load(tmp_path)
    assert copy.stored == again.stored == (to if to in ("bfloat16", "float16") else "float32")
    assert all(torch.equal(weight, weights_of(again)[name]) for name, weight in weights_of(copy).items())


def test_the_model_that_is_copied_stays_as_it_was_and_a_copy_of_four_bits_is_farther(tiny_model):
    model = tiny_model()
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    away = {}
    for to in BLOCKS:
        copy = weights_of(copied(model, to))
        away[to] = sum(float((copy[name] - weight).square().sum()) for name, weight in before.items())
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
    assert 0 < away["q8_0"] < away["q4_1"] < away["q4_0"]


@pytest.mark.slow
def test_an_adapter_is_merged_before_the_weights_are_quantised(tiny_model):
    model = adapt(tiny_model(), LoRA(r=4))
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(1e-1)
    copy, wide = weights_of(copied(model, "q4_0")), weights_of(merged(model))
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(copy[name], stored(wide[name], "q4_0"))
    assert copy.keys() == wide.keys()


def test_without_the_library_blocks_are_refused_with_the_remedy(monkeypatch, tiny_model):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(HoldfastError, match=r"^q4_0 needs the package gguf: pip install gguf"):
        copied(tiny_model(), "q4_0")


def test_rows_that_blocks_do_not_divide_are_refused_by_name_before_anything_changes():
    network = tiny.network("llama", hidden_size=64, intermediate_size=48)
    before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
    with pytest.raises(
        HoldfastError, match=r"^model\.layers\.0\.mlp\.down_proj\.weight: its rows have 48 numbers, .* 32;"
    ):
        quantize(network, "q8_0")
    assert all(torch.equal(parameter, before[key]) for key, parameter in network.named_parameters())


def test_a_weight_too_large_for_a_scale_is_refused_by_name(tiny_model):
    model = tiny_model()
    model.network.lm_head.weight.data[0, 0] = 1e8
    with pytest.raises(HoldfastError, match=r"^lm_head\.weight: a weight is too large for q8_0"):
        copied(model, "q4_0")
