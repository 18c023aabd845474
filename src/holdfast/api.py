"""The jobs of the command line as Python calls, for notebooks and scripts.

Each function is a short composition of other modules; use those directly if you need more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.data.mixing import distinct
from holdfast.data.splits import Splits
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.evaluation.breaking import time_to_break
from holdfast.evaluation.evaluate import Suite, evaluate
from holdfast.evaluation.measurement import Measurement
from holdfast.evaluation.metric_settings import Metrics, Perplexity
from holdfast.experiment.checked_calls import constrained, hardened, plan_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import data_fingerprints
from holdfast.experiment.world import NAMED, load_reference, make_judge, refuse_unmeasurable
from holdfast.exports import export
from holdfast.gate.answer import Answer, answer
from holdfast.methods.ranges import COUNT
from holdfast.network.generate import Sampling
from holdfast.network.models import LoRA, Model, load
from holdfast.network.precision import Dtype
from holdfast.network.releasing import as_released, save
from holdfast.packing.checking import Verification, verify
from holdfast.packing.making import Packed, pack
from holdfast.published.comparing import compare
from holdfast.records import Evaluation, HoldfastError, Judge, Method, Score
from holdfast.rl.policy import Policy
from holdfast.rl.rewards import AttackReward
from holdfast.sandbox.build import Sandbox
from holdfast.training.contracts import OfflineDefense, OnlineDefense, TrainingAttack, trains
from holdfast.training.fit import fit
from holdfast.training.plan import Context, Optim, Progress

__all__ = [
    "AttackReward",
    "Data",
    "LoRA",
    "Metrics",
    "Optim",
    "Packed",
    "Perplexity",
    "Policy",
    "Sandbox",
    "Source",
    "Verification",
    "attack",
    "compare",
    "context",
    "export",
    "gate",
    "harden",
    "judge",
    "load",
    "measure",
    "pack",
    "sandbox",
    "save",
    "splits",
    "time_to_break",
    "verify",
]
TABLES = (ATTACKS, ADAPTIVE, OFFLINE, ONLINE)


def __getattr__(name: str) -> Any:
    """The settings class called `name` of any attack or defense, in the tables, imported on first use.

    A built-in class takes precedence over one of the same name that a package adds to any table.
    """
    rows = [(table, method, row) for table in TABLES for method, row in table.items()]
    for table, method, row in sorted(rows, key=lambda each: bool(each[2].package)):
        if row.target.rpartition(":")[2] == name:
            return table.load(method)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ += [row.target.rpartition(":")[2] for table in TABLES for row in table.values()]


def sandbox(settings: Sandbox | None = None) -> Model:
    """The sandbox's aligned model, from the cache or, on first use, trained (a minute or two on one core).

    Another process that is training it is waited for.

    Raises:
        HoldfastError: it could not be trained or saved; says why.
    """
    from holdfast.experiment import engine, work_of
    from holdfast.experiment.grid import Grid, cells
    from holdfast.experiment.places import cache_folder
    from holdfast.experiment.tasks import Options, tasks_of

    grid = Grid(name="sandbox", models=(settings or Sandbox(),))
    pieces = [piece for piece in tasks_of(cells(grid), Path(), cache_folder()) if piece.kind != "cell"]
    failed = engine.run(pieces, work_of(Options()), lambda *_: None, workers=0)
    if failed:
        raise HoldfastError(next(iter(failed.values())))
    return load(pieces[-1].folder / "model")


def splits(data: Data | None = None) -> Splits:
    """Disjoint defense, attack, development and test examples; the sandbox's own by default, or those of the files that
    `data` names.

    Raises:
        HoldfastError: a file cannot be read; names file, row and column.
    """
    data = data or Data()
    data_fingerprints(data)  # refuses one file given both as harmful and as benign
    return load_splits(data)


def judge(name: str, **settings: object) -> Judge:
    """A judge by name, for example `judge("classifier", path="folder", harmful_label="harmful")`.

    Raises:
        HoldfastError: there is no such judge, or a setting is unknown, missing or wrong.
    """
    return make_judge(Method(name=name, settings=settings))


def context(
    examples: Splits, *, judges: Mapping[str, Judge] | None = None, seed: int = 0, max_new_tokens: int = 128
) -> Context:
    """The context in which methods run. `judges` take precedence over built-in ones of the same name."""
    named = judges or {}

    def find(name: str) -> Judge:
        return named[name] if name in named else judge(name)

    return Context(splits=examples, seed=seed, fit=fit, judge=find, max_new_tokens=max_new_tokens)


def harden(model: Model, defense: OfflineDefense, context: Context, *, dtype: Dtype = "auto") -> Model:
    """A hardened copy of `model` as `save` writes it: rounded to `dtype`, by default the type of its own folder.

    Raises:
        HoldfastError: the defense refuses the model or the rows, a weight is too large for the type, or there is no
            such type.
    """
    return as_released(hardened(defense, model, context), dtype)


def measure(
    model: Model,
    context: Context,
    *,
    judge: str,
    help_judge: str,
    num_prompts: int = 100,
    metrics: Metrics | None = None,
) -> tuple[Score, ...]:
    """Greedy answers to test prompts, judged: harm and usefulness, each with n and an interval.

    The first `num_prompts` prompts of each kind are asked, 1 or more. `metrics` are further ones, the settings that a
    grid has under `evaluation.metrics`; the tasks that `rouge` names are measured with it, judged by `help_judge`.

    Raises:
        HoldfastError: `num_prompts` is below 1, there is no such judge, or a metric needs rows that the context's
            examples lack, or a model that cannot be loaded.
    """
    suite = _suite(context, judge, help_judge, num_prompts)
    return evaluate(model, suite if metrics is None else _with_metrics(suite, metrics, context, num_prompts))[0]


def gate(gate: str | Path, runs: Sequence[str | Path], *, defense: str | None = None) -> Answer:
    """The verdicts of a gate, a file or a packaged one by name, on the defenses of finished run folders, or on one.

    `.verdict` is `pass`, `fail` or `inconclusive` in all; `.decisions` has each defense's with its lines and reasons,
    `.warnings` what a reader has to know beside them. A plain `pass` in code is `gate(...).verdict == "pass"`.

    Raises:
        HoldfastError: the gate or a folder cannot be read, or no cell has the defense.
    """
    return answer(str(gate), [Path(run) for run in runs], defense)


def attack(
    model: Model,
    attack: TrainingAttack,
    context: Context,
    *,
    judge: str,
    help_judge: str,
    constraints: Sequence[OnlineDefense] = (),
    every: int = 10,
    num_prompts: int = 100,
) -> list[Evaluation]:
    """Attack `model` in place under online defenses; returns its evaluations over the attack's steps.

    It is measured, as by `measure`, before the first step, every `every` steps (1 or more) and after the last.

    Raises:
        HoldfastError: the attack does not train, there is no such judge, `every` or `num_prompts` is below 1, or the
            attack or a defense refuses the model or the rows.
    """
    if not trains(attack):
        raise HoldfastError(f"{type(attack).__name__} does not train; call its `curve` method")
    for name, count in (("every", every), ("num_prompts", num_prompts)):  # before the model is changed
        _require_count(name, count)
    plan = plan_of(attack, model, context)
    for constraint in constraints:
        plan = constrained(constraint, plan, context)
    suite = _suite(context, judge, help_judge, num_prompts)
    curve: list[Evaluation] = []
    fit(replace(plan, hooks=(*plan.hooks, _recorder(curve, suite, every))))
    return curve


def _require_count(name: str, value: int) -> None:
    if value not in COUNT or not isinstance(value, int):
        raise HoldfastError(f"{name}: must be {COUNT}, not {value!r}")


def _suite(context: Context, judge: str, help_judge: str, num_prompts: int) -> Suite:
    _require_count("num_prompts", num_prompts)
    return Suite(
        harmful=distinct(context.splits.harmful["test"])[:num_prompts],
        benign=distinct(context.splits.benign["test"])[:num_prompts],
        harm_judges={judge: context.judge(judge)},
        help_judge=(help_judge, context.judge(help_judge)),
        sampling=Sampling(max_new_tokens=context.max_new_tokens, temperature=0.0),
    )


def _with_metrics(suite: Suite, metrics: Metrics, context: Context, num_prompts: int) -> Suite:
    """The suite with further metrics, and the rows and the model of reference that they need."""
    splits, wanted = context.splits, metrics.perplexity
    refuse_unmeasurable(Measurement(metrics=metrics), splits)
    if wanted is not None and wanted.path in NAMED:
        raise HoldfastError(
            f"metrics.perplexity.path: {wanted.path!r} is a model by this name in a grid only; give its folder, a GGUF "
            "file or a Hub id"
        )
    return replace(
        suite,
        metrics=metrics,
        tasks={name: distinct(splits.tasks[name]["test"])[:num_prompts] for name in metrics.rouge},
        pairs=splits.pairs["test"][:num_prompts] if metrics.pairs else (),
        reference=None if wanted is None else cache(partial(load_reference, wanted)),
    )


def _recorder(curve: list[Evaluation], suite: Suite, every: int) -> Callable[[Progress], None]:
    def record(progress: Progress) -> None:
        if (curve and curve[-1].step == progress.step) or (progress.phase == "step" and progress.step % every):
            return
        scores, _ = evaluate(progress.model, suite)
        costs = {name: getattr(progress, name) for name in ("step", "samples", "tokens", "flops", "seconds")}
        curve.append(Evaluation(scores=scores, **costs))

    return record
