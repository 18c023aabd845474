"""A cell's model, examples and judges as objects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.data.mixing import distinct, sample
from holdfast.data.splits import Splits
from holdfast.evaluation.measurement import Measurement
from holdfast.evaluation.metric_settings import Perplexity
from holdfast.evaluation.overlap import require_library
from holdfast.evaluation.suite import Suite
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.checked_calls import judge_from
from holdfast.experiment.judging import trained_judge
from holdfast.experiment.methods import at_commit, configured
from holdfast.files.hub import pinned
from holdfast.judges import JUDGES, TRAINED
from holdfast.methods.settings import typed
from holdfast.network.generate import Sampling
from holdfast.network.models import Model, check_lengths, load
from holdfast.network.pretrained import Pretrained
from holdfast.records import Cell, Example, HoldfastError, Judge, Method
from holdfast.rl.rewards import AttackReward, Reward, from_judge
from holdfast.sandbox.build import Sandbox
from holdfast.training.plan import Context, Fit

NAMED = ("undefended", "base")
"""Models that a cell knows by name."""


def load_model(cell: Cell, folder: Path | None) -> Model:
    """A cell's model: from `folder` if a stage or the sandbox made it, else the pretrained one that it names.

    Raises:
        HoldfastError: it has not been made, or cannot be loaded.
    """
    settings = settings_of(cell)
    model = settings.model
    if isinstance(model, Sandbox):
        if folder is None:
            raise HoldfastError("the sandbox's model has not been built: run `holdfast sandbox build`")
        return load(folder)
    if folder is not None:
        return load(folder, dtype=model.dtype, **_chat_settings(model))
    # A branch may change between two cells of one key.
    revision = pinned(settings.model_fingerprint) or model.revision
    return load(model.path, revision=revision, dtype=model.dtype, **_chat_settings(model))


def _chat_settings(model: Sandbox | Pretrained) -> dict[str, Any]:
    """The settings of a model's prompt format; the sandbox's models have none."""
    if isinstance(model, Sandbox):
        return {}
    return {
        "prompt_format": model.prompt_format,
        "chat_template_kwargs": model.chat_template_kwargs,
        "date": model.date,
    }


def judge_of(cell: Cell, run: Path) -> Callable[[str], Judge]:
    """A cell's judges by name; each is loaded once. Trained ones are in the run's folder."""

    @cache
    def judge(name: str) -> Judge:
        method = cell.judges[name]
        return trained_judge(method, cell, run) if method.name in TRAINED else make_judge(at_commit(method))

    return judge


def make_judge(method: Method) -> Judge:
    """A judge from its name and settings."""
    settings = typed(JUDGES.load(method.name), method.settings, method.title)
    return judge_from(settings)


def context_of(
    cell: Cell, splits: Splits, judge: Callable[[str], Judge], fit: Fit, *, models: Mapping[str, Path] | None = None
) -> Context:
    """The context of a cell's methods; `models` are the folders of generally available models."""
    return Context(
        splits=splits,
        seed=cell.seed,
        fit=fit,
        judge=judge,
        max_new_tokens=settings_of(cell).evaluation.max_new_tokens,
        models=_others(cell, models or {}),
    )


def _others(cell: Cell, folders: Mapping[str, Path]) -> Callable[[str], Model]:
    """Models by name (`undefended`, `base`), folder or id."""

    def others(name: str) -> Model:
        if name == "undefended":
            return load_model(cell.undefended, folders.get(name))
        if name == "base" and name not in folders:
            raise HoldfastError("the base model is known only in the sandbox: name yours by folder or id")
        return load(folders.get(name, name), **_chat_settings(settings_of(cell).model))

    return others


def reference_of(cell: Cell, models: Mapping[str, Path] | None = None) -> Callable[[], Model] | None:
    """The model of reference of a cell's perplexity, loaded at the first call; `None` if that is not measured."""
    settings = settings_of(cell)
    wanted = settings.evaluation.metrics.perplexity
    if wanted is None:
        return None

    @cache
    def reference() -> Model:
        if wanted.path in NAMED:
            return _others(cell, models or {})(wanted.path)
        return load_reference(wanted, commit=pinned(settings.evaluation_fingerprints.get(wanted.path, "")))

    return reference


