"""Rollouts and a GRPO step on one GPU, with and without CUDA graphs, beside transformers' own generation.

    python benchmarks/rollout_gpu.py --out benchmarks/results/rollout_gpu.json

A network of random weights in the shape of Qwen2-0.5B (0.49 billion weights, vocabulary 151,936), 8 prompts x 8 answers
of exactly 256 tokens: no token ends one. Rows, each a process of its own with a time limit of its own, so that its peak
memory is its own and a failure is a row:

- `plain`, `graphs`, `generate`: a rollout with bfloat16 weights, by Holdfast without and with CUDA graphs and by
  transformers; tokens a second, milliseconds a token step;
- `plain_autocast`, `graphs_autocast`: the same with float32 weights computed in bfloat16, as while a run trains;
- `same_float32`: whether float32 tokens are the same with and without graphs, and how far log-probabilities differ;
- `architectures`: the same on tiny networks of a dozen architectures, and which of them graphs are used for;
- `step_plain`, `step_graphs`, `step_budget`: a GRPO step (float32 weights, bfloat16 computing, AdamW), its rollout and
  its update: without graphs and with all logits in memory, as it was before there were either; as it is; and with an
  update in parts of at most `BUDGET` tokens;
- `kernels`: where the time of a recorded step goes, by kernel.

Rows are tried in this order while `--minutes` last, in at most 9 minutes by default; the file is written after each.
`--small` is a test of this script on any machine: a tiny network, a few short answers, and where there is no CUDA steps
that are called instead of recorded. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

ROWS = {
    **{"plain": 60, "graphs": 60, "generate": 60, "step_plain": 90, "step_graphs": 75, "step_budget": 75},
    **{"same_float32": 75, "architectures": 90, "plain_autocast": 60, "graphs_autocast": 60, "kernels": 60},
}
"""The rows in order, with the most seconds that each may take."""
BUDGET = 4096
"""The tokens, padding included, of a part of a batch in `step_budget`."""
LEAST = 15
"""A row is not begun with fewer seconds left."""
KINDS = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox"),
    *("olmo2", "smollm3", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Prompts, answers to each, tokens of an answer and of a prompt, repetitions, steps of training."""

    prompts: int = 8
    group: int = 8
    tokens: int = 256
    prompt: int = 64
    repetitions: int = 2
    steps: int = 2


SMALL = Size(prompts=2, group=2, tokens=12, prompt=6, repetitions=1, steps=1)


