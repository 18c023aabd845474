"""The pieces of work of a list of cells, and their dependencies. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from holdfast.experiment import store
from holdfast.experiment.cell_settings import is_sandbox, sandbox_keys, settings_of
from holdfast.experiment.judging import refuse_foreign_data, trained_judges
from holdfast.experiment.outcomes import control_of, defended
from holdfast.methods.tables import judge_names
from holdfast.records import Cell, Method, digest, unlabelled

Kind = Literal["base", "aligned", "judge", "stage", "cell"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work: a sandbox model, a judge, a hardened model (the first `depth` stages of `cell`), or a cell.

    It is finished when its folder holds a record. `needs` are the keys of tasks that must be finished first, `after`
    those of tasks that must have ended, even in failure; `source` is the folder of the model that it starts from,
    `models` are those of the generally available models (see `Context.models`).
    """

    kind: Kind
    key: str
    folder: Path
    cell: Cell
    depth: int = 0
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    source: Path | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    judge: Method | None = None

    @property
    def title(self) -> str:
        """Title for the display."""
        if self.judge is not None:
            return f"train judge: {self.judge.title}"
        model = f", model's seed {self.cell.model_seed}" if self.cell.model_seed else ""
        if self.kind in ("base", "aligned"):
            return f"{self.cell.model_name}: {self.kind} model{model}"
        if self.kind == "stage":
            return f"harden: {self.cell.stages[self.depth - 1].title}, seed {self.cell.seed}{model}"
        attack = self.cell.attacker if self.cell.attack else "no attack"
        return f"{self.cell.defense} x {attack}, seed {self.cell.seed}{model}"


def kinds(task: Task) -> tuple[str, ...]:
    """The kinds of work that a task belongs to, from the narrowest to the widest; tasks of one take about as long."""
    cell, model = task.cell, task.cell.model_name
    if task.kind == "cell":
        attack = f"x {cell.attacker}"
        return (f"{model}: {cell.defense} {attack}", f"{model}: {attack}", f"{model}: cell", attack, "cell")
    if task.kind == "stage":
        stage = f"harden: {cell.stages[task.depth - 1].title}"
        return (f"{model}: {stage}", stage)
    return (task.kind,) if task.judge is None else (f"judge: {task.judge.title}",)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run that do not change its results.

    `keep_weights` saves each cell's attacked model. Every `checkpoint_every` optimizer steps a checkpoint is written,
    from which a killed attack or defense resumes; 0 writes none. `threads` are those of each worker process.
    """

    keep_weights: bool = False
    checkpoint_every: int = 100
    threads: int = 1


def run_of(task: Task) -> Path:
    """The run that a cell, stage or judge belongs to."""
    return task.folder.parent.parent


def tasks_of(cells: Sequence[Cell], run: Path, cache: Path) -> list[Task]:
    """Every piece of work of the cells, each once, dependencies first, controls before cells."""
    tasks: dict[str, Task] = {}
    controls = {cell.key: control_of(cell) for cell in cells}
    for cell in sorted(cells, key=defended):
        source: Path | None = None
        needs: tuple[str, ...] = ()
        models: dict[str, Path] = {}
        refuse_foreign_data(cell)
        if is_sandbox(cell):
            models, needs = _sandbox_tasks(cell, cache, tasks)
            source = models["undefended"]
        for depth in range(1, len(cell.stages) + 1):
            key = stage_key(cell, depth)
            folder = store.stage_folder(run, key)
            needs += _judge_tasks(cell, run, tasks, names=judge_names(cell.stages[depth - 1].settings))
            task = Task(kind="stage", key=key, folder=folder, cell=cell, depth=depth, needs=needs, source=source)
            tasks.setdefault(key, task)
            source, needs = folder / "model", (key,)
        needs += _judge_tasks(cell, run, tasks)
        folder = store.cell_folder(run, cell.key)
        control = controls[cell.key]
        after = () if control is None or control.key == cell.key or control.key not in controls else (control.key,)
        own = Task(kind="cell", key=cell.key, folder=folder, cell=cell, source=source, models=models)
        tasks.setdefault(cell.key, replace(own, needs=needs, after=after))
    return list(tasks.values())


def _sandbox_tasks(cell: Cell, cache: Path, tasks: dict[str, Task]) -> tuple[dict[str, Path], tuple[str, ...]]:
    base, aligned = sandbox_keys(cell)
    tasks.setdefault(base, Task(kind="base", key=base, folder=cache / base, cell=cell))
    if is_sandbox(cell, part="base"):
        return {"undefended": cache / base / "model", "base": cache / base / "model"}, (base,)
    source = cache / base / "model"
    task = Task(kind="aligned", key=aligned, folder=cache / aligned, cell=cell, needs=(base,), source=source)
    tasks.setdefault(aligned, task)
    return {"undefended": cache / aligned / "model", "base": source}, (aligned,)


def sandbox_models(cell: Cell, cache: Path) -> dict[str, Path]:
    """The folders of a cell's sandbox models, `undefended` and `base`, whether they exist or not."""
    return _sandbox_tasks(cell, cache, {})[0]


def _judge_tasks(
    cell: Cell, run: Path, tasks: dict[str, Task], *, names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Add the judges among `names`, by default all of the cell's, that have to be trained; returns their keys."""
    judges = trained_judges(cell, names)
    for key, judge in judges.items():
        folder = store.judge_folder(run, key)
        tasks.setdefault(key, Task(kind="judge", key=key, folder=folder, cell=cell, judge=judge))
    return tuple(judges)


def stage_key(cell: Cell, depth: int) -> str:
    """Hash of exactly what a hardened model depends on."""
    stages = cell.stages[:depth]
    called = {name for stage in stages for name in judge_names(stage.settings)}
    parts = {
        "model": cell.model,
        "stages": [asdict(stage) for stage in stages],
        "data": cell.data,
        "judges": {name: asdict(cell.judges[name]) for name in sorted(called)},
        "max_new_tokens": settings_of(cell).evaluation.max_new_tokens,
        "seed": cell.seed,
    }
    return digest(unlabelled(parts))