def load_reference(wanted: Perplexity, *, commit: str | None = None) -> Model:
    """A model of reference by folder, file or id, at the commit if it is known.

    Raises:
        HoldfastError: it cannot be loaded.
    """
    plain = "{prompt}" if wanted.given == "nothing" else None  # a model without a chat template will do
    return load(wanted.path, revision=commit or wanted.revision, prompt_format=plain)


def refuse_unreadable(cell: Cell) -> None:
    """Load a cell's model of reference, if it is not one that is made or loaded anyway.

    Raises:
        HoldfastError: it cannot be loaded, or the cell has no such model.
    """
    wanted, reference = settings_of(cell).evaluation.metrics.perplexity, reference_of(cell)
    if wanted is None or reference is None or wanted.path == "undefended":
        return
    if wanted.path != "base" or not is_sandbox(cell):
        reference()


def suite_of(
    cell: Cell, splits: Splits, judge: Callable[[str], Judge], *, models: Mapping[str, Path] | None = None
) -> Suite:
    """The suite that measures a cell's model, each prompt once, the same for every seed, so that cells compare.

    `models` are the folders of generally available models, one of which may be the reference of perplexity.

    Raises:
        HoldfastError: a metric needs rows that the data lacks.
    """
    settings = settings_of(cell)
    evaluation, part, seed = settings.evaluation, settings.evaluation.split, settings.data.seed

    def some(rows: Sequence[Example]) -> list[Example]:
        prompts = distinct(rows)
        return sample(prompts, min(evaluation.num_prompts, len(prompts)), seed=seed)

    return Suite(
        harmful=some(splits.harmful[part]),
        benign=some(splits.benign[part]),
        tasks={name: some(rows[part]) for name, rows in splits.tasks.items()},
        harm_judges={name: judge(name) for name in evaluation.harm_judges},
        help_judge=(evaluation.help_judge, judge(evaluation.help_judge)),
        sampling=Sampling(max_new_tokens=evaluation.max_new_tokens, temperature=evaluation.temperature),
        seed=10_000 + cell.seed,
        batch_size=evaluation.batch_size,
        group_size=evaluation.group_size,
        harm_bound=evaluation.break_threshold,
        task_judges={task: (name, judge(name)) for task, name in evaluation.task_judges.items()},
        metrics=evaluation.metrics,
        pairs=_pairs(evaluation, splits, seed=seed),
        reference=reference_of(cell, models),
    )


def _pairs(evaluation: Measurement, splits: Splits, *, seed: int) -> list[tuple[Example, Example]]:
    """The matched pairs to measure, none if they are not asked for."""
    refuse_unmeasurable(evaluation, splits)
    pairs = splits.pairs.get(evaluation.split, []) if evaluation.metrics.pairs else []
    return random.Random(seed).sample(pairs, min(evaluation.num_prompts, len(pairs)))


def refuse_unmeasurable(evaluation: Measurement, splits: Splits) -> None:
    """Refuse metrics of rows that the data lacks, or whose library is not installed.

    Raises:
        HoldfastError: names the metric.
    """
    if evaluation.metrics.rouge:
        require_library()
    missing = next((name for name in evaluation.metrics.rouge if name not in splits.tasks), None)
    if missing is not None:
        known = ", ".join(splits.tasks) or "none; name one under data.tasks"
        raise HoldfastError(f"evaluation.metrics.rouge: there is no task {missing!r} in this data; known: {known}")
    if evaluation.metrics.pairs and not splits.pairs.get(evaluation.split):
        raise HoldfastError(
            "evaluation.metrics.pairs: the data has no matched pairs; give rows with a column `pair` as data.pairs"
        )


def attack_reward(cell: Cell, judge: Callable[[str], Judge]) -> Reward | None:
    """The reward that a cell's attack is after, to be measured beside harm; `None` if it has none.

    An honest customer's reward is for the task's own prompts and says nothing of harmful ones.
    """
    if cell.attack is None or cell.attack.settings.get("task") is not None:
        return None
    settings = getattr(configured(cell.attack, "attack"), "reward", None)
    return from_judge(judge(settings.judge), settings) if isinstance(settings, AttackReward) else None


def refuse_long_prompts(model: Model, parts: Iterable[Sequence[Example]], max_new_tokens: int) -> None:
    """Refuse prompts that do not fit the model's context, before anything is trained."""
    rows = [row for part in parts for row in part]
    check_lengths(model, rows, max_new_tokens=max_new_tokens, key="evaluation.max_new_tokens")
