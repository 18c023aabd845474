"""Sampling is the plain way's, and leaves no trace in the network, whatever the architecture's attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from plain_sampling import PADDED, SAME_LENGTH, one_by_one, opinionated, random_model

from holdfast.network.generate import Sampling, sample
from holdfast.network.models import LoRA, Model, adapt, clone
from holdfast.sandbox.build import tokenizer

WINDOW = 4
SHARED = {
    "vocab_size": len(tokenizer()),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
MODERN = {**SHARED, "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 64, "head_dim": 16}
CONFIGS: dict[str, Callable[[], Any]] = {
    "grouped heads": lambda: transformers.LlamaConfig(**MODERN),
    "a window in every layer": lambda: transformers.MistralConfig(**MODERN, sliding_window=WINDOW),
    "a window in one layer": lambda: transformers.Gemma2Config(**MODERN, sliding_window=WINDOW),
    "positions by distance": lambda: transformers.FalconConfig(**SHARED, alibi=True, new_decoder_architecture=False),
    "learnt positions": lambda: transformers.OPTConfig(
        **SHARED, ffn_dim=96, max_position_embeddings=64, word_embed_proj_dim=64, dropout=0.0
    ),
}


def model_of(config: Any, **more: Any) -> Model:
    torch.manual_seed(0)
    return opinionated(transformers.AutoModelForCausalLM.from_config(config, **more), stops=12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        *(pytest.param(name, PADDED, id=f"{name}, padded") for name in CONFIGS),
        pytest.param("a window in one layer", SAME_LENGTH, id="a window in one layer, same length"),
        pytest.param("learnt positions", SAME_LENGTH, id="learnt positions, same length"),
    ],
)
def test_every_kind_of_attention_samples_what_the_plain_way_does(name: str, prompts: list[list[int]]) -> None:
    model, sampling = model_of(CONFIGS[name]()), Sampling(max_new_tokens=3 * WINDOW)

    fast = sample(model, prompts, sampling, seed=1, repeats=2)

    assert [answer.tokens for answer in fast] == one_by_one(model, prompts, sampling, seed=1, repeats=2)
    assert max(len(answer.tokens) for answer in fast) > 2 * WINDOW


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [SAME_LENGTH, PADDED], ids=["same length", "padded"])
def test_attention_that_takes_no_finished_masks_samples_what_the_plain_way_does(prompts: list[list[int]]) -> None:
    model = model_of(CONFIGS["grouped heads"](), attn_implementation="eager")
    sampling = Sampling(max_new_tokens=12)

    fast = sample(model, prompts, sampling, seed=1, repeats=2)

    assert [answer.tokens for answer in fast] == one_by_one(model, prompts, sampling, seed=1, repeats=2)


@pytest.mark.slow
def test_an_adapter_samples_what_the_plain_way_does() -> None:
    model = adapt(random_model("llama", stops=12), LoRA(r=4))
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    sampling = Sampling(max_new_tokens=12)

    fast = sample(model, PADDED, sampling, seed=1, repeats=2)

    assert [answer.tokens for answer in fast] == one_by_one(model, PADDED, sampling, seed=1, repeats=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*a group's prompt is read again")
@pytest.mark.parametrize("name", [*CONFIGS, "positions that stretch"])
def test_a_network_learns_after_sampling_as_if_nothing_had_been_sampled(name: str) -> None:
    stretching = transformers.LlamaConfig(
        **{**MODERN, "max_position_embeddings": 8},
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    model = model_of(stretching if name not in CONFIGS else CONFIGS[name]())
    untouched = clone(model)

    sample(model, PADDED, Sampling(max_new_tokens=12), seed=1, repeats=2)

    for network in (model.network, untouched.network):
        network.train()(input_ids=torch.tensor([PADDED[1]]), use_cache=False).logits.logsumexp(-1).sum().backward()
    assert any(plain.grad is not None for plain in untouched.network.parameters())
    for ours, plain in zip(model.network.parameters(), untouched.network.parameters(), strict=True):
        assert (ours.grad is None) == (plain.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, plain.grad)


@pytest.mark.slow
def test_a_mask_over_padding_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, built = random_model("llama"), []
    sample(model, PADDED, Sampling(max_new_tokens=1), seed=0)  # the shortcuts are tried before the first use
    plain = transformers.masking_utils.sdpa_mask
    monkeypatch.setitem(
        transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping,
        "sdpa",
        lambda *args, **kwargs: built.append(1) or plain(*args, **kwargs),
    )

    answers = sample(model, PADDED, Sampling(max_new_tokens=6), seed=0)

    assert max(len(answer.tokens) for answer in answers) > 1
    assert len(built) == 1
