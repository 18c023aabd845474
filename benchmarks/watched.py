"""Whether a run has the same results, and takes as long, while `holdfast watch` looks on.

    python benchmarks/watched.py              # writes benchmarks/results/watched.json

A tiny grid in the sandbox runs alternately alone and with `holdfast watch --out` beside it, which looks every second.
In the file: seconds of the run, wall and CPU, in one process; CPU seconds of the watcher, and whether the results of
all runs are the same, times and memory left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runs import machine, step_versions

from holdfast.report.read import read_answers, read_curves

GRID = """
name: tiny
model: sandbox
defenses: [none, {refusal_loss: {}}]
attacks: [{sft: {optim: {max_steps: 40}}}]
seeds: [0]
evaluation: {every: 10, num_prompts: 100, max_new_tokens: 32}
"""
TIMES = ("seconds", "wall_seconds", "peak_memory_mb", "finished", "environment")
"""What differs between two runs of one cell."""


def called(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "holdfast.cli", *words], stdout=subprocess.DEVNULL)


def ended(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; CPU seconds of it and its children."""
    _, code, used = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"{process.args} ended with {os.waitstatus_to_exitcode(code)}")
    return used.ru_utime + used.ru_stime


def measured(folder: Path, *, watched: bool) -> tuple[dict[str, Any], list[Any]]:
    """Seconds of one run, and its results."""
    grid = folder / "tiny.yaml"
    grid.write_text(GRID)
    run = folder / "tiny"
    watcher = called("watch", str(run), "--out", str(folder / "live.html"), "--every", "1") if watched else None
    began = time.perf_counter()
    cpu = ended(called("run", str(grid), "--runs", str(run), "--workers", "0"))
    seconds = {"watched": watched, "wall": round(time.perf_counter() - began, 1), "cpu": round(cpu, 1)}
    if watcher is not None:
        seconds["cpu_of_watch"] = round(ended(watcher), 1)
    return seconds, results(run)


def results(run: Path) -> list[Any]:
    """The records, curves and answers of a run's cells, without times."""
    read = []
    for record in sorted(run.glob("cells/*/record.json")):
        read.append(_timeless(json.loads(record.read_text())))
        read.append(_timeless(read_curves(record.parent)))
        read.append(read_answers(record.parent))
    return read


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "watched.json")
    options = parser.parse_args()
    runs, all_results = [], []
    for watched in (False, True) * options.repetitions:
        with tempfile.TemporaryDirectory() as name:
            seconds, of_run = measured(Path(name), watched=watched)
        runs.append(seconds)
        all_results.append(of_run)
    same = all(of_run == all_results[0] for of_run in all_results)
    cells = len(all_results[0]) // 3
    result = {"cells": cells, "runs": runs, "same_results": same, **step_versions(), "machine": machine()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
