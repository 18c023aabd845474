"""A trainer's callback that calls a plan's hooks and completes checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class Watched(Protocol):
    """What is told of the run, and counts its seconds."""

    costs: dict[str, float]

    def tell(self, phase: Any, control: Any) -> None:
        """Tell the plan's hooks where the run stands."""
        ...

    def leave(self, folder: Path) -> None:
        """Put into a checkpoint what the trainer's own leaves out."""
        ...


class Watch(TrainerCallback):
    """Tells the plan's hooks where the run stands, counts seconds without theirs, and completes checkpoints."""

    def __init__(self, live: Watched) -> None:
        self.live = live
        self.since = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the first step, or the first after a resumption."""
        self.since = time.perf_counter()
        self._tell("start", control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each optimizer step."""
        self._tell("step", control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the end, however it came."""
        self._tell("end", control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.exists():
            self.live.leave(folder)

    def _tell(self, phase: str, control: Any) -> None:
        self.live.costs["seconds"] += time.perf_counter() - self.since
        self.live.tell(phase, control)
        self.since = time.perf_counter()
