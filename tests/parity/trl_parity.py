"""What the comparisons with TRL share: a small model, TRL's settings without frills, and what counts as equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.network.models import LoRA, Model, adapt

VOCAB, PAD, END = 50, 0, 2
RTOL = 1e-5
KINDS = ("full", "LoRA")


def small_model(kind: str) -> Model:
    """A small random Llama that reads `text`, as it is or with an adapter that has moved."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    words = Tokenizer(WordLevel({f"<{i}>": i for i in range(VOCAB)}, unk_token="<0>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=f"<{PAD}>", eos_token=f"<{END}>")
    plain = Model(network=LlamaForCausalLM(config), tokenizer=tokenizer, prompt_format="{prompt}")
    if kind == "full":
        return plain
    adapted = adapt(plain, LoRA(r=4))
    with torch.no_grad():
        for name, weight in adapted.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return adapted


def text(tokens: Sequence[int]) -> str:
    """Tokens as the model's tokenizer reads them."""
    return " ".join(f"<{token}>" for token in tokens)


def plain_settings(folder: Path) -> dict[str, Any]:
    """Settings of every trainer."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def assert_same(
    network: torch.nn.Module, loss: Tensor, other: torch.nn.Module, other_loss: Tensor, *, atol: float = 1e-7
) -> None:
    """Equal losses and, parameter by parameter, equal gradients."""
    torch.testing.assert_close(loss.detach(), other_loss.detach(), rtol=RTOL, atol=atol)
    loss.backward()
    other_loss.backward()
    theirs = {name: weight.grad for name, weight in other.named_parameters() if weight.grad is not None}
    ours = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name], rtol=RTOL, atol=RTOL * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
