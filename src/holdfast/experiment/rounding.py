"""The effect of saving a hardened model in its checkpoint's own dtype."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.metric_settings import Metrics
from holdfast.experiment import store
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.judging import trained_judges
from holdfast.experiment.tasks import Task, run_of
from holdfast.experiment.world import judge_of, load_model, suite_of
from holdfast.network.models import Model
from holdfast.network.precision import stored_type, types_of


def written(task: Task, hardened: Model) -> dict[str, Any]:
    """The dtypes of a stage whose model has been saved, and the effect of rounding on the hardening.

    `moved` is the change of the weights by hardening and `rounded` that by rounding, both relative to the norm of the
    weights. `scores` are those before rounding, if it changes a weight and every judge is available.
    """
    settings = task.cell.stages[task.depth - 1].settings
    stored = stored_type(str(task.folder / "model"))
    precision: dict[str, Any] = types_of(hardened.network, stored, settings)
    start = load_model(task.cell, task.source)
    moved, rounded = _distances(start.network, hardened.network, getattr(torch, stored or "float32"))
    precision |= {"moved": moved, "rounded": rounded}
    if rounded and _judges_are_there(task):
        suite = suite_of(
            task.cell, load_splits(settings_of(task.cell).data_at_commit), judge_of(task.cell, run_of(task))
        )
        suite = replace(suite, metrics=Metrics(), pairs=(), reference=None)  # a stage is shared by all evaluations
        precision["scores"] = [asdict(score) for score in evaluate(hardened, suite)[0]]
    return precision


def _distances(start: torch.nn.Module, hardened: torch.nn.Module, dtype: torch.dtype) -> tuple[float, float]:
    before = dict(start.named_parameters())
    size = moved = rounded = 0.0
    for name, parameter in hardened.named_parameters():
        now = parameter.detach().double()
        size += float(now.square().sum())
        rounded += float((now.to(dtype).double() - now).square().sum())
        if name in before:
            moved += float((now - before[name].detach().double().to(now.device)).square().sum())
    return tuple((part / size) ** 0.5 if size else 0.0 for part in (moved, rounded))  # type: ignore[return-value]


def _judges_are_there(task: Task) -> bool:
    """Whether all judges that the run trains are ready: a stage does not wait for those that only measure."""
    return all(store.finished(store.judge_folder(run_of(task), key)) for key in trained_judges(task.cell))
