"""A trainer's callback that calls hooks, counts seconds, and completes checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class Timed(Protocol):
    """A run with hooks and a count of its seconds."""

    costs: dict[str, float]

    def call_hooks(self, phase: Any, control: Any) -> None:
        """Call the plan's hooks with the run's progress."""
        ...

    def save_extras(self, folder: Path) -> None:
        """Add the plan's state to the trainer's checkpoint."""
        ...


class Clock(TrainerCallback):
    """Calls the run's hooks, counts its seconds without those of the hooks, and completes checkpoints."""

    def __init__(self, run: Timed) -> None:
        self.run = run
        self.since = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first step, or the first after a resumption."""
        self.since = time.perf_counter()
        self._call_hooks("start", control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each optimizer step."""
        self._call_hooks("step", control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the end, for whatever reason."""
        self._call_hooks("end", control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.exists():
            self.run.save_extras(folder)

    def _call_hooks(self, phase: str, control: Any) -> None:
        self.run.costs["seconds"] += time.perf_counter() - self.since
        self.run.call_hooks(phase, control)
        self.since = time.perf_counter()
