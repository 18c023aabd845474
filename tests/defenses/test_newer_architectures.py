"""Defenses on mixtures of experts and hybrids: what a method wants is reached, or refused before training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from holdfast.defenses.offline.circuit_breakers import CircuitBreakers
from holdfast.defenses.offline.repnoise import RepNoise
from holdfast.defenses.offline.rmu import RMU
from holdfast.network.anatomy import anatomy
from holdfast.network.models import LoRA, Model
from holdfast.records import HoldfastError
from holdfast.sandbox.build import tokenizer
from holdfast.training.perturbation import two_pass
from holdfast.training.plan import Optim, backprop
from repeated import repeated

pytestmark = pytest.mark.slow

OPTIM = Optim(max_steps=2, learning_rate=1e-2, per_device_train_batch_size=2)
ADAPTER = LoRA(r=2, lora_alpha=4)
DEFENSES = {
    "repnoise": RepNoise(optim=OPTIM, benign_weight=1.0),
    "breakers": CircuitBreakers(optim=OPTIM, adapter=ADAPTER),
    "breakers-rpa": CircuitBreakers(optim=OPTIM, form="rpa", adapter=None),
    "rmu": RMU(optim=OPTIM, depth=0.75),
    "rmu-adapter": RMU(optim=OPTIM, depth=0.75, adapter=ADAPTER),
}
PAIRS = [
    *(("qwen3_moe", name) for name in DEFENSES),
    ("jamba", "repnoise"),
    ("qwen3_next", "breakers"),
    ("mixtral", "rmu-adapter"),
    ("qwen3_5_text", "rmu"),
    *repeated(("jamba", "breakers"), ("qwen3_next", "rmu"), ("mixtral", "repnoise"), ("qwen3_5_text", "breakers-rpa")),
]
"""Every defense on a mixture and, in one of its forms, on a hybrid."""
WITHIN_THREE = tuple(f"model.layers.{i}." for i in range(3))


def model(name):
    words = tokenizer()
    return Model(network=tiny.network(name, vocab_size=len(words)), tokenizer=words, name=name)


def changed(one, other):
    theirs = dict(other.network.named_parameters())
    return {name for name, p in one.network.named_parameters() if not torch.equal(p, theirs[name])}


@pytest.mark.parametrize(("architecture", "name"), PAIRS)
def test_mixtures_and_hybrids_are_hardened_where_the_method_says(architecture, name, make_context):
    before = model(architecture)
    moved = changed(DEFENSES[name].harden(before, make_context()), before)
    mixture = architecture not in ("qwen3_5_text", "jamba")
    if "rmu" in name:
        assert all(key.startswith(WITHIN_THREE) and "down_proj" in key for key in moved)
        assert {key.split(".")[2] for key in moved} == {"0", "1", "2"}
    if name == "breakers":
        assert all(key.startswith(WITHIN_THREE) for key in moved)
        assert any("self_attn" in key or "linear_attn" in key for key in moved)
    if mixture:
        assert any(key.endswith("experts.down_proj") for key in moved)
        assert ("rmu" in name) != any(key.endswith("experts.gate_up_proj") for key in moved)


@pytest.mark.parametrize("name", ["repnoise", "rmu"])
def test_a_final_norm_without_weights_is_no_hindrance(name, make_context):
    before = model("olmo")
    assert changed(DEFENSES[name].harden(before, make_context()), before)


def test_default_circuit_breakers_on_a_mixture_say_how_to_go_on(make_context):
    settings = replace(CircuitBreakers(), optim=OPTIM)
    with pytest.raises(HoldfastError, match=r"^mixtral: lora_dropout is 0.05, .* set adapter.lora_dropout to 0"):
        settings.harden(model("mixtral"), make_context())


@pytest.mark.parametrize(
    ("architecture", "name", "message"),
    [
        ("mamba", "repnoise", "^MambaForCausalLM: no MLP in layer 0"),
        ("llama4_text", "repnoise", "^Llama4ForCausalLM: Llama4TextMoe returns"),
        ("granitemoehybrid", "repnoise", "^GraniteMoeHybridForCausalLM: more than one MLP"),
        ("opt", "rmu", "^opt: no tensor of layer 1 has a name that ends in any of"),
    ],
)
def test_what_an_architecture_lacks_is_refused_before_training(architecture, name, message, make_context):
    def never(plan):
        raise AssertionError("nothing may be trained")

    with pytest.raises(HoldfastError, match=message):
        DEFENSES[name].harden(model(architecture), make_context(fit=never))


@pytest.mark.parametrize("architecture", ["qwen3_next", "mamba", "falcon_h1"])
def test_the_two_pass_rule_perturbs_whatever_stands_in_attentions_place(architecture):
    network = model(architecture).network
    tokens = torch.arange(24).view(2, 12) % 50 + 3
    seen = []

    def objective(network, batch):
        logits = network(batch["input_ids"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
        seen.append(float(loss.detach()))
        return loss, {"loss": float(loss.detach())}

    two_pass(0.5, inner=backprop)(objective, network, {"input_ids": tokens}, lambda loss: loss.backward())
    assert seen[1] > seen[0] + 1e-3
    assert len(anatomy(network).mixers) >= 4
