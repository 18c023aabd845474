"""Common parts of the benchmarks of training steps: clock readings of a run, models, and figures."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch

from holdfast import __version__, api
from holdfast.network import models
from holdfast.network.models import Model
from holdfast.sandbox.build import untrained

WARM_UP = 3
SIZES = ("sandbox", "20m")
SYSTEMS = ("Holdfast", "TRL")
RESULTS = Path(__file__).parent / "results"


@dataclass(kw_only=True)
class Run:
    """One training run's clock readings, and its notes at each step by name."""

    system: str
    case: str
    seed: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    recorded: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def tick(self) -> None:
        """Note that a step has ended, or that the first begins."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def note(self, **values: float) -> None:
        """Add a number to each of these lists."""
        for name, value in values.items():
            self.recorded.setdefault(name, []).append(value)

    def step_times(self, clock: str) -> list[float]:
        """Seconds of each step after the warm-up."""
        ticks: list[float] = getattr(self, clock)
        return [after - before for before, after in itertools.pairwise(ticks)][WARM_UP:]

    def line(self) -> str:
        """A line of progress."""
        wall, cpu = (median(self.step_times(clock)) for clock in ("wall", "cpu"))
        return f"{self.system}, {self.case}, seed {self.seed}: {wall:.3f} s per step, {cpu:.3f} s of CPU time"


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """The options of every benchmark."""
    parser.add_argument("--steps", type=int, default=30, help=f"steps measured, after {WARM_UP} of warm-up")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="model folder, instead of the sandbox's base model")
    parser.add_argument(
        "--model-size", choices=SIZES, default="sandbox", help="20m: random weights, created for the run"
    )
    parser.add_argument("--taught", type=int, default=120, help="training steps of the sandbox's base model")
    parser.add_argument("--out", type=Path, default=RESULTS / out)


def subject(options: argparse.Namespace) -> Model:
    """The model to be trained."""
    if options.model is not None:
        return models.load(options.model)
    if options.model_size == "20m":
        return untrained(api.Sandbox(size="small"))
    settings = api.Sandbox(part="base")
    return api.sandbox(replace(settings, base=replace(settings.base, max_steps=options.taught)))


def settings(model: Model, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The settings of the measurement."""
    taught = f"sandbox base, trained for {options.taught} steps"
    made = taught if options.model_size == "sandbox" else "random weights"
    return {
        "model": options.model.name if options.model else made,
        "parameters": model.network.num_parameters(),
        **more,
        "steps": options.steps,
        "warm_up": WARM_UP,
        "seeds": options.seeds,
        "threads": torch.get_num_threads(),
        **step_versions(),
    }


def step_versions() -> dict[str, Any]:
    """Versions of what the steps depend on."""
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    return {"python": platform.python_version(), "versions": {"holdfast": __version__, **versions}}


def machine() -> dict[str, Any]:
    """The processor, its cores and the memory."""
    about = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in about if line.startswith("model name")), None)
    return {
        "processor": name or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def comparison(runs: Sequence[Run], case: str) -> dict[str, Any]:
    """Both systems' figures for one case, and TRL's time over Holdfast's."""
    systems = {name: figures([run for run in runs if (run.system, run.case) == (name, case)]) for name in SYSTEMS}
    ratios = {f"{clock}_ratio": systems["TRL"][clock] / systems["Holdfast"][clock] for clock in ("wall", "cpu")}
    return {"case": case, **ratios, **systems}


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Median seconds per step; means of the notes, with their spread over the seeds, and their curves."""
    statistics: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        statistics[clock] = median(seconds for run in runs for seconds in run.step_times(clock))
        statistics[f"{clock}_by_seed"] = [median(run.step_times(clock)) for run in runs]
    third = max(1, (len(next(iter(runs[0].recorded.values()))) - WARM_UP) // 3)
    for name in runs[0].recorded:
        curves = [run.recorded[name] for run in runs]
        statistics[name] = spread([fmean(curve[WARM_UP:]) for curve in curves])
        statistics[f"{name}_first_third"] = spread([fmean(curve[WARM_UP : WARM_UP + third]) for curve in curves])
        statistics[f"{name}_last_third"] = spread([fmean(curve[-third:]) for curve in curves])
        statistics[f"{name}_curve"] = [round(fmean(step), 4) for step in zip(*curves, strict=True)]
    parts = {name: median(t for run in runs for t in run.parts[name][WARM_UP:]) for name in runs[0].parts}
    return (
        statistics
        if not parts
        else {**statistics, "parts": {**parts, "rest": statistics["wall"] - sum(parts.values())}}
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, and standard deviation if there is more than one value."""
    return {"mean": fmean(values), "standard_deviation": stdev(values) if len(values) > 1 else None}


def keep(results: dict[str, Any], path: Path) -> None:
    """Write the results and print the path; warn if the machine was busy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {path}")
    measured = [row[name] for row in results["results"] for name in SYSTEMS if name in row]
    if any(system["wall"] > 1.1 * system["cpu"] for system in measured):
        print("the machine was busy: wall times are above CPU times by more than a tenth; compare CPU times")
