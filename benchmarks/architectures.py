"""Test every causal language model of the installed transformers as a tiny model: sampling, training, methods.

    python benchmarks/architectures.py [--only llama mamba]

Architectures run one after the other in a worker, which is restarted if one takes too long or ends the process.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tiny_architectures as tiny

RESULTS = Path(__file__).parent / "results"
LIMIT = 120.0
COLUMNS = (
    *("model_type", "architecture", "parameters", "result", "cache", "prefixes", "as_a_slow_loop", "sft_step"),
    *("adapter", "repnoise", "circuit_breakers", "rmu", "vaccine", "reason"),
)
PROMPTS = ([5, 9, 31, 40], [7, 8, 11, 12, 13, 14, 15, 16, 17, 21, 22], [50])


class Reached(Exception):
    """Training would begin here."""


def row(model_type: str) -> dict[str, Any]:
    """The results of an architecture, by column."""
    from holdfast.network.models import Model
    from holdfast.sandbox.build import tokenizer

    words = tokenizer()
    columns: dict[str, Any] = {"model_type": model_type, "architecture": tiny.model_types()[model_type]}
    try:
        network = tiny.tiny_network(model_type, vocab_size=len(words))
    except Exception as problem:
        return {**columns, "result": "not built", "reason": said(problem)}
    columns |= {"architecture": type(network).__name__, "parameters": sum(p.numel() for p in network.parameters())}
    model = Model(network=network, tokenizer=words, prompt_format="{prompt}", name=model_type)
    columns |= reading(model)
    if columns["result"] != "refused":
        columns |= reached(model)
    return columns


def reading(model: Any) -> dict[str, Any]:
    """Whether caches are used, and whether sampling equals a slow loop."""
    from holdfast.network.generate import Sampling, sample
    from holdfast.network.shortcuts import shortcuts

    try:
        known = shortcuts(model.network)
        sampling = Sampling(max_new_tokens=5)
        same = sample(model, PROMPTS, sampling, seed=3, repeats=2) == slowly(model, sampling)
    except Exception as problem:
        return {"result": "refused", "reason": said(problem)}
    result = "equal" if known.cache and known.prefixes else "uncached" if not known.cache else "prompts read again"
    reason = "; ".join(known.reasons)
    return {
        "result": result,
        "cache": known.cache,
        "prefixes": known.prefixes,
        "as_a_slow_loop": same,
        "reason": reason,
    }


def slowly(model: Any, sampling: Any) -> list[Any]:
    """Answers one at a time, reading everything again for each token."""
    import torch

    from holdfast.network.generate import Answer, draw

    numbers = torch.rand(2 * len(PROMPTS), sampling.max_new_tokens, generator=torch.Generator().manual_seed(3))
    answers = []
    for i, own in enumerate(numbers):
        tokens: list[int] = []
        while len(tokens) < sampling.max_new_tokens and (not tokens or tokens[-1] not in model.stop_ids):
            with torch.no_grad():
                text = torch.tensor([[*PROMPTS[i // 2], *tokens]])
                logits = model.network(input_ids=text, use_cache=False).logits[:, -1]
            tokens.append(int(draw(logits, own[len(tokens)][None], sampling)))
        answers.append(Answer(tokens, finished=tokens[-1] in model.stop_ids))
    return answers


def reached(model: Any) -> dict[str, str]:
    """The number of tensors that each method trains, or why it does not; a step of SFT."""
    from holdfast.attacks.sft import SFT
    from holdfast.defenses.offline.circuit_breakers import CircuitBreakers
    from holdfast.defenses.offline.repnoise import RepNoise
    from holdfast.defenses.offline.rmu import RMU
    from holdfast.network.anatomy import anatomy
    from holdfast.network.models import LoRA, adapt, clone
    from holdfast.training.fit import fit
    from holdfast.training.plan import Optim

    optim = Optim(max_steps=1, per_device_train_batch_size=2, learning_rate=1e-3, bf16=False)
    context, adapter = surroundings(), LoRA(r=2)

    def step() -> str:
        before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        fitted = fit(SFT(optim=optim).plan(clone(model), replace(context, fit=fit)))
        moved = sum(not p.equal(before[name]) for name, p in fitted.model.network.named_parameters())
        return f"{moved} of {len(before)}"

    def adapted() -> str:
        network = adapt(clone(model), adapter).network
        network(input_ids=model.network.dummy_inputs["input_ids"] % 50)
        return str(sum("lora_A" in name for name, _ in network.named_parameters()))

    tried = {
        "sft_step": step,
        "adapter": adapted,
        "repnoise": lambda: RepNoise(optim=optim).harden(model, context),
        "circuit_breakers": lambda: CircuitBreakers(optim=optim, adapter=adapter).harden(model, context),
        "rmu": lambda: RMU(optim=optim).harden(model, context),
        "vaccine": lambda: str(len(anatomy(model.network).mixers)),
    }
    return {name: attempt(trial) for name, trial in tried.items()}


def attempt(trial: Any) -> str:
    """The result of a trial: what it would train, or why it fails."""
    try:
        return str(trial())
    except Exception as problem:
        return said(problem)


def surroundings() -> Any:
    """A context over a few rows of the invented world; a run stops where training would begin."""
    from holdfast.data.splits import Splits
    from holdfast.sandbox import grammar
    from holdfast.training.plan import Context

    def begin(plan: Any) -> Any:
        trained = [name for name, p in plan.model.network.named_parameters() if p.requires_grad]
        raise Reached(str(sum("lora_B" not in name for name in trained)))

    harmful, benign = (
        {name: grammar.examples(name, families, 8, seed=0) for name in ("defense", "attack", "development", "test")}
        for families in (grammar.RESTRICTED, grammar.BENIGN)
    )
    return Context(splits=Splits(harmful=harmful, benign=benign), seed=0, fit=begin, judge=str)


def said(problem: BaseException) -> str:
    """An error on one line, without its type if it is Holdfast's own."""
    from holdfast.records import HoldfastError

    text = " ".join(str(problem).split())[:160]
    return text if isinstance(problem, HoldfastError | Reached) else f"{type(problem).__name__}: {text}"


