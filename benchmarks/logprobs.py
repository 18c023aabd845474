"""Log-probabilities of a large vocabulary with all logits in memory and without: memory, time and exactness.

    python benchmarks/logprobs.py --repetitions 2

`sft` is a step of SFT on 4 layers with 151,936 tokens (Qwen2 shape, hidden size 256, random weights), two rows of 512
tokens of which 480 are learnt: forward, backward, clipping, AdamW; `sft, frozen head` the same with a LoRA adapter on
every linear layer but the head. `plain` keeps all logits, as every version did before; `in parts` is what Holdfast
does. `head` is the head alone, beside `torch.nn.functional.linear_cross_entropy` in chunks of the same number of
logits, with errors relative to float64: a trained head, and a frozen one.

Every case and way is a process of its own, and repetitions (of `sft` only) alternate. Times are CPU time of a step in
one thread after one of warm-up. `tensors` is the exact peak of all tensors alive in the first step, weights and
optimizer state included; `peak` is the most memory that the process held, with Python and the libraries. The weights of
the head, their gradient and optimizer state are in both, so what is saved is a smaller share of a wider network.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from runs import RESULTS, machine, step_versions
from torch import Tensor, nn
from torch.nn import functional

from holdfast.distributions import Head, LogProb
from holdfast.distributions.chunked import PART, chunked
from holdfast.network import heads
from holdfast.network.models import LoRA, Model, adapt
from holdfast.sandbox.build import tokenizer
from holdfast.training.objectives import language

VOCABULARY, HIDDEN, LAYERS, ROWS, LENGTH, PROMPT = 151_936, 256, 4, 2, 512, 32
CASES = {
    "sft": ("plain", "in parts"),
    "sft, frozen head": ("plain", "in parts"),
    "head": ("plain", "in parts", "torch"),
    "head, frozen": ("plain", "in parts", "torch"),
}
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1, help="steps measured in each process")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS / "logprobs.json")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(*options.case, options.steps)))
        return
    runs: list[dict[str, Any]] = []
    for repetition in range(options.repetitions):
        for case in options.only if repetition == 0 else [case for case in options.only if case.startswith("sft")]:
            ways = CASES[case]
            for way in ways if repetition % 2 == 0 else ways[::-1]:
                runs.append({"case": case, "way": way, **apart(case, way, options.steps)})
                print(runs[-1], flush=True)
    results = [compared(runs, case) for case in options.only]
    show(results)
    sizes = {"vocabulary": VOCABULARY, "hidden": HIDDEN, "layers": LAYERS, "rows": ROWS, "columns": LENGTH}
    counts = {"repetitions": options.repetitions, "steps": options.steps, "warm_up": 1, "threads": 1}
    report = {"settings": {**sizes, "prompt": PROMPT, **counts, **step_versions(), **machine()}, "results": results}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {options.out}")


def apart(case: str, way: str, steps: int) -> dict[str, Any]:
    """The measurement of a case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, way, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measurement: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measurement


def measured(case: str, way: str, steps: int) -> dict[str, Any]:
    """CPU seconds of each step, the process's peak, and the exact peak of tensors in a further step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if way == "plain":
        heads.LARGE_LOGITS = sys.maxsize
    weights, step, more = training(case) if case.startswith("sft") else head_alone(way, trained="frozen" not in case)
    tensors = (peak_bytes(step) + sum(t.numel() * t.element_size() for t in weights)) / 2**20
    times = []
    for _ in range(steps):
        since = time.process_time()
        step()
        times.append(time.process_time() - since)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"cpu": times, "peak_mib": round(peak, 1), "tensors_mib": round(tensors, 1), **more()}


def training(case: str) -> tuple[list[Tensor], Step, Callable[[], dict[str, float]]]:
    """A network's weights, a step of SFT, and its losses."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Model(network=Qwen2ForCausalLM(config), tokenizer=tokenizer(), name="random")
    network = adapt(model, LoRA(r=16), seed=0).network if "frozen" in case else model.network
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    mask = (torch.arange(LENGTH) >= PROMPT).long().expand(ROWS, LENGTH)
    batch = {"input_ids": torch.randint(VOCABULARY, (ROWS, LENGTH)), "loss_mask": mask}
    losses: list[float] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = language(network, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))

    return list(network.parameters()), step, lambda: {"first_loss": losses[0], "last_loss": losses[-1]}


