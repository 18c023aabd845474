"""A method's results in the sandbox, from the tables whose commands are in `benchmarks/README.md`."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median

from holdfast.evaluation import survival
from holdfast.records import Outcome
from holdfast.report.summarise.comparisons import Comparison, Run, compare, corrected, order

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TABLES = (
    *("attacks_three_seeds", "offline_three_seeds", "online_three_seeds", "guided_three_seeds"),
    *("early_stop_three_seeds", "token_noise_development", "variants_one_seed", "ablation_one_seed"),
    *("prefill_one_seed", "adaptive_one_seed", "resample_one_seed", "filtered_one_seed"),
)
"""Tables of runs in the sandbox."""
KITCHEN = ("kitchen",)
"""Tables of runs of the kitchen's model, a real one."""
Row = dict[str, str]


@cache
def rows(table: str) -> list[Row]:
    """The cells of a stored table."""
    return _read(RESULTS / f"{table}.csv")


def _read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def of_defense(name: str, tables: Sequence[str] = TABLES) -> list[str]:
    """Lines of Markdown: a defense under each attack, in each table that has it."""
    return _of(tables, lambda row: only_method(row["defense"]) == name, ("defense", "attack"))


def of_attack(name: str, tables: Sequence[str] = TABLES) -> list[str]:
    """Lines of Markdown: an attack on the undefended model, and on each defense."""
    return _of(tables, lambda row: only_method(row["attack"]) == name, ("attack", "defense"))


def of_adaptive(name: str, tables: Sequence[str] = TABLES) -> list[str]:
    """Lines of Markdown: attacks with an adaptive attacker, each after the attack alone."""
    with_it = [{r["attack"] for r in rows(table) if only_method(adaptive(r)) == name} for table in tables]
    lines = []
    for table, attacks in zip(tables, with_it, strict=True):
        alone = {attack.rpartition(" + ")[0] for attack in attacks}
        lines += _of([table], lambda row, shown=attacks | alone: row["attack"] in shown, ("attack", "defense"))
    return lines


def elsewhere(kind: str, name: str) -> str:
    """A sentence with the stored tables of another form that have the method; empty if there is none."""
    column = {"attack": "attack", "offline defense": "defense", "online defense": "defense"}.get(kind)
    files = sorted((RESULTS / "compared").glob("*.csv")) if column else []
    with_method = [path for path in files if any(row[column] == name for row in _read(path))]
    if not with_method:
        return ""
    links = ", ".join(f"`{path.stem}`" for path in with_method)
    return f"Runs of one seed beside a paper's printed rows: {links} ([how to read them](../compare.md))."


def of_judge(name: str) -> list[str]:
    """Lines of Markdown: how often a judge is wrong about labelled answers, or what else of it is stored."""
    lines = []
    labelled = json.loads((RESULTS / "kitchen_judge.json").read_text(encoding="utf-8"))
    for file, judged in labelled.items():
        for which in (own for own, kinds in KITCHENS_JUDGES.items() if name in kinds and own in judged["judges"]):
            cells = [_share(judged["judges"][which][wrong]) for wrong in ("missed", "invented")]
            lines.append(f"| `{file}` ({judged['answers']:,} answers) | `{which}` | {' | '.join(cells)} |")
    if lines:
        told = (
            "Answers of attacked models of the kitchen, labelled by two readers (`kitchen_judge.json`). Missed: answers "
            "about cooking with a score of at most 0.5; invented: others with a score above it; answers on which the "
            "readers differ are left out; 95 % intervals (Wilson). The kitchen's list of terms was corrected by the first "
            "file, so its figures there are too good; the second is fresh ([the labels](../kitchen.md))."
        )
        head = ["| answers | the kitchen's judge | missed | invented |", "|---|---|---|---|"]
        lines = [told, "", *head, *lines]
    return lines + (_robust() if name == "llm" else [])


def _robust() -> list[str]:
    """What the judge that is a language model did with a server whose replies were spoilt."""
    told = json.loads((RESULTS / "llm_judge.json").read_text(encoding="utf-8"))
    counts = told["usage"]
    return [
        f"`llm_judge.json`, {told['answers']} answers asked of SmolLM2-135M-Instruct on a local server through a proxy "
        f"that spoils every tenth reply: {counts['retries']} requests sent again, {told['unjudged']} answers without a "
        f"score, since what came back was no verdict; after a kill {counts['kept']} replies were read from the disk, and "
        "a third start asked nothing. That shows that nothing is lost or counted twice, not that its verdicts are right: "
        f"it gave {told['scores'].get('1.0', 0)} of the {told['answers']} answers the score 1."
    ]


def _share(wrong: dict[str, float]) -> str:
    return f"{wrong['share']:.3f} [{wrong['low']:.3f}, {wrong['high']:.3f}], n = {wrong['n']:,}"


KITCHENS_JUDGES = {
    "content": ("terms",),
    "classifier": ("classifier", "trained_classifier"),
    "refusal": ("refusal",),
}
"""The judges of `kitchen_judge.json`, and what each is."""


def adaptive(row: Row) -> str:
    """The label of the adaptive attacker at the end of a cell's chain; empty if it has none."""
    return row["attack"].rpartition(" + ")[2] if " + " in row["attack"] else ""


def only_method(label: str) -> str:
    """The method of a label such as `lisa(bistate)` or `sft flip 0.5`; of a chain the label itself."""
    return label if " + " in label else re.split(r"[(, ]", label, maxsplit=1)[0]


def _of(tables: Sequence[str], shown: Callable[[Row], bool], by: tuple[str, str]) -> list[str]:
    by_table = [(table, [row for row in rows(table) if shown(row)]) for table in tables]
    return [line for table, cells in by_table if cells for line in _table(table, by, cells)]


def _table(table: str, by: tuple[str, str], table_rows: Sequence[Row]) -> list[str]:
    models = ", ".join(sorted({row["model"] for row in table_rows}))
    labels = {tuple(row[key] for key in by) for row in table_rows}
    keys = by if len({first for first, _ in labels}) > 1 else by[1:]
    head = "| " + " | ".join((*keys, *COLUMNS)) + " |"
    count = len(compared(table))
    counted = "".join(f"; steps are {unit}" for unit in sorted({row["unit"] for row in table_rows} - {"step", ""}))
    comparisons = f"; {count} comparisons with no defense in the table" if count else ""
    lines = [
        f"From [`{table}.csv`](../benchmarks.md) ({models}, {runs(table_rows)}; means over runs{comparisons}{counted}):",
        "",
        head,
        "|---|---|---|" + "---|" * len(keys) + "---:|" * (len(COLUMNS) - 3),
    ]
    for label in dict.fromkeys(tuple(row[key] for key in keys) for row in table_rows):
        cells = [row for row in table_rows if tuple(row[key] for key in keys) == label]
        lines.append("| " + " | ".join((*(f"`{one}`" for one in label), *_cells(cells, table))) + " |")
    return [*lines, ""]


COLUMNS = (
    *("outcomes", "held, 95 % interval", "against no defense", "steps to the break, median", "harm at most"),
    *("helpful before", "helpful after", "refuses after"),
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


def _cells(cells: Sequence[Row], table: str) -> Iterator[str]:
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
