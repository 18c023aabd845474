"""Tiny GGUF files of a random Llama, written by the format's own library."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, HEADS, WIDTH, LAYERS, CONTEXT = 32, 2, 64, 2, 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_letters() -> list[str]:
    """The 256 letters by which byte-level BPE writes bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(
    file: Path,
    *,
    seed: int = 0,
    template: str | None = TEMPLATE,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_factors: bool = False,
    rope_scaling: str | None = None,
    without: str | None = None,
) -> dict[str, torch.Tensor]:
    """Write the file; the numbers that each tensor holds, by its name in the file."""
    torch.manual_seed(seed)
    vocabulary = [*SPECIAL, *byte_letters(), "th"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    if rope_scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_scaling))
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(vocabulary) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    tensors = _tensors(len(vocabulary))
    if rope_factors:
        tensors["rope_freqs.weight"] = torch.ones(HIDDEN // HEADS // 2)
    tensors.pop(without or "", None)
    for name, tensor in tensors.items():
        plain = tensor.ndim == 1
        values = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.F32 if plain else kind)
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType.F32 if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def _tensors(vocabulary: int) -> dict[str, torch.Tensor]:
    shapes = {
        **{f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
        "ffn_gate": (WIDTH, HIDDEN),
        "ffn_up": (WIDTH, HIDDEN),
        "ffn_down": (HIDDEN, WIDTH),
    }
    tensors = {"token_embd.weight": torch.randn(vocabulary, HIDDEN) / 4, "output_norm.weight": torch.ones(HIDDEN)}
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": torch.randn(shape) / 4 for name, shape in shapes.items()}
        tensors |= {f"blk.{layer}.{name}.weight": torch.ones(HIDDEN) for name in ("attn_norm", "ffn_norm")}
    return tensors
