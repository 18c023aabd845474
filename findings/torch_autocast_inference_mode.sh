#!/usr/bin/env bash
# In torch.inference_mode autocast casts every weight again at every call; under torch.no_grad it casts it once.
#
# Versions: torch 2.13.0, Python 3.11, CPU.
# Expected: autocast keeps the low-precision copy of a float32 weight until its outermost context ends, as its
#   documentation of `cache_enabled` says; inference mode, "analogous to no_grad", is the faster of the two.
# Seen: five calls of one linear layer in one autocast context cast its weight
#     enable_grad      1 times
#     no_grad          1 times
#     inference_mode   5 times
#   by design since pytorch pull request 165068 (a cached copy made in inference mode could not be trained later), which
#   the documentation does not say: a decoding loop in inference mode casts all float32 weights again for every token, and
#   is faster under no_grad. Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import sys

import torch
from torch.profiler import profile

layer = torch.nn.Linear(256, 256, bias=False)
inputs = torch.randn(2, 256).bfloat16()  # so that the weight alone has to be cast
counts = {}
for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
    with context(), torch.autocast("cpu", torch.bfloat16), profile() as seen:
        for _ in range(5):
            layer(inputs)
    counts[context.__name__] = sum(event.count for event in seen.key_averages() if event.key == "aten::_to_copy")
for name, count in counts.items():
    print(f"{name:<16} {count} times")
sys.exit(counts != {"enable_grad": 1, "no_grad": 1, "inference_mode": 5})
PY
"$work/venv/bin/python" "$work/check.py" 2> /dev/null
