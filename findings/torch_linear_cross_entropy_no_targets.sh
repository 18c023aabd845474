#!/usr/bin/env bash
# A batch without any target leaves the weights alone under cross_entropy, and ruins them under linear_cross_entropy in
# chunks.
#
# Versions: torch 2.13.0, Python 3.11, CPU, float32.
# Expected: `linear_cross_entropy` is documented as equivalent to `cross_entropy(linear(...))`. If all targets are
#   `ignore_index`, which is every micro-batch whose answers were truncated away, the mean is 0/0 = nan, and gradients are
#   exactly zero, so that a loop which adds up micro-batches is not harmed.
# Seen: with `options`, the chunked way, the loss is nan too, but so are the gradients of states and weight, without a
#   warning; with reduction "sum" both ways give zeros.
#     mean  whole    loss nan  gradients nan: 0 of 2
#     mean  chunked  loss nan  gradients nan: 2 of 2
#     sum   whole    loss 0.0  gradients nan: 0 of 2
#     sum   chunked  loss 0.0  gradients nan: 0 of 2
#   Looked for in public issues and pull requests of pytorch (linear_cross_entropy, ignore_index, nan): not found.
#   Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import sys
import warnings

import torch
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

warnings.simplefilter("error")
torch.manual_seed(0)
targets = torch.full((64,), -100)
counts = []
for reduction in ("mean", "sum"):
    for way, options in (("whole", None), ("chunked", LinearCrossEntropyOptions(batch_chunk_size=16))):
        states = torch.randn(64, 8, requires_grad=True)
        weight = torch.randn(32, 8, requires_grad=True)
        loss = linear_cross_entropy(states, weight, targets, reduction=reduction, options=options)
        loss.backward()
        bad = sum(bool(value.grad.isnan().any()) for value in (states, weight))
        counts.append(bad)
        print(f"{reduction:<5} {way:<8} loss {loss.item()}  gradients nan: {bad} of 2")
sys.exit(counts != [0, 2, 0, 0])
PY
"$work/venv/bin/python" "$work/check.py"
