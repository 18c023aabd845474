#!/usr/bin/env bash
# Under autocast, linear_cross_entropy in chunks rounds the loss to bfloat16; computed whole it is float32.
#
# Versions: torch 2.13.0, Python 3.11, CPU, autocast to bfloat16.
# Expected: `linear_cross_entropy` is documented as equivalent to `cross_entropy(linear(...))`. Autocast runs the product
#   in bfloat16 and the cross entropy in float32, so the loss is float32 whatever `options` say.
# Seen: with `options`, the chunked way, autocast does not reach the operation. Given what a network under autocast hands
#   over (bfloat16 states, a float32 weight), it takes both without a warning and returns a bfloat16 loss: steps of 0.03 at
#   a loss of 5, of which a sum over micro-batches is made. Given float32 states it computes all in float32, so that
#   nothing is saved.
#     states bfloat16, whole    loss torch.float32
#     states bfloat16, chunked  loss torch.bfloat16
#     states float32, whole     same value as in plain float32: False
#     states float32, chunked   same value as in plain float32: True
#   Looked for in public issues and pull requests of pytorch (linear_cross_entropy, autocast): not found.
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
states, weight = torch.randn(64, 8), torch.randn(32, 8)
targets = torch.randint(0, 32, (64,))
ways = {"whole": None, "chunked": LinearCrossEntropyOptions(batch_chunk_size=16)}


def loss(inputs, way, mixed=True):
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        return linear_cross_entropy(inputs, weight, targets, options=ways[way])


types = {way: loss(states.bfloat16(), way).dtype for way in ways}
plain = {way: bool(loss(states, way) == loss(states, way, mixed=False)) for way in ways}
for way, dtype in types.items():
    print(f"{f'states bfloat16, {way}':<25} loss {dtype}")
for way, same in plain.items():
    print(f"{f'states float32, {way}':<25} same value as in plain float32: {same}")
expected = types == {"whole": torch.float32, "chunked": torch.bfloat16} and plain == {"whole": False, "chunked": True}
sys.exit(not expected)
PY
"$work/venv/bin/python" "$work/check.py"
