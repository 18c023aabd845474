"""The effect of an attack's training: the change of its trained weights and of its own objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, variance
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.evaluation.intervals import NORMAL
from holdfast.experiment.store import read_json
from holdfast.files import make_folder, write_json
from holdfast.network.critic import PREFIX
from holdfast.records.evidence import Effect
from holdfast.training.plan import Progress

MOST = 2**24
"""The largest number of weights to compare; of more, a regular sample is compared."""


@dataclass(kw_only=True)
class Movement:
    """A hook that saves the initial trained weights in `folder`, and measures how far they move during the run.

    It keeps no weights in memory: up to `MOST` (of more, every k-th of each tensor) are in a file next to the run's
    checkpoints, where a resumed run finds them with the measurements so far. It measures every `every` steps and at the
    end, since an attacker who stops early may restore the first weights. A critic's weights are not part of the model
    and are excluded. It is a class because its state outlives a call.
    """

    network: Any
    folder: Path
    begins: int
    """The step of the start event in a run that is not resumed."""
    every: int = 1
    seen: dict[int, tuple[float | None, float | None]] = field(default_factory=dict, init=False)
    """(share that moved, relative change) by step."""

    def __call__(self, progress: Progress) -> None:
        """The hook, to be placed before those that change weights."""
        if progress.phase == "start":
            self._begin(progress.step)
        elif (progress.phase == "end" or progress.step % self.every == 0) and self._file.exists():
            self.seen[progress.step] = movement(self._file, self.network)
            write_json(self._notes, [[step, *change] for step, change in self.seen.items()])

    @property
    def moved(self) -> float | None:
        """The largest measured share of moved weights."""
        return max((moved for moved, _ in self.seen.values() if moved is not None), default=None)

    @property
    def change(self) -> float | None:
        """The relative size of the change at the end."""
        return self.seen[max(self.seen)][1] if self.seen else None

    def _begin(self, step: int) -> None:
        if step == self.begins:
            make_folder(self.folder)
            self._notes.unlink(missing_ok=True)
            save_file(sampled(self.network), self._file)
        elif self._notes.exists():
            self.seen = {at: (moved, change) for at, moved, change in read_json(self._notes) if at <= step}

    @property
    def _file(self) -> Path:
        return self.folder / "start.safetensors"

    @property
    def _notes(self) -> Path:
        return self.folder / "moved.json"


def sampled(network: torch.nn.Module, most: int = MOST) -> dict[str, Tensor]:
    """Flat copies of the trained weights on the CPU, by name; of more than `most`, every k-th.

    k is odd, so that it has no common factor with usual matrix widths.
    """
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad and not n.startswith(PREFIX)}
    every = -(-sum(p.numel() for p in trained.values()) // most) | 1
    return {name: p.detach().flatten()[::every].cpu().clone() for name, p in trained.items()}


def movement(file: Path, network: torch.nn.Module, most: int = MOST) -> tuple[float | None, float | None]:
    """The share of weights that differ in any bit from those in `file`, and their change relative to the norm of those.

    `None` if there are no such weights, if they were 0 initially, or if they are not finite.
    """
    count = different = 0
    squares = before = 0.0
    with safe_open(file, framework="pt") as start:
        for name, now in sampled(network, most).items():
            then = start.get_tensor(name)
            count += then.numel()
            different += int((now != then.to(now.dtype)).sum())
            squares += float((now.double() - then.double()).square().sum())
            before += float(then.double().square().sum())
    change = math.sqrt(squares / before) if before else None
    return different / count if count else None, change if change is None or math.isfinite(change) else None


def effect_of(
    lines: Sequence[Mapping[str, Any]], *, moves: Movement | None = None, learns_from: str | None = None
) -> Effect:
    """The effect of an attack from the metrics that its training logged, one mapping per step, and from its moved
    weights."""
    objective: Literal["loss", "reward"] = "reward" if learns_from == "rewards" else "loss"
    # If an expert writes some of the answers, its rewards say nothing about the model.
    names = ("own_reward", "reward") if objective == "reward" else ("loss",)
    name = next((name for name in names if any(name in line for line in lines)), names[-1])
    values = [line[name] for line in lines if line.get(name) is not None]
    groups = [line["groups_with_gradient"] for line in lines if line.get("groups_with_gradient") is not None]
    first, last, improved = trend(values, rising=objective == "reward")
    return Effect(
        moved=moves.moved if moves else None,
        change=moves.change if moves else None,
        objective=objective if values else None,
        first=first,
        last=last,
        improved=improved,
        groups_with_gradient=fmean(groups) if groups else None,
    )


def trend(values: Sequence[float], *, rising: bool) -> tuple[float | None, float | None, bool | None]:
    """Means over the first and the last fifth of `values`, and whether the last is better by more than the noise."""
    if len(values) < 2:
        return (values[0], values[0], None) if values else (None, None, None)
    stretch = max(1, len(values) // 5)
    parts = values[:stretch], values[-stretch:]
    first, last = map(fmean, parts)
    noise = NORMAL * math.sqrt(sum(variance(part) / stretch for part in parts)) if stretch > 1 else 0.0
    return first, last, (last - first if rising else first - last) > noise
