"""How often a report says "better", "worse" or "cannot tell" of simulated defenses whose truth is known.

    python benchmarks/verdicts.py                 # writes benchmarks/results/verdicts.json

Times to break are log-normal: each model has its own median about 25 steps, seeds vary by 1.35 (one standard deviation)
about it, and a model is measured every 5 steps up to 100. A defense multiplies the times by a factor; `differ` is the
standard deviation of its logarithm between models, `harm` the share of models on which it shortens them as much as it
lengthens them on the others, `holds` the share of runs in which it never breaks. `single` are shares of one comparison
at a time, `of_48` of comparisons in tables of 48 like the presets'. Coverage is that of the interval of the share that
held, by the intraclass correlation of a model's runs: the lowest over shares of .02 to .9.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.evaluation import survival
from holdfast.records import Outcome
from holdfast.report.summarise.comparisons import Comparison, Run, compare, corrected, order

BUDGET, EVERY, MEDIAN, SPREAD = 100, 5, 25, 0.3
SIZE = 48
DESIGNS = ((1, 10), (3, 10), (5, 5))
TRUTHS: dict[str, dict[str, float]] = {
    "no effect": {},
    "differs by model by 1.35": {"differ": 0.3},
    "differs by model by 1.6": {"differ": 0.5},
    "differs by model by 2.7": {"differ": 1.0},
    "4.5 times as long on half of all models, as much shorter on the others": {"effect": 1.5, "harm": 0.5},
    "1.6 times as long": {"effect": 0.5, "differ": 0.2},
    "2.7 times as long": {"effect": 1.0, "differ": 0.2},
    **{f"holds in {share:g} of the runs": {"holds": share} for share in (0.5, 0.7, 0.8, 0.9)},
}


def simulated(
    rng: np.random.Generator,
    models: int,
    seeds: int,
    *,
    effect: float = 0.0,
    differ: float = 0.0,
    harm: float = 0.0,
    holds: float = 0.0,
) -> Comparison:
    """A defense against none on so many models and seeds; `effect` is the logarithm of its factor."""
    base = rng.normal(math.log(MEDIAN), SPREAD, (models, 1))
    control = np.exp(base + rng.normal(0, SPREAD, (models, seeds)))
    sign = np.where(rng.random((models, 1)) < harm, -1.0, 1.0)
    own = base + sign * effect + rng.normal(0, differ, (models, 1))
    defended = np.exp(own + rng.normal(0, SPREAD, (models, seeds)))
    defended[rng.random((models, seeds)) < holds] = math.inf
    orders = {
        str(model): [order(ended(one), ended(other)) for one, other in zip(*runs, strict=True)]
        for model, runs in enumerate(zip(defended, control, strict=True))
    }
    return compare(orders)


def ended(time: float) -> Run:
    """How a run ends that breaks after `time` steps, measured every few steps."""
    if time > BUDGET:
        return Run(outcome=Outcome.HELD, steps=BUDGET)
    return Run(outcome=Outcome.BROKE, steps=math.ceil(time / EVERY) * EVERY)


def table(rng: np.random.Generator, size: int, models: int, seeds: int, **truth: float) -> list[str]:
    """The verdicts of a table of `size` simulated comparisons."""
    return [each.verdict for each in corrected([simulated(rng, models, seeds, **truth) for _ in range(size)])]


def shares(verdicts: Iterable[str]) -> dict[str, float]:
    """The share of each verdict."""
    counted = Counter(verdicts)
    return {name: round(counted[name] / counted.total(), 4) for name in ("better", "worse", "cannot tell")}


def covered(rng: np.random.Generator, alike: float, truth: float, *, models: int, seeds: int, draws: int) -> float:
    """How often the interval of the share that held covers it; `alike` is the intraclass correlation in [0, 1]."""
    if alike == 0:
        chances = np.full((draws, models), truth)
    elif alike == 1:
        chances = (rng.random((draws, models)) < truth).astype(float)
    else:
        rest = 1 / alike - 1
        chances = rng.beta(truth * rest, (1 - truth) * rest, (draws, models))
    held_counts = [tuple(sorted(counts)) for counts in rng.binomial(seeds, chances).tolist()]
    return float(np.mean([low <= truth <= high for low, high in (_ends(held, seeds) for held in held_counts)]))


@cache
def _ends(held: tuple[int, ...], seeds: int) -> tuple[float, float]:
    """The interval of the share that held, where so many runs of each model did."""
    share = survival.share_of_runs([[i < count for i in range(seeds)] for count in held], draws=2000)
    return share.low, share.high


def measured(tables: int) -> dict[str, Any]:
    """The shares of verdicts by design and truth, and the coverage of the interval over models."""
    rng = np.random.default_rng(0)
    verdicts = {
        f"{models} models x {seeds} seeds": {
            name: {
                "single": shares(table(rng, 1, models, seeds, **truth)[0] for _ in range(tables * SIZE)),
                "of_48": shares(one for _ in range(tables) for one in table(rng, SIZE, models, seeds, **truth)),
            }
            for name, truth in TRUTHS.items()
        }
        for models, seeds in DESIGNS
    }
    truths = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    coverage = {
        f"intraclass correlation {alike:g}": round(
            min(covered(rng, alike, truth, models=3, seeds=10, draws=4000) for truth in truths), 3
        )
        for alike in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0)
    }
    return {"comparisons": tables * SIZE, "verdicts": verdicts, "coverage of 3 models x 10 seeds": coverage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20, help=f"tables of {SIZE} comparisons for each truth")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "verdicts.json")
    options = parser.parse_args()
    options.out.write_text(json.dumps(measured(options.tables), indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