def main() -> None:
    options = arguments()
    if options.row:
        print(json.dumps(measured(options.row, small=options.small)))
        return
    end = time.monotonic() + 60 * options.minutes
    report: dict[str, Any] = {"settings": settings(options), "rows": {}}
    for name in options.rows:
        report["rows"][name] = in_process(name, end - time.monotonic(), small=options.small)
        report["ratios"] = ratios(report["rows"])
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(report["rows"][name])[:300], flush=True)
    print(json.dumps(report["ratios"]))
    print(f"wrote {options.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--minutes", type=float, default=8.7, help="no row ends later")
    parser.add_argument("--small", action="store_true", help="a tiny network, on any machine")
    parser.add_argument("--row", choices=ROWS, help="measure one row in this process")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollout_gpu.json")
    return parser.parse_args()


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and with what."""
    from holdfast.experiment.machine import environment

    return {**vars(SMALL if options.small else Size()), "small": options.small, "environment": environment()}


def in_process(name: str, left: float, *, small: bool) -> dict[str, Any]:
    """One row, measured in a process of its own; an `error` if it fails or takes too long."""
    limit = min(ROWS[name], left)
    if limit < LEAST:
        return {"error": "no time was left"}
    command = [sys.executable, __file__, "--row", name, *(["--small"] if small else [])]
    started = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {limit:.0f} s"}
    if ended.returncode:
        return {"error": (ended.stderr.strip().splitlines() or ["no message"])[-1][:500]}
    warned = [line.strip() for line in ended.stderr.splitlines() if "without CUDA graphs" in line]
    row = json.loads(ended.stdout.splitlines()[-1])
    return {**row, "process_seconds": round(time.monotonic() - started, 1), **({"warnings": warned} if warned else {})}


def ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """The figures that compare two rows, of those that are there."""
    pairs = {
        "rollout_over_plain": ("graphs", "plain", "tokens_per_second"),
        "rollout_over_generate": ("graphs", "generate", "tokens_per_second"),
        "autocast_over_plain": ("graphs_autocast", "plain_autocast", "tokens_per_second"),
        "step_over_plain": ("step_plain", "step_graphs", "step_seconds"),
        "budget_step_over_plain": ("step_plain", "step_budget", "step_seconds"),
        "step_memory_share": ("step_graphs", "step_plain", "peak_gib"),
        "budget_step_memory_share": ("step_budget", "step_plain", "peak_gib"),
    }
    return {
        name: round(rows[one][figure] / rows[other][figure], 3)
        for name, (one, other, figure) in pairs.items()
        if rows.get(one, {}).get(figure) and rows.get(other, {}).get(figure)
    }


def measured(name: str, *, small: bool) -> dict[str, Any]:
    """The figures of one row."""
    import torch

    from holdfast.network import heads, static_use

    size = SMALL if small else Size()
    if small and not torch.cuda.is_available():
        static_use.DEVICES.add("cpu")
    os.environ[static_use.VARIABLE] = "0" if name in ("plain", "plain_autocast", "step_plain") else "1"
    if name == "step_plain":
        heads.LARGE_LOGITS = 2**62
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "generate": lambda: generate(size, small=small),
        "same_float32": lambda: same(model_of(small=small, dtype=torch.float32), size),
        "architectures": lambda: architectures(size, KINDS[:2] if small else KINDS),
        "step_plain": lambda: step(size, small=small),
        "step_graphs": lambda: step(size, small=small),
        "step_budget": lambda: step(size, small=small, budget=30 if small else BUDGET),
        "kernels": lambda: kernels(size, small=small),
    }
    row = rows.get(name, lambda: rollout(size, small=small, autocast=name.endswith("autocast")))()
    return {**row, **memory()}


def memory() -> dict[str, Any]:
    """The peak of allocated and of reserved memory on the GPU; of the process where there is none."""
    import torch

    from holdfast.experiment.machine import peak_memory_mb

    if not torch.cuda.is_available():
        return {"peak_gib": round(peak_memory_mb() / 1024, 3)}
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
    }


def model_of(*, small: bool, dtype: Any) -> Any:
    """A model of random weights, none of whose tokens ends an answer."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from holdfast.network.models import Model
    from holdfast.sandbox.build import tokenizer

    class Endless(Model):
        """A model whose answers never end before the limit."""

        @property
        def stop_ids(self) -> tuple[int, ...]:
            """No token."""
            return (-1,)

    shape = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    if small:
        shape = {"hidden_size": 28, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 14}
    config = Qwen2Config(
        **shape,
        num_key_value_heads=2,
        vocab_size=512 if small else 151_936,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return Endless(network=network.to(device()), tokenizer=tokenizer(), name="random weights")


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def prompts_of(model: Any, size: Size) -> list[list[int]]:
    """Prompts of unlike length, up to `size.prompt` tokens."""
    vocabulary = model.network.config.vocab_size
    lengths = [size.prompt - 3 * (i % 4) if size.prompt > 12 else size.prompt - i % 3 for i in range(size.prompts)]
    return [[(7 + 31 * i + 17 * j) % (vocabulary - 8) + 4 for j in range(n)] for i, n in enumerate(lengths)]


def timed(call: Callable[[], Any], repetitions: int) -> tuple[float, list[float]]:
    """Seconds of a first call, and of each later one."""
    import torch

    seconds = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1:]


def figures(size: Size, first: float, seconds: Sequence[float]) -> dict[str, Any]:
    """Tokens a second and milliseconds a token step, of the median call."""
    usual = median(seconds)
    return {
        "tokens_per_second": round(size.prompts * size.group * size.tokens / usual, 1),
        "milliseconds_per_token_step": round(1000 * usual / size.tokens, 3),
        "first_seconds": round(first, 3),
        "seconds": [round(value, 3) for value in seconds],
    }


def rollout(size: Size, *, small: bool, autocast: bool) -> dict[str, Any]:
    """A rollout by Holdfast, with graphs unless they are turned off."""
    import torch

    from holdfast.network import static_use
    from holdfast.network.generate import Sampling, sample
    from holdfast.network.precision import mark

    model = model_of(small=small, dtype=torch.float32 if autocast else torch.bfloat16)
    mark(model.network, bf16=autocast)
    asked, sampling = prompts_of(model, size), Sampling(max_new_tokens=size.tokens)
    first, seconds = timed(lambda: sample(model, asked, sampling, seed=0, repeats=size.group), size.repetitions)
    used = static_use.is_in_use(model.network)
    reasons = list(static_use.static_reasons(model.network))
    return {**figures(size, first, seconds), "graphs": used, **({"reasons": reasons} if reasons else {})}


def generate(size: Size, *, small: bool) -> dict[str, Any]:
    """A rollout by transformers' `generate`, with the cache that it takes by default."""
    import torch

    from holdfast.tensors import pad_left

    model = model_of(small=small, dtype=torch.bfloat16)
    tokens, mask = (part.to(device()).repeat_interleave(size.group, 0) for part in pad_left(prompts_of(model, size), 0))
    network = model.network

    def call() -> None:
        written = network.generate(
            input_ids=tokens,
            attention_mask=mask,
            pad_token_id=0,
            max_new_tokens=size.tokens,
            min_new_tokens=size.tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
        )
        assert written.shape[1] == tokens.shape[1] + size.tokens

    return figures(size, *timed(call, size.repetitions))


