"""How often the 95 % intervals of `holdfast.evaluation.survival` cover what is true of simulated runs.

    python benchmarks/survival.py                 # writes benchmarks/results/survival.json

Times to break of one model, observed up to step 80: exponential with mean 60; the same seen every 20 steps only; 10 in
40 % of the runs and never in the others; never in 98 %; 20, 30 or 40, each as often. `share` is the interval of the
share that is unbroken at step 40 (`censored`: with runs that end at random between steps 20 and 120), `mean` that of
the restricted mean, `ratio` that of the ratio of two, the other side exponential with mean 20.
`tests/evaluation/test_survival.py` does a part of it with fewer draws.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from holdfast.evaluation.survival import Interval, Runs, curve, ratio, restricted_mean

HORIZON, AT = 80.0, 40.0
SIZES = (3, 5, 10)
Draw = Callable[[np.random.Generator, int], np.ndarray]
"""So many times to break of a distribution."""

TRUTHS: dict[str, Draw] = {
    "exponential": lambda rng, n: rng.exponential(60, n),
    "seen every 20 steps": lambda rng, n: 20 * np.ceil(rng.exponential(60, n) / 20),
    "10 or never": lambda rng, n: np.where(rng.random(n) < 0.4, 10.0, np.inf),
    "nearly never": lambda rng, n: np.where(rng.random(n) < 0.02, 50.0, np.inf),
    "20, 30 or 40": lambda rng, n: rng.choice([20.0, 30.0, 40.0], n),
}


def observed(times: np.ndarray, until: np.ndarray | float = HORIZON) -> Runs:
    """Runs that were observed until then."""
    return Runs(np.minimum(times, until), times <= until)


def undefended(rng: np.random.Generator, n: int) -> np.ndarray:
    """Times to break of the other side of the ratio."""
    return rng.exponential(20, n)


def hits(draw: Draw, n: int, repeats: int, draws: int) -> dict[str, float]:
    """The shares of intervals that cover the truth, by what they are of."""
    rng = np.random.default_rng(n)
    many, others = (each(rng, 400_000) for each in (draw, undefended))
    share, mean = float(np.mean(many > AT)), float(np.minimum(many, HORIZON).mean())
    times = mean / float(np.minimum(others, HORIZON).mean())
    covered = {"share": 0, "share, censored": 0, "mean": 0, "ratio": 0}
    for _ in range(repeats):
        runs, control = observed(draw(rng, n)), observed(undefended(rng, n))
        covered["share"] += _covers(curve([runs], AT, draws=draws).shares[-1], share)
        ended = observed(draw(rng, n), rng.uniform(20, 120, n))
        covered["share, censored"] += _covers(curve([ended], AT, draws=draws).shares[-1], share)
        covered["mean"] += _covers(restricted_mean([runs], HORIZON, draws=draws), mean)
        covered["ratio"] += _covers(ratio([runs], [control], HORIZON, draws=draws), times)
    return {name: round(count / repeats, 3) for name, count in covered.items()}


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-3 * truth <= truth <= interval.high + 1e-3 * truth and not math.isnan(interval.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "survival.json")
    options = parser.parse_args()
    coverage = {
        name: {f"{n} runs": hits(draw, n, options.repeats, options.draws) for n in SIZES}
        for name, draw in TRUTHS.items()
    }
    options.out.write_text(
        json.dumps({"repeats": options.repeats, "draws": options.draws, "coverage": coverage}, indent=1) + "\n"
    )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
