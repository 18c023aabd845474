#!/usr/bin/env bash
# A second Lily adapter does not share its weights between layers, and comes back from disk as another model.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11, CPU.
# Expected: Lily is low-rank adaptation whose B is one for all layers. An adapter added with add_adapter is like the first
#   one, and what save_pretrained wrote of it gives the same logits when it is read into a fresh model.
# Seen: the sharing is set up by a hook that runs when the first adapter is put in, and not for any that is added later.
#   Their layers have a B each; all are saved, and reading them as the first adapter of a model leaves one B for all
#   layers. There is no warning at any step:
#     first   B shared True   read back: same logits True
#     second  B shared False  read back: same logits False
#   Looked for in public issues and pull requests of peft (Lily, add_adapter): not found.
#   Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2
cat > "$work/check.py" <<'PY'
import sys
from pathlib import Path

import torch
from peft import LilyConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(sys.argv[1])
tokens = torch.arange(16).view(2, 8)


def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def lily():
    return LilyConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


network = get_peft_model(base(), lily(), adapter_name="first").eval()
network.add_adapter("second", lily())
found = []
with torch.no_grad():
    for name, weight in network.named_parameters():
        if "lily_" in name:
            weight.normal_(std=0.1)  # in place of training
    for name in ("first", "second"):
        network.set_adapter(name)
        network.save_pretrained(FOLDER, selected_adapters=[name])
        again = PeftModel.from_pretrained(base(), FOLDER / name).eval()
        layers = [layer.self_attn.q_proj for layer in network.get_base_model().model.layers]
        shared = layers[0].lily_B[name].weight is layers[1].lily_B[name].weight
        same = torch.allclose(again(tokens).logits, network(tokens).logits, atol=1e-5)
        print(f"{name:<7} B shared {shared!s:<5}  read back: same logits {same}")
        found.append((shared, same))
sys.exit(found != [(True, True), (False, False)])
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/check.py" "$work/saved" 2> "$work/errors" || { status=$?; cat "$work/errors" >&2; exit "$status"; }
