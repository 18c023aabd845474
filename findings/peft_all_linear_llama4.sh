#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU).
#
# LoraConfig(target_modules="all-linear") on a Llama 4 text model is accepted, and the first forward pass ends in
# AttributeError: 'tuple' object has no attribute 'dtype'.
#
# Why: Llama4Router subclasses nn.Linear, and its forward returns a pair (router scores, router logits). "all-linear"
# picks modules by isinstance of nn.Linear, so it wraps the router too, whose wrapper takes what the layer puts out for
# a tensor. Naming the targets without the router works. What "all-linear" does not reach is the experts: they are
# parameters of three dimensions, and only attention, the router and the shared expert get adapters.
# A search of public issues found no report for peft; ModelCloud/GPTQModel's pull request 2744 met the same router.
#
# Seen:
#   wrapped by all-linear: feed_forward.router among others, no experts
#   all-linear: AttributeError: 'tuple' object has no attribute 'dtype'
#   without the router: logits of shape (2, 8, 64)
#
# Exits 0 as long as this is so, 1 if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2

cat > "$folder/show.py" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import Llama4ForCausalLM, Llama4TextConfig

config = Llama4TextConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=48, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1,
    max_position_embeddings=128, attention_chunk_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
tokens = torch.arange(16).view(2, 8)


def adapted(targets):
    torch.manual_seed(0)
    return get_peft_model(Llama4ForCausalLM(config), LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))


network = adapted("all-linear")
wrapped = {name.partition("layers.0.")[2] for name, part in network.named_modules() if hasattr(part, "lora_A")} - {""}
print("wrapped by all-linear:", ", ".join(sorted(wrapped)))
try:
    network(tokens)
    said = "no error"
except AttributeError as error:
    said = f"AttributeError: {error}"
print("all-linear:", said)
named = [name.rpartition(".")[2] for name in wrapped if not name.endswith("router")]
shape = tuple(adapted(sorted(set(named)))(tokens).logits.shape)
print("without the router: logits of shape", shape)

same = (
    "feed_forward.router" in wrapped
    and not any(".experts" in name for name in wrapped)
    and said == "AttributeError: 'tuple' object has no attribute 'dtype'"
    and shape == (2, 8, 64)
)
print("as described" if same else "the behaviour has changed")
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2>"$folder/errors" || { status=$?; cat "$folder/errors" >&2; exit "$status"; }
