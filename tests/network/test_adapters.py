"""What an adapter sits on in mixtures of experts, whose experts and routers are no linear layers."""

from __future__ import annotations

import pytest
import torch

import tiny
from holdfast.network.adapters import matrices
from holdfast.network.adapters import trained as part_of
from holdfast.network.models import LoRA, Model, adapt, load, merged
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.sandbox.build import tokenizer
from repeated import repeated

# Linear routers and bare ones, with biases beside them, and experts that are shared.
MIXTURES = (
    "qwen3_moe",
    "gpt_oss",
    "deepseek_v3",
    *repeated("mixtral", "qwen3_next", "qwen3_5_moe_text", "llama4_text", "jamba"),
)
TOKENS = torch.arange(24).view(2, 12) % 37 + 3


def model(name):
    return Model(network=tiny.shallow(name), tokenizer=tokenizer(), name=name)


def trained(model, steps=3):
    """After a few steps that move both factors of every adapter."""
    optimizer = torch.optim.SGD([p for p in model.network.parameters() if p.requires_grad], lr=2.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model.network(TOKENS, use_cache=False).logits.square().mean().backward()
        optimizer.step()
    return model


def bare_name(name):
    return name.removeprefix("base_model.model.")


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_every_matrix_but_the_heads_is_reached_at_the_rank_asked_for(name):
    plain = model(name)
    shapes = {key: p.shape for key, p in plain.network.named_parameters()}
    wanted = {key for key, shape in shapes.items() if len(shape) >= 2 and ("proj" in key or "gate.weight" in key)}
    wanted |= {key for key in shapes if key.endswith(("router.weight", "experts.down_proj", "experts.gate_up_proj"))}
    wanted = {key for key in wanted if not key.endswith("_bias") and "conv" not in key}
    known = {matrix.tensor for matrix in matrices(plain.network)}
    assert wanted <= known
    assert not known & {"lm_head.weight", "model.embed_tokens.weight"}
    adapted = adapt(plain, LoRA(r=3))
    ranks = {p.shape[0] for key, p in adapted.network.named_parameters() if "lora_A" in key}
    assert ranks <= {3, 3 * 4}  # four experts of rank 3 side by side
    assert sum("lora_A" in key for key, _ in adapted.network.named_parameters()) == len(known)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_moved_and_what_is_saved_says_what_the_adapted_model_says(name, tmp_path):
    before = {key: p.detach().clone() for key, p in model(name).network.named_parameters()}
    adapted = trained(adapt(model(name), LoRA(r=2, lora_alpha=2)))
    with torch.no_grad():
        logits = adapted.network(TOKENS).logits
        torch.testing.assert_close(merged(adapted).network(TOKENS).logits, logits, rtol=1e-3, atol=1e-4)
    moved = {key for key, p in merged(adapted).network.named_parameters() if not torch.equal(p, before[key])}
    assert any(key.endswith("experts.down_proj") for key in moved)
    assert any(key.endswith("experts.gate_up_proj") for key in moved)
    save(adapted, tmp_path)
    with torch.no_grad():
        again = load(tmp_path, prompt_format="{prompt}").network(TOKENS).logits
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba", "falcon_h1", *repeated("mamba2", "nemotron_h")])
def test_layers_that_fused_kernels_read_past_are_left_out_of_all_and_refused_by_name(name):
    before = {key: p.detach().clone() for key, p in model(name).network.named_parameters()}
    adapted = trained(adapt(model(name), LoRA(r=2, lora_alpha=2)))
    moved = {key for key, p in merged(adapted).network.named_parameters() if not torch.equal(p, before[key])}
    assert any(key.endswith("in_proj.weight") for key in moved)
    assert not any(key.endswith("out_proj.weight") for key in moved)
    with pytest.raises(HoldfastError, match=rf"^{name}: this model has no target_modules \(out_proj\); it has"):
        adapt(model(name), LoRA(target_modules=("out_proj",)))


def test_names_of_bare_tensors_are_targets_too():
    adapted = adapt(model("mixtral"), LoRA(r=2, target_modules=("q_proj", "mlp.experts.down_proj")))
    on = {bare_name(key).split(".lora_A")[0] for key, _ in adapted.network.named_parameters() if "lora_A" in key}
    assert on == {f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn.q_proj", "mlp.experts")}


def test_a_target_that_is_nowhere_is_refused_with_those_that_there_are():
    with pytest.raises(HoldfastError, match=r"^mixtral: this model has no target_modules \(w1\)"):
        adapt(model("mixtral"), LoRA(target_modules=("w1",)))


@pytest.mark.parametrize("targets", [("wizard",), ("q_proj", "wizard"), (), "wizard"])
def test_a_target_that_is_nowhere_is_refused_without_experts_too(targets):
    with pytest.raises(HoldfastError, match=r"^llama: this model has no target_modules .*self_attn.q_proj"):
        adapt(model("llama"), LoRA(target_modules=targets))


def test_dropout_on_experts_is_refused_with_a_way_out():
    with pytest.raises(HoldfastError, match=r"^mixtral: lora_dropout is 0.1, .* set adapter.lora_dropout to 0, or"):
        adapt(model("mixtral"), LoRA(lora_dropout=0.1))
    assert adapt(model("mixtral"), LoRA(lora_dropout=0.1, target_modules=("q_proj", "v_proj")))


def test_a_model_without_experts_is_adapted_as_peft_does_it():
    adapted = adapt(model("llama"), LoRA(r=2, lora_dropout=0.1))
    on = {bare_name(key).split(".lora_A")[0] for key, _ in adapted.network.named_parameters() if "lora_A" in key}
    assert on == {matrix.module for matrix in matrices(model("llama").network)}


def test_what_is_trained_is_named_layers_left_out_and_counted():
    whole = model("mixtral").network
    part = part_of(whole)
    assert part["parameters"] == part["of"] == sum(p.numel() for p in whole.parameters())
    assert "model.layers.*.mlp.experts.down_proj" in part["tensors"]
    adapted = adapt(model("mixtral"), LoRA(r=2, target_modules=("q_proj", "down_proj"))).network
    part = part_of(adapted)
    assert part["tensors"] == ["model.layers.*.mlp.experts.down_proj", "model.layers.*.self_attn.q_proj"]
    assert part["parameters"] == sum(p.numel() for key, p in adapted.named_parameters() if "lora" in key)
    for name, p in whole.named_parameters():
        p.requires_grad_(name.endswith("layers.1.mlp.experts.down_proj"))
    assert part_of(whole)["tensors"] == ["model.layers.*.mlp.experts.down_proj"]
    assert part_of(whole)["parameters"] == whole.model.layers[1].mlp.experts.down_proj.numel()


def test_targets_that_are_no_regular_expression_are_refused_by_their_key():
    with pytest.raises(HoldfastError, match=r"target_modules: 'q_proj\(' is not a regular expression"):
        LoRA(target_modules="q_proj(")