def same(model: Any, size: Size) -> dict[str, Any]:
    """Whether tokens are the same with and without graphs, and the largest difference of log-probabilities."""
    from holdfast.network import static_use
    from holdfast.network.generate import Sampling, sample

    asked, sampling = prompts_of(model, size), Sampling(max_new_tokens=size.tokens)

    def sampled() -> list[Any]:
        return sample(model, asked, sampling, seed=1, repeats=size.group, logprobs=True)

    steady = sampled()
    used = static_use.is_in_use(model.network)
    os.environ[static_use.VARIABLE] = "0"
    plain = sampled()
    os.environ[static_use.VARIABLE] = "1"
    alike = [one.tokens == other.tokens for one, other in zip(steady, plain, strict=True)]
    gaps = [
        abs(a - b)
        for one, other in zip(steady, plain, strict=True)
        for t, (a, b) in enumerate(zip(one.logprobs, other.logprobs, strict=False))
        if one.tokens[: t + 1] == other.tokens[: t + 1]
    ]
    result = {
        "graphs": used,
        "answers": len(alike),
        "same_answers": sum(alike),
        "largest_logprob_difference": max(gaps),
    }
    reasons = list(static_use.static_reasons(model.network))
    return {**result, **({"reasons": reasons} if reasons else {})}


def architectures(size: Size, kinds: Sequence[str]) -> dict[str, Any]:
    """`same` for tiny networks of some architectures; an error is a row."""
    from tiny_architectures import tiny_network

    from holdfast.network.models import Model
    from holdfast.sandbox.build import tokenizer

    short, by_kind = replace(size, tokens=min(size.tokens, 32), prompt=min(size.prompt, 24)), {}
    for kind in kinds:
        try:
            network = tiny_network(kind).to(device())
            by_kind[kind] = same(Model(network=network, tokenizer=tokenizer(), name=kind), short)
        except Exception as problem:  # of any kind: the others are measured all the same
            by_kind[kind] = {"error": f"{type(problem).__name__}: {problem}"[:300]}
    return {"architectures": by_kind}


def step(size: Size, *, small: bool, budget: int | None = None) -> dict[str, Any]:
    """GRPO steps after a first one: seconds of a step, of its rollout and of the rest."""
    import torch
    from runs import Run

    from holdfast import api
    from holdfast.data.splits import Splits
    from holdfast.network import static_use
    from holdfast.training.fit import fit

    model = model_of(small=small, dtype=torch.float32)
    rows = api.splits().harmful["attack"][: 4 * size.prompts]
    run = Run(system="Holdfast", case="", seed=0)

    def tick() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        run.tick()

    batches = {"per_device_train_batch_size": size.prompts, "max_tokens_per_batch": budget}
    optim = api.Optim(max_steps=size.steps + 1, learning_rate=1e-6, **batches)
    attack = api.GRPO(optim=optim, policy=api.Policy(group_size=size.group), reward=api.AttackReward(judge="keyword"))
    splits = Splits(harmful={"attack": rows}, benign={})
    plan = attack.plan(model, api.context(splits, seed=0, max_new_tokens=size.tokens))
    prepare = replace(plan.prepare, reward=varied)  # type: ignore[type-var]

    def rolled_out(*args: Any) -> Any:
        started = time.perf_counter()
        batches = prepare(*args)
        run.note(rollout=time.perf_counter() - started)  # the answers have been waited for
        return batches

    hooks = (*plan.hooks, lambda progress: None if progress.phase == "end" else tick())
    fit(replace(plan, prepare=rolled_out, hooks=hooks))
    seconds = [after - before for before, after in pairwise(run.wall)]
    usual, rolling = median(seconds[1:]), median(run.recorded["rollout"][1:])
    return {
        "step_seconds": round(usual, 3),
        "parts": {"rollout": round(rolling, 3), "rest": round(usual - rolling, 3)},
        "graphs": static_use.is_in_use(model.network),
        "first_seconds": round(seconds[0], 3),
    }


def varied(completions: Sequence[Any]) -> list[float | None]:
    """A reward that costs nothing and differs within a group."""
    return [i % 7 / 7 for i in range(len(completions))]


def kernels(size: Size, *, small: bool) -> dict[str, Any]:
    """Milliseconds of a token step by kernel, of the longest ones; the prompts' reading is in them."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from holdfast.network.generate import Sampling, sample

    model = model_of(small=small, dtype=torch.bfloat16)
    asked, sampling = prompts_of(model, size), Sampling(max_new_tokens=size.tokens)

    def call() -> None:
        sample(model, asked, sampling, seed=0, repeats=size.group)

    call()
    on_gpu = torch.cuda.is_available()
    watch = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
    with watch:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    times = {row.key: row.self_device_time_total if on_gpu else row.self_cpu_time_total for row in watch.key_averages()}
    longest = sorted(times, key=lambda name: times[name], reverse=True)[:15]
    per_step = {name[:120]: round(times[name] / 1000 / size.tokens, 4) for name in longest}
    return {"milliseconds": {**per_step, "all": round(sum(times.values()) / 1000 / size.tokens, 4)}}


if __name__ == "__main__":
    main()
