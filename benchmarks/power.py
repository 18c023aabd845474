"""How often a run's verdicts differ between two disjoint sets of its seeds.

    holdfast run quickstart seeds=[0,1,2,3,4,5,6,7,8,9,10,11] --runs runs/power
    python benchmarks/power.py runs/power --csv benchmarks/results/quickstart_twelve_seeds.csv

Many times, twice as many seeds as a set has are drawn and halved by chance, and both halves are read as a report would
read them (`disjoint`, if there are so many seeds). Or both are drawn from all seeds with replacement (`redrawn`): what
two new sets would say if runs always ended as these did. Halves of few seeds are less alike than that: what one has,
the other lacks. A row is a defense under an attack against no defense, or two defenses of one threat model under one
attack:

- `verdict`: *better*, *worse* or *cannot tell*, corrected for the rows as in a report;
- `leading`: what one would say without a test, *longer*, *shorter* or *alike*, as most pairs of runs have it;
- `majority`: *held* or *broke* if more than half of the runs did, else *neither*; of rows against no defense.

`flips` are the shares of the draws in which the two sets do not say the same, `reversed` those in which one says
*better* and the other *worse*, `said` the shares of all sets that say each. Draws share runs, so that a share is no
more certain than the run's seeds make it, however many draws there are. Without `--csv` the run's table is not kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Outcome, Record
from holdfast.report import write_report
from holdfast.report.read import load
from holdfast.report.summarise.comparisons import compare, control_run, corrected, order, run_of

SIZES = (3, 5, 8, 10, 15)


class Pairs(NamedTuple):
    """A row: the order of each seed's pair, and the outcome of its run, if the row is against no defense."""

    name: str
    orders: Mapping[int, int | None]
    outcomes: Mapping[int, Outcome] | None


def rows_of(records: Sequence[Record]) -> list[Pairs]:
    """The rows of a run of one model: each defense and attack against none, and each two of one threat model."""
    groups: dict[tuple[str, str, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        if control_of(record.cell) is not None and defended(record.cell):
            cell = record.cell
            groups[cell.threat_model, cell.attacker, cell.defense][cell.seed] = record
    rows = []
    for (_, attack, defense), own in groups.items():
        controls = {seed: control_run(record) for seed, record in own.items()}
        orders = {seed: None if (c := controls[seed]) is None else order(run_of(r), c) for seed, r in own.items()}
        rows.append(Pairs(f"{defense} x {attack}", orders, {seed: record.outcome for seed, record in own.items()}))
    for ((*field, one), ones), ((*other_field, other), others) in combinations(groups.items(), 2):
        if field == other_field:
            shared = {seed: order(run_of(ones[seed]), run_of(others[seed])) for seed in ones if seed in others}
            rows.append(Pairs(f"{one} over {other} x {field[1]}", shared, None))
    return rows


def said(rows: Sequence[Pairs], seeds: Sequence[int]) -> list[dict[str, str]]:
    """What the runs with these seeds say of each row; pairs of defenses are a table of their own."""
    by_row: list[dict[str, str]] = [{} for _ in rows]
    for alone in (True, False):
        places = [place for place, row in enumerate(rows) if (row.outcomes is None) is alone]
        compared = corrected([compare({"model": [rows[place].orders[seed] for seed in seeds]}) for place in places])
        for place, each in zip(places, compared, strict=True):
            leading = ("alike", "longer", "shorter")[(each.wins > each.losses) - (each.wins < each.losses)]
            by_row[place] = {"verdict": each.verdict, "leading": leading, **majority(rows[place].outcomes, seeds)}
    return by_row


def majority(outcomes: Mapping[int, Outcome] | None, seeds: Sequence[int]) -> dict[str, str]:
    """How more than half of the runs ended, for rows that are about outcomes."""
    if outcomes is None:
        return {}
    ended = Counter(outcomes[seed] for seed in seeds)
    most = [outcome for outcome in (Outcome.HELD, Outcome.BROKE) if 2 * ended[outcome] > len(seeds)]
    return {"majority": str(most[0]) if most else "neither"}


def flips(rows: Sequence[Pairs], seeds: Sequence[int], size: int, draws: int, *, again: bool = False) -> dict[str, Any]:
    """How often two sets of so many seeds differ, for each row and in all: disjoint ones, or drawn with replacement."""
    rng = np.random.default_rng(size)
    kept: list[tuple[list[dict[str, str]], list[dict[str, str]]]] = []
    for _ in range(draws):
        sampled = rng.choice(np.array(seeds), 2 * size, replace=again).tolist()
        kept.append((said(rows, sampled[:size]), said(rows, sampled[size:])))
    by_row = {}
    for place, row in enumerate(rows):
        kinds = kept[0][0][place]
        by_row[row.name] = {
            kind: _figures([(one[place][kind], two[place][kind]) for one, two in kept]) for kind in kinds
        }
    overall = {
        kind: round(float(np.mean([each[kind]["flips"] for each in by_row.values() if kind in each])), 4)
        for kind in ("verdict", "leading", "majority")
    }
    return {"draws": draws, "mean flips": overall, "rows": by_row}


def _figures(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    counted = Counter(what for pair in pairs for what in pair)
    figures: dict[str, Any] = {"flips": round(float(np.mean([one != two for one, two in pairs])), 4)}
    if any(name in counted for name in ("better", "worse", "cannot tell")):
        figures["reversed"] = round(float(np.mean([{one, two} == {"better", "worse"} for one, two in pairs])), 4)
    return {**figures, "said": {what: round(n / counted.total(), 4) for what, n in sorted(counted.items())}}


def measured(run: Path, draws: int) -> dict[str, Any]:
    """All figures of a run, of rows with enough seeds."""
    rows = [row for row in rows_of([cell.record for cell in load([run]).cells]) if len(row.orders) >= 2 * SIZES[0]]
    if not rows:
        raise SystemExit(f"{run}: no defense has {2 * SIZES[0]} seeds under an attack")
    seeds = sorted(set.intersection(*(set(row.orders) for row in rows)))
    by_size: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        ways = {"redrawn": True} if 2 * size > len(seeds) else {"disjoint": False, "redrawn": True}
        by_size[f"{size} seeds"] = {name: flips(rows, seeds, size, draws, again=again) for name, again in ways.items()}
    outcomes = {
        row.name: dict(sorted(Counter(map(str, row.outcomes.values())).items())) for row in rows if row.outcomes
    }
    return {"seeds": len(seeds), "outcomes": outcomes, **by_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "power.json")
    parser.add_argument("--csv", type=Path, help="where the run's table goes, with its versions beside it")
    options = parser.parse_args()
    options.out.write_text(json.dumps(measured(options.run, options.draws), indent=1) + "\n")
    print(f"wrote {options.out}")
    if options.csv is not None:
        with TemporaryDirectory() as folder:
            page = write_report([options.run], Path(folder) / "report.html")
            for ending in (".csv", ".versions.json"):
                shutil.copyfile(page.with_suffix(ending), options.csv.with_suffix(ending))
        print(f"wrote {options.csv}")


if __name__ == "__main__":
    main()
