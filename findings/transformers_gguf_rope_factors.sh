#!/usr/bin/env bash
# transformers reads a Llama GGUF with scaled rotary positions as if they were not scaled, and says nothing.
#
# Versions: transformers 5.23.0, gguf 0.19.0, accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Expected: the factors of the rotary frequencies (`rope_freqs.weight`, which files of Llama 3.1 and later carry in
#   place of settings) and `llama.rope.scaling.*` (files of models with longer contexts) reach the configuration, or a
#   warning or the loading report names what was left out.
# Seen: both files load with `rope_type: default`, bit for bit the frequencies of the file without either, an empty
#   loading report (`unexpected_keys` is empty although the tensor has no place) and no warning:
#     plain         default  same frequencies: True   report: {}   warnings: 0
#     rope_factors  default  same frequencies: True   report: {}   warnings: 0
#     rope_scaling  default  same frequencies: True   report: {}   warnings: 0
# llama.cpp applies both, so the same file is another model there. Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat > "$work/check.py" <<'PY'
import logging
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as own

HIDDEN, HEADS, WIDTH, WORDS = 64, 2, 128, 32
FOLDER = Path(sys.argv[1])


def write(name, *, factors=False, scaling=False):
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", "llama")
    writer.add_name(name)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"w{i}" for i in range(WORDS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * WORDS)
    writer.add_token_merges([])
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (WORDS, HIDDEN), "blk.0.ffn_gate": (WIDTH, HIDDEN), "blk.0.ffn_up": (WIDTH, HIDDEN)}
    shapes |= {"blk.0.ffn_down": (HIDDEN, WIDTH)}
    shapes |= {f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    for tensor, shape in shapes.items():
        writer.add_tensor(f"{tensor}.weight", rng.standard_normal(shape).astype(np.float32))
    for tensor in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{tensor}.weight", np.ones(HIDDEN, dtype=np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.linspace(1.0, 8.0, HIDDEN // HEADS // 2, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Counted(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.records = []

    def emit(self, record):
        self.records.append(record.getMessage())


own.disable_progress_bar()
counted = Counted()
own.get_logger("transformers").addHandler(counted)
first, odd = None, 0
for name, options in {"plain": {}, "rope_factors": {"factors": True}, "rope_scaling": {"scaling": True}}.items():
    write(name, **options)
    counted.records.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = AutoModelForCausalLM.from_pretrained(
            FOLDER, gguf_file=f"{name}.gguf", dtype=torch.float32, output_loading_info=True
        )
    frequencies = model.model.rotary_emb.inv_freq
    first = frequencies if first is None else first
    same = torch.equal(first, frequencies)
    kind = model.config.rope_parameters["rope_type"]
    report = {key: sorted(value) for key, value in info.items() if value}
    said = [text for text in counted.records if "rope" in text.lower()]
    said += [str(item.message) for item in caught if "rope" in str(item.message).lower()]
    print(f"{name:<13} {kind}  same frequencies: {same}   report: {report}   warnings: {len(said)}")
    odd += not (kind == "default" and same and not report and not said)
sys.exit(odd)
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/check.py" "$work"