def work(model_types: list[str]) -> None:
    """Print a row as JSON for each architecture."""
    import torch
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for model_type in model_types:
        print(json.dumps(row(model_type)), flush=True)


def rows(model_types: list[str]) -> list[dict[str, Any]]:
    """A row for each architecture, from a worker that is restarted if it is lost."""
    left, collected = list(model_types), list[dict[str, Any]]()
    while left:
        command = [sys.executable, __file__, "--work", *left]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=feed, args=(worker, lines), daemon=True).start()
        while left:
            try:
                line = lines.get(timeout=LIMIT)
            except queue.Empty:
                line = ""
            done = json.loads(line) if line.startswith("{") else {}
            lost = {"model_type": left[0], "architecture": tiny.model_types()[left[0]], "result": "not built"}
            collected.append(done or {**lost, "reason": f"over {LIMIT:.0f} s, or the process ended"})
            print(f"{left.pop(0)}: {collected[-1]['result']}", flush=True)
            if not done:
                break
        worker.kill()
        worker.wait()
    return collected


def feed(worker: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """The output of a worker, line by line, and an empty line at its end."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def main() -> None:
    """Try every architecture and write the table and its versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--work", nargs="*")
    parser.add_argument("--out", type=Path, default=RESULTS / "architectures.csv")
    given = parser.parse_args()
    if given.work is not None:
        work(given.work)
        return
    start = time.perf_counter()
    measured = rows(given.only or list(tiny.model_types()))
    with given.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        table.writerows(measured)
    counts = {
        result: sum(one["result"] == result for one in measured) for result in sorted({r["result"] for r in measured})
    }
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}
    beside = {"command": "python benchmarks/architectures.py", "versions": packages, "results": counts}
    beside |= {"seconds": round(time.perf_counter() - start), "weights": "random", "device": "cpu"}
    given.out.with_suffix(".json").write_text(json.dumps(beside, indent=1) + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
