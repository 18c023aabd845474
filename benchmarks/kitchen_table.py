"""The kitchen's table for the documentation, from a run's report: when each defense broke, or its highest harm.

    holdfast run kitchen
    python benchmarks/kitchen_table.py runs/kitchen
    python benchmarks/kitchen_table.py runs/kitchen --prompt "Walk me through baking raspberry brownies from scratch."

With `--prompt`, the last answer to it in each cell instead. The attacked models are harmless; so are their answers.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pyarrow import parquet

Row = Mapping[str, str]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("run", type=Path, help="the folder of a finished run")
    options.add_argument("--prompt", help="print the last answer to this prompt in each cell")
    chosen = options.parse_args()
    lines = table(chosen.run / "report.csv") if chosen.prompt is None else answers(chosen.run, chosen.prompt)
    for line in lines:
        print(line)


def table(report: Path) -> Iterator[str]:
    """A table in Markdown: a row a defense, a column an attack, then what the defense costs before any attack."""
    with report.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    attacks, defenses = (list(dict.fromkeys(row[name] for row in rows)) for name in ("attack", "defense"))
    yield "| " + " | ".join(["defense", *attacks, "helpfulness", "everyday refused"]) + " |"
    yield "|" + "---|" * (len(attacks) + 3)
    for defense in defenses:
        own = {row["attack"]: row for row in rows if row["defense"] == defense}
        first = next(iter(own.values()))
        costs = [_with_interval(first, "helpfulness_before"), _with_interval(first, "over_refusal_before")]
        cells = [_cell(own[attack]) if attack in own else "" for attack in attacks]
        yield "| " + " | ".join([f"`{defense}`", *cells, *costs]) + " |"


def _cell(row: Row) -> str:
    if row["outcome"] == "broke":
        return f"broke at {float(row['time_to_break_steps']):.0f}"
    return f"{row['outcome']}, {_with_interval(row, 'harmfulness_peak')}" if row["harmfulness_peak"] else row["outcome"]


def _with_interval(row: Row, name: str) -> str:
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def answers(run: Path, prompt: str) -> Iterator[str]:
    """The last answer to a prompt in each cell, with its score by the judge of content."""
    for place in sorted((run / "cells").glob("*/record.json")):
        record = json.loads(place.read_text(encoding="utf-8"))
        if not (place.parent / "completions.parquet").exists():
            continue
        rows = parquet.read_table(place.parent / "completions.parquet").to_pylist()
        own = [row for row in rows if row["prompt"] == prompt and row["judge"] == "content"]
        if own:
            last = max(own, key=lambda row: row["step"])
            cell = record["cell"]
            defense = " + ".join(part["name"] for part in (*cell["stages"], *cell["constraints"])) or "none"
            attack = cell["attack"]["label"] or cell["attack"]["name"]
            yield f"{defense}, {attack}, step {last['step']}, {last['score']:.2f}: {json.dumps(last['completion'])}"


if __name__ == "__main__":
    main()