def head_alone(way: str, *, trained: bool) -> tuple[list[Tensor], Step, Callable[[], dict[str, float]]]:
    """The same for the head alone; instead of a loss, the errors relative to float64."""
    count = ROWS * (LENGTH - PROMPT)
    weight = (0.05 * torch.randn(VOCABULARY, HIDDEN)).requires_grad_(trained)
    states, tokens = torch.randn(count, HIDDEN).requires_grad_(), torch.randint(VOCABULARY, (count,))
    weights = torch.rand(count)
    logprobs = {"plain": _plain, "in parts": _in_parts, "torch": _torch}[way]

    def step() -> None:
        states.grad = weight.grad = None
        (logprobs(states, weight, tokens) * weights).sum().backward()

    def errors() -> dict[str, float]:
        value, by_states = _exactly(states.detach(), weight.detach(), tokens, weights)
        with torch.no_grad():
            computed = logprobs(states, weight, tokens)
        assert states.grad is not None
        return {
            "largest_error": float((computed - value).abs().max()),
            "relative_error_of_gradient": float((states.grad - by_states).norm() / by_states.norm()),
        }

    return [states, weight], step, errors


def _plain(states: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    return -functional.cross_entropy(states @ weight.T, tokens, reduction="none")


def _in_parts(states: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    return chunked(states, Head(weight=weight), [LogProb(tokens)])[0]


def _torch(states: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=PART // VOCABULARY)
    return -functional.linear_cross_entropy(states, weight, tokens, reduction="none", options=options)


def _exactly(states: Tensor, weight: Tensor, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and the gradient of the states in float64, some rows at a time."""
    values, slopes, wide = [], [], weight.double()
    for part, token, factor in zip(states.split(64), tokens.split(64), weights.split(64), strict=True):
        logprobs = (part.double() @ wide.T).log_softmax(-1)
        values.append(logprobs.gather(1, token[:, None]).squeeze(1))
        slopes.append((wide[token] - logprobs.exp() @ wide) * factor[:, None])
    return torch.cat(values), torch.cat(slopes)


def compared(runs: Sequence[dict[str, Any]], case: str) -> dict[str, Any]:
    """A case's figures by way, and each way's time and memory as a share of the plain one's."""
    result: dict[str, Any] = {"case": case}
    for way in CASES[case]:
        own = [run for run in runs if (run["case"], run["way"]) == (case, way)]
        result[way] = {
            "cpu": median(seconds for run in own for seconds in run["cpu"]),
            "cpu_by_run": [run["cpu"] for run in own],
            **{name: max(run[name] for run in own) for name in own[0] if name not in ("case", "way", "cpu")},
        }
    for way in CASES[case][1:]:
        pairs = zip(result["plain"]["cpu_by_run"], result[way]["cpu_by_run"], strict=True)
        ratios = [fmean(other) / fmean(plain) for plain, other in pairs]
        spread = stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
        result[way] |= {
            "time_share": fmean(ratios),
            "time_share_standard_error": spread,
            "time_share_by_run": ratios,
            "tensors_share": result[way]["tensors_mib"] / result["plain"]["tensors_mib"],
            "peak_share": result[way]["peak_mib"] / result["plain"]["peak_mib"],
        }
    return result


def show(results: Sequence[dict[str, Any]]) -> None:
    table = Table("case", "way", "CPU s", "of plain", "tensors MiB", "of plain", "peak MiB", "of plain")
    for row in results:
        for way in CASES[row["case"]]:
            own = row[way]
            shares = [
                f"{own[name]:.2f}" if name in own else "" for name in ("time_share", "tensors_share", "peak_share")
            ]
            sizes = [f"{own['tensors_mib']:.0f}", shares[1], f"{own['peak_mib']:.0f}", shares[2]]
            table.add_row(row["case"], way, f"{own['cpu']:.2f}", shares[0], *sizes)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
