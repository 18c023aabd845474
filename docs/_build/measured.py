"""A method's results in the sandbox, from the tables whose commands are in `benchmarks/README.md`."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median

from holdfast.evaluation import survival
from holdfast.records import Outcome
from holdfast.report.summarise.comparisons import Comparison, Run, compare, corrected, order

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
    head = "| " + " | ".join((by, *COLUMNS)) + " |"
    lines = [
        f"From [`{table}.csv`](../benchmarks.md) ({models}, {runs(found)}; means over runs; {len(compared(table))} "
        "comparisons with no defense in the table):",
        "",
        head,
        "|---|---|---|---|" + "---:|" * (len(COLUMNS) - 3),
    ]
    labels = dict.fromkeys(row[by] for row in found)
    for label in labels:
        cells = [row for row in found if row[by] == label]
        lines.append("| " + " | ".join(_cells(label, cells, table)) + " |")
    return [*lines, ""]


COLUMNS = (
    *("outcomes", "held, 95 % interval", "against no defense", "steps to the break, median", "harm at most"),
    *("helpful before", "after", "refuses after"),
)


def model_of(row: Row) -> str:
    """A cell's model with its seed; tables of earlier versions have one of each."""
    return f"{row['model']} {row.get('model_seed', '')}"


def runs(cells: Sequence[Row]) -> str:
    """How many seeds, and models if there are several."""
    seeds, models = len({row["seed"] for row in cells}), len({model_of(row) for row in cells})
    counted = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return counted if models == 1 else f"{models} models x {counted}"


@cache
def compared(table: str) -> dict[tuple[str, str], Comparison]:
    """The comparisons of a table with no defense by (defense, attack), corrected for their number."""
    controls = {(row["attack"], *place(row)): ended(row) for row in rows(table) if row["defense"] == "none"}
    pairs: dict[tuple[str, str], dict[str, list[int | None]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(table):
        control = controls.get((row["attack"], *place(row)))
        if row["defense"] != "none" and row["attack"] != "none":
            one = None if control is None else order(ended(row), control)
            pairs[row["defense"], row["attack"]][model_of(row)].append(one)
    return dict(zip(pairs, corrected([compare(own) for own in pairs.values()]), strict=True))


def place(row: Row) -> tuple[str, str]:
    """The seeds of a cell's model and of the cell."""
    return model_of(row), row["seed"]


def ended(row: Row) -> Run:
    """How a cell ended."""
    steps = row["time_to_break_steps"]
    return Run(outcome=Outcome(row["outcome"]), steps=float(steps) if steps else None)


def held(cells: Sequence[Row]) -> str:
    """How many cells held, with the interval of their share, over models if there are several."""
    by_model: dict[str, list[bool]] = defaultdict(list)
    for row in cells:
        by_model[model_of(row)].append(row["outcome"] == Outcome.HELD)
    share = survival.share_of_runs(list(by_model.values()))
    return f"{sum(map(sum, by_model.values()))} of {len(cells)} [{share.low:.2f}, {share.high:.2f}]"


def _cells(label: str, cells: Sequence[Row], table: str) -> Iterator[str]:
    yield f"`{label}`"
    yield ", ".join(f"{number} {outcome}" for outcome, number in sorted(Counter(c["outcome"] for c in cells).items()))
    comparison = compared(table).get((cells[0]["defense"], cells[0]["attack"]))
    yield held(cells) if comparison else ""
    yield _verdict(comparison) if comparison else ""
    broke = [float(c["time_to_break_steps"]) for c in cells if c["outcome"] == "broke" and c["time_to_break_steps"]]
    yield f"{median(broke):.0f}" if broke else ""
    for column in ("harmfulness_peak", "helpfulness_before", "helpfulness_after", "refusal_rate"):
        values = [float(c[column]) for c in cells if c.get(column)]
        yield f"{mean(values):.2f}" if values else ""


def _verdict(comparison: Comparison) -> str:
    """The verdict with its pairs; open are those that were alike or have no order."""
    left = comparison.ties + comparison.unknown
    return f"{comparison.verdict} ({comparison.wins} longer, {comparison.losses} shorter, {left} open)"
