"""Profile a training step as two small tables: Python functions, and torch's operators."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runs import WARM_UP
from torch.profiler import ProfilerActivity, profile

STEPS, LINES = 5, 12
Train = Callable[[int, Callable[[], None]], Any]
"""(steps, tick) -> trains `steps` steps, calling `tick` before the first and after each."""


def profiled(train: Train) -> dict[str, Any]:
    """Milliseconds per step by self time, each table from a separate run; profiling itself costs time too."""
    return {"functions": functions(train), "operators": operators(train)}


def functions(train: Train) -> list[dict[str, Any]]:
    """Python functions, and the C functions that they call, by their own CPU time."""
    watch = cProfile.Profile(time.process_time)
    train(WARM_UP + STEPS, _after_warm_up(watch.enable, watch.disable))
    stats: dict[Any, Any] = pstats.Stats(watch).stats  # type: ignore[attr-defined]
    rows = [(_name(*place), calls, own) for place, (_, calls, own, *_) in stats.items()]
    return _table(rows)


def operators(train: Train) -> list[dict[str, Any]]:
    """Torch's operators by their own CPU time, including those of the backward pass."""
    watch = profile(activities=[ProfilerActivity.CPU])
    train(WARM_UP + STEPS, _after_warm_up(watch.start, watch.stop))
    return _table([(row.key, row.count, row.self_cpu_time_total / 1e6) for row in watch.key_averages()])


def _after_warm_up(start: Callable[[], Any], stop: Callable[[], Any]) -> Callable[[], None]:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == WARM_UP + 1:
            start()
        if ticks == WARM_UP + STEPS + 1:
            stop()

    return tick


def _table(rows: Sequence[tuple[str, int, float]]) -> list[dict[str, Any]]:
    total = sum(own for *_, own in rows)
    largest = sorted(rows, key=lambda row: row[2], reverse=True)[:LINES]
    return [
        {
            "name": name,
            "calls": calls / STEPS,
            "milliseconds": round(own / STEPS * 1e3, 3),
            "share": round(own / total, 4),
        }
        for name, calls, own in largest
    ]


def _name(file: str, line: int, function: str) -> str:
    return function.strip("<>") if file == "~" else f"{Path(file).parent.name}/{Path(file).name}:{line} {function}"
