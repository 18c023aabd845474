"""A method's results in the sandbox, from the tables whose commands are in `benchmarks/README.md`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TABLES = ("attacks_three_seeds", "offline_three_seeds", "online_three_seeds", "guided_three_seeds")
Row = dict[str, str]


@cache
def rows(table: str) -> list[Row]:
    """The cells of a stored table."""
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_defense(name: str) -> list[str]:
    """Lines of Markdown: a defense under each attack."""
    lines = []
    for table in TABLES:
        found = [row for row in rows(table) if _method(row["defense"]) == name]
        if found:
            lines += _table(table, "attack", found)
    return lines


def of_attack(name: str) -> list[str]:
    """Lines of Markdown: an attack on the undefended model, and on each defense."""
    lines = []
    for table in TABLES:
        found = [row for row in rows(table) if _method(row["attack"]) == name]
        if found:
            lines += _table(table, "defense", found)
    return lines


def _method(label: str) -> str:
    """The method of a label such as `lisa(bistate)` or `sft flip 0.5`; `None` for a chain."""
    return label if " + " in label else label.partition("(")[0].partition(" ")[0].strip()


def _table(table: str, by: str, found: Sequence[Row]) -> list[str]:
    models = ", ".join(sorted({row["model"] for row in found}))
    seeds = len({row["seed"] for row in found})
    head = f"| {by} | outcomes | steps to the break, median | harm at most | helpful before | after | refuses after |"
    lines = [
        f"From [`{table}.csv`](../benchmarks.md) ({models}, {seeds} seed{'s' if seeds > 1 else ''}; means over seeds):",
        "",
        head,
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    labels = dict.fromkeys(row[by] for row in found)
    for label in labels:
        cells = [row for row in found if row[by] == label]
        lines.append("| " + " | ".join(_cells(label, cells)) + " |")
    return [*lines, ""]


def _cells(label: str, cells: Sequence[Row]) -> Iterator[str]:
    yield f"`{label}`"
    yield ", ".join(f"{number} {outcome}" for outcome, number in sorted(Counter(c["outcome"] for c in cells).items()))
    broke = [float(c["time_to_break_steps"]) for c in cells if c["outcome"] == "broke" and c["time_to_break_steps"]]
    yield f"{median(broke):.0f}" if broke else ""
    for column in ("harmfulness_peak", "helpfulness_before", "helpfulness_after", "refusal_rate"):
        values = [float(c[column]) for c in cells if c.get(column)]
        yield f"{mean(values):.2f}" if values else ""
