"""Tiny models with random weights of every causal class of the installed transformers, from default configurations.

Sizes are set by the names of fields, and special requirements of an architecture by its model type.
"""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY, WIDTH, HEADS, LAYERS = 64, 32, 4, 4

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "dim_model", "emb_dim"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_inner"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 128),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size", "sliding_window_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "mamba_n_groups", "n_groups", "num_expert_group"), 1),
    **dict.fromkeys(("attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "hidden_dropout"), 0.0),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"), 0.0),
    "is_decoder": True,
    "num_key_value_heads": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "num_shared_experts": 1,
    "n_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_dt_rank": 4,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 4,
    "chunk_size": 4,
    "state_size": 8,
    "time_step_rank": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "initializer_range": 0.2,
}
"""Values of fields that are set if a configuration has them and they are not `None`."""

SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}

EQUAL_HEADS = {"num_key_value_heads": HEADS}
LATENT = {**EQUAL_HEADS, "head_dim": 4}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("bailing_hybrid", "glm4_moe_lite", "minicpm3", "axk2", "deepseek_v32", "glm_moe_dsa"), EQUAL_HEADS
    ),
    **dict.fromkeys(("axk1", "deepseek_v3", "longcat_flash", "youtu", "dots3_note", "dots3_note_text"), LATENT),
    **{kind: {"head_dim": 8} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{kind: {"rotary_dim": 4} for kind in ("codegen", "gptj")},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"num_experts_per_tok": 2, **LATENT},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "nemotron": {"head_dim": 8, "partial_rotary_factor": 0.5},
    "zaya": {"num_experts_per_tok": 1},
}


def model_types() -> dict[str, str]:
    """Model types with a causal class, and the class's name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """The default configuration of a model type with every size made small."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    whole = kind()
    text = whole.get_text_config(decoder=True)
    if type(text) is kind:
        text = whole  # not a copy, which would lack the encoder's settings
    own = OWN.get(model_type, {})
    values = {**_shrunk(text.to_dict()), **own}
    if type(text) is not kind:
        return type(text)(**values)
    return kind(**values)


def _shrunk(settings: dict[str, Any]) -> dict[str, Any]:
    named = {**SIZES, **SPECIAL_TOKENS}
    values = {
        key: named[key]
        for key, value in settings.items()
        if key in named and (value is not None or key in SPECIAL_TOKENS)
    }
    for key in ("layer_types", "layers_block_type", "mlp_layer_types", "block_types"):
        if isinstance(settings.get(key), list):
            values[key] = _covering(settings[key])
    return values


def _covering(kinds: list[str]) -> list[str]:
    """A kind for each layer, with every kind present, in the original order."""
    first = list(dict.fromkeys(kinds))[:LAYERS]
    return sorted((first * LAYERS)[:LAYERS], key=first.index)


def tiny_network(model_type: str, *, vocab_size: int = VOCABULARY, seed: int = 0) -> Any:
    """A network with random weights in evaluation mode."""
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type)
    for name in ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size"):
        if hasattr(config, name):
            setattr(config, name, vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
