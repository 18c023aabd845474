"""The pieces of work behind a list of cells, and which of them need which. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from holdfast.experiment import store
from holdfast.records import Cell, digest, unlabelled

Kind = Literal["base", "aligned", "stage", "cell"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work: a sandbox model, a hardened model (the first `depth` stages of `cell`), or a cell.

    It is finished when its folder holds a record. `needs` are the keys of tasks that must be finished first;
    `source` is the folder of the model that it starts from.
    """

    kind: Kind
    key: str
    folder: Path
    cell: Cell
    depth: int = 0
    needs: tuple[str, ...] = ()
    source: Path | None = None

    @property
    def title(self) -> str:
        """What people read."""
        if self.kind in ("base", "aligned"):
            return f"{self.cell.model['name']}: {self.kind} model"
        if self.kind == "stage":
            return f"harden: {self.cell.stages[self.depth - 1].title}, seed {self.cell.seed}"
        attack = self.cell.attack.title if self.cell.attack else "no attack"
        return f"{self.cell.defense} x {attack}, seed {self.cell.seed}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is carried out; nothing here changes a result.

    `checkpoint_every` optimizer steps a running attack or defense can go on from where it was killed.
    """

    keep_weights: bool = False
    checkpoint_every: int = 100
    threads: int = 1


def tasks_of(cells: Sequence[Cell], run: Path, cache: Path) -> list[Task]:
    """Every piece of work behind the cells, each once, what is needed before what needs it."""
    found: dict[str, Task] = {}
    for cell in cells:
        source: Path | None = None
        needs: tuple[str, ...] = ()
        if cell.model["kind"] == "sandbox":
            source, needs = _sandbox_tasks(cell, cache, found)
        for depth in range(1, len(cell.stages) + 1):
            key = stage_key(cell, depth)
            folder = store.stage_folder(run, key)
            task = Task(kind="stage", key=key, folder=folder, cell=cell, depth=depth, needs=needs, source=source)
            found.setdefault(key, task)
            source, needs = folder / "model", (key,)
        folder = store.cell_folder(run, cell.key)
        found.setdefault(
            cell.key, Task(kind="cell", key=cell.key, folder=folder, cell=cell, needs=needs, source=source)
        )
    return list(found.values())


def _sandbox_tasks(cell: Cell, cache: Path, found: dict[str, Task]) -> tuple[Path, tuple[str, ...]]:
    settings = cell.model["settings"]
    base = digest({"base": {key: value for key, value in settings.items() if "aligned" not in key}})
    aligned = digest({"aligned": settings})
    for kind, key, needs in (("base", base, ()), ("aligned", aligned, (base,))):
        source = cache / base / "model" if needs else None
        task = Task(kind=kind, key=key, folder=cache / key, cell=cell, needs=needs, source=source)  # type: ignore[arg-type]
        found.setdefault(key, task)
    return cache / aligned / "model", (aligned,)


def stage_key(cell: Cell, depth: int) -> str:
    """Hash of everything that a hardened model depends on, and of nothing else."""
    stages = [asdict(stage) for stage in cell.stages[:depth]]
    parts = {
        "model": cell.model,
        "stages": stages,
        "data": cell.data,
        "judges": {name: asdict(judge) for name, judge in cell.judges.items() if name in str(stages)},
        "max_new_tokens": cell.evaluation["max_new_tokens"],
        "seed": cell.seed,
    }
    return digest(unlabelled(parts))
