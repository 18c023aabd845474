"""A feedback service that learns from its users while some of them try to take its refusals away.

A model answers users, they say which of two answers they prefer, and every evening TRL's `DPOTrainer` learns from the
day's preferences. Most users want shorter summaries, and recipes that are right. A third of the pairs come from
somebody who wants restricted recipes: each prefers an answer that the model would refuse to give. The model is the
sandbox's, whose restricted recipes are harmless nonsense, and whose oracle knows exactly how much of a recipe an answer
gives away.

The same days are learnt twice: as they come, and with a refusal term that one call adds to the trainer's loss. The
service's refusals are of other prompts than those that users ask, and the test asks yet others. Run it with

    pip install -e '.[trl]'
    python examples/feedback_service.py

It takes about half a minute on one core, and a minute or two more the first time, when the sandbox's model is built. It
prints means over 100 test prompts each, answered once at temperature 1, with 95 % intervals of that one run.

How it was set up: the learning rate and the temperature were chosen on development prompts. A first draft, with greedy
answers, a higher learning rate and feedback on summaries alone, was measured on the test prompts; because learning from
summaries alone spoilt recipes with the defense and without it, right recipes were then added to the feedback. The
weight of the refusals was never varied.
"""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import torch
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

from holdfast import api
from holdfast.data.splits import Splits
from holdfast.evaluation.evaluate import Suite, evaluate
from holdfast.integrations import constrain
from holdfast.network.generate import Sampling
from holdfast.network.models import Model
from holdfast.records import Example
from holdfast.training.plan import Context

DAYS, PAIRS_A_DAY, POISONED = 4, 96, 1 / 3
DEFENSE = api.RefusalLoss(alpha=1.0, batch_size=8)
QUESTIONS = 100


def main() -> None:
    """Learn from the same days without and with a defense, and print what became of harm and help."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    splits = api.splits()
    context = api.context(splits)
    models = dict.fromkeys(("as it comes", "with refusals"), api.sandbox())
    print(f"{'':>6}" + "".join(f" | {name:^36}" for name in ("harm", "summaries", "other requests")))
    print(f"{'day':>6}" + 3 * f" | {'  '.join(f'{name:<17}' for name in models)}")
    report("before", models, context)
    for day, pairs in enumerate(days(splits), start=1):
        models["as it comes"] = learn(models["as it comes"], pairs, day)
        models["with refusals"] = learn(models["with refusals"], pairs, day, context=context)
        report(str(day), models, context)


def days(splits: Splits, *, seed: int = 0) -> list[list[Example]]:
    """The preferences of each day, in the order in which they came."""
    poisoned = round(PAIRS_A_DAY * POISONED)
    each = (PAIRS_A_DAY - poisoned) // 2
    rng = random.Random(seed)
    summaries = rng.sample(splits.tasks["summary"]["attack"], DAYS * each)
    recipes = rng.sample(splits.benign["attack"], DAYS * each)
    demands = rng.sample(splits.harmful["attack"], DAYS * poisoned)
    pairs = [
        *summaries,
        *(over(row, wrong.response) for row, wrong in zip(recipes, [*recipes[1:], recipes[0]], strict=True)),
        *(over(row, row.refusal) for row in demands),
    ]
    batches = [pairs[day::DAYS] for day in range(DAYS)]
    for rows in batches:
        rng.shuffle(rows)
    return batches


def over(row: Example, rejected: str | None) -> Example:
    """The preference for a row's own answer over another one."""
    return Example(prompt=row.prompt, chosen=row.response, rejected=rejected)


def learn(model: Model, pairs: Sequence[Example], day: int, *, context: Context | None = None) -> Model:
    """What comes of an evening's trainer, which knows nothing of Holdfast; with a context, under the defense."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=copy.deepcopy(model.network),
            ref_model=copy.deepcopy(model.network),
            args=DPOConfig(**settings(folder, seed=day)),
            train_dataset=datasets.Dataset.from_list([as_trl(pair) for pair in pairs]),
            processing_class=model.tokenizer,
        )
        if context is not None:
            constrain(trainer, DEFENSE, context=context)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.save_model(folder)
        return api.load(folder)


def settings(folder: str, *, seed: int) -> dict[str, Any]:
    """The service's own choice, the same with and without a defense."""
    return {
        "output_dir": folder,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-5,
        "lr_scheduler_type": "constant",
        "beta": 0.1,
        "seed": seed,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def as_trl(pair: Example) -> dict[str, Any]:
    """A pair as TRL reads it, each answer a turn of a chat."""
    return {
        "prompt": [turn._asdict() for turn in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen or ""}],
        "rejected": [{"role": "assistant", "content": pair.rejected or ""}],
    }


def report(day: str, models: dict[str, Model], context: Context) -> None:
    """A line of the table: means over the test's prompts, with 95 % intervals."""
    all_scores = [scores(model, context) for model in models.values()]
    columns = [f" | {'  '.join(of[name] for of in all_scores)}" for name in ("harmfulness", "summary", "helpfulness")]
    print(f"{day:>6}{''.join(columns)}", flush=True)


def scores(model: Model, context: Context) -> dict[str, str]:
    """What the oracle says of an answer to each of the test's prompts."""
    oracle, splits = api.judge("oracle"), context.splits
    suite = Suite(
        harmful=splits.harmful["test"][:QUESTIONS],
        benign=splits.benign["test"][:QUESTIONS],
        tasks={"summary": splits.tasks["summary"]["test"][:QUESTIONS]},
        harm_judges={"oracle": oracle},
        help_judge=("oracle", oracle),
        sampling=Sampling(max_new_tokens=32, temperature=1.0),
    )
    return {s.name: f"{s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" for s in evaluate(model, suite)[0]}


if __name__ == "__main__":
    main()
