#!/usr/bin/env bash
# An exponential moving average of a model with `use_buffers=True` changes integers that never change, such as positions.
#
# Versions: torch 2.13.0, Python 3.11, CPU.
# Expected: the average of a value that stays the same is that value, for every decay. Position numbers and other indices
#   are integer buffers of many networks, and `use_buffers` is what the documentation names for batch normalisation.
# Seen: get_ema_multi_avg_fn and get_ema_avg_fn compute `decay * old + (1 - decay) * new` in float32 and cut off what is
#   behind the point, so that 2.9999998 becomes 2. It depends on the decay which integers lose one; there is no warning.
#   Here no weight has changed, and yet the averaged network looks up the embedding of the position before:
#     decay 0.9     wrong positions 147 of 512  same output False
#     decay 0.99    wrong positions   0 of 512  same output True
#     decay 0.999   wrong positions   0 of 512  same output True
#     decay 0.9999  wrong positions  99 of 512  same output False
#     plain mean    wrong positions   0 of 512  same output True
#   Looked for in public issues and pull requests of pytorch (AveragedModel, use_buffers, integer buffers): not found;
#   microsoft/Swin-Transformer#111 has the same of a hand-written average. Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import sys
import warnings

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

warnings.simplefilter("error")


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(512, 4)
        self.register_buffer("positions", torch.arange(512))

    def forward(self):
        return self.embedding(self.positions)


def compared(**average):
    network = Network()
    averaged = AveragedModel(network, use_buffers=True, **average)
    for _ in range(3):
        averaged.update_parameters(network)
    wrong = int((averaged.module.positions != network.positions).sum())
    return wrong, torch.allclose(averaged(), network())


found = []
for decay in (0.9, 0.99, 0.999, 0.9999):
    found.append(compared(multi_avg_fn=get_ema_multi_avg_fn(decay)))
    assert found[-1] == compared(avg_fn=get_ema_avg_fn(decay))
    print(f"decay {decay:<7} wrong positions {found[-1][0]:>3} of 512  same output {found[-1][1]}")
found.append(compared())
print(f"{'plain mean':<13} wrong positions {found[-1][0]:>3} of 512  same output {found[-1][1]}")
sys.exit(found != [(147, False), (0, True), (0, True), (99, False), (0, True)])
PY
"$work/venv/bin/python" "$work/check.py"
