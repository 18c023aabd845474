#!/usr/bin/env bash
# With gradient accumulation the Trainer multiplies the balancing loss of a mixture of experts by the number of steps.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, Python 3.11, CPU.
# Expected: the same eight rows make the same gradient, whether they come as one batch or as micro-batches that are added
#   up: `gradient_accumulation_steps` is there to save memory, and `router_aux_loss_coef` weighs the balancing loss.
# Seen: the model divides the cross entropy by the number of all labels, which the Trainer hands to it, so the Trainer does
#   not divide the loss by the number of steps. But the model adds its balancing loss whole for every micro-batch. Cross
#   entropy alone is equal throughout; the loss logged and the router's gradient grow with the number of steps, without a
#   warning:
#     1 x 8 rows  cross entropy 3.435  balancing loss counted 1.00 times  router gradient 0.317
#     2 x 4 rows  cross entropy 3.435  balancing loss counted 2.00 times  router gradient 0.634
#     4 x 2 rows  cross entropy 3.435  balancing loss counted 4.00 times  router gradient 1.268
#     8 x 1 rows  cross entropy 3.435  balancing loss counted 8.00 times  router gradient 2.536
#   Looked for in public issues and pull requests: huggingface/transformers#48690 has the same term times the number of
#   processes; for accumulation none was found. By its source TRL 1.16.0
#   divides it itself in GRPO and SFT; its other trainers were not looked at. Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0
cat > "$work/check.py" <<'PY'
import contextlib
import sys
from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainerCallback, TrainingArguments

FOLDER = Path(sys.argv[1])
ROW = [5, 17, 3, 29, 11, 8, 23, 2]


class Kept(TrainerCallback):
    norm = 0.0

    def on_pre_optimizer_step(self, arguments, state, control, model, **others):
        self.norm = next(part for name, part in model.named_parameters() if "mlp.gate" in name).grad.norm().item()


def step(steps, coefficient):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=coefficient,
    )
    arguments = TrainingArguments(
        FOLDER, per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps, max_steps=1, logging_steps=1,
        learning_rate=0.0, max_grad_norm=0.0, report_to=[], save_strategy="no", use_cpu=True,
    )
    kept = Kept()
    rows = [{"input_ids": ROW, "labels": ROW}] * 8
    trainer = Trainer(MixtralForCausalLM(config), arguments, train_dataset=rows, callbacks=[kept])
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return trainer.state.log_history[0]["loss"], kept.norm


found = []
for steps in (1, 2, 4, 8):
    alone, _ = step(steps, 0.0)
    both, gradient = step(steps, 0.5)
    found.append((both - alone, gradient))
    times = found[-1][0] / found[0][0]
    print(
        f"{steps} x {8 // steps} rows  cross entropy {alone:.3f}  balancing loss counted {times:.2f} times  "
        f"router gradient {gradient:.3f}"
    )
grown = [[round(value / first) for value, first in zip(each, found[0])] for each in found]
sys.exit(grown != [[steps, steps] for steps in (1, 2, 4, 8)])
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/check.py" "$work/out" 2> "$work/errors" || { status=$?; cat "$work/errors" >&2; exit "$status"; }
