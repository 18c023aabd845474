"""What a method costs, from the tables and measurements whose commands are in `benchmarks/README.md`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from measured import RESULTS, Row, adaptive, only_method, place, rows, runs

ATTACKS = (
    *("attacks_three_seeds", "online_three_seeds", "guided_three_seeds", "early_stop_three_seeds"),
    *("quickstart_twelve_seeds", "kitchen", "variants_one_seed", "ablation_one_seed"),
    "prefill_one_seed",
)
HARDENED = (
    *("offline_three_seeds", "guided_three_seeds", "quickstart_twelve_seeds", "kitchen", "variants_one_seed"),
    "filtered_one_seed",
)
CONSTRAINED = ("online_three_seeds", "kitchen")
ADAPTED = (
    *("guided_three_seeds", "early_stop_three_seeds", "token_noise_development", "adaptive_one_seed"),
    "resample_one_seed",
)
WALL = (
    "Seconds are wall time of one core of a machine that also did other work, a run's measurements and its waiting "
    "included: upper bounds, good to a factor of two at best."
)
PAIRED = (
    "Medians over pairs of runs that share everything else, with the smallest and the largest in brackets. Seconds are "
    "wall time of one core of a machine that also did other work, measurements included: good to a factor of two at "
    "best, so that one below 1 may be noise."
)
Value = Callable[[Row], float | None]


WITHOUT_TRAINING = {
    "external": "it trains nothing here; what its weights took is their maker's word",
    "rounded": "it trains nothing; a copy takes about as long as saving the model",
}
"""Why there is nothing to measure of a method."""


def of_attack(name: str) -> list[str]:
    """Lines of Markdown: what a run of the attack takes without a defense."""
    lines: list[str] = []
    for table in ATTACKS:
        own_rows = [row for row in rows(table) if row["defense"] == "none" and only_method(row["attack"]) == name]
        for label, cells in _by(own_rows, "attack").items():
            steps, *values = (_median(cells, key) for key in ("steps", "tokens", "flops", "wall_seconds"))
            counted = "" if cells[0]["unit"] == "step" else f" ({cells[0]['unit']})"
            lines.append(f"| {_table(table, cells)} | `{label}` | {steps}{counted} | " + " | ".join(values) + " |")
    if not lines:
        why = WITHOUT_TRAINING.get(name, "no stored table has a run of it on an undefended model")
        return [f"Not measured: {why}."]
    head = ["| table | attack | steps | tokens | FLOPs | seconds |", "|---|---|---:|---:|---:|---:|"]
    return [f"A run on the undefended model, to its end or its break: medians over runs. {WALL}", "", *head, *lines]


def of_hardening(name: str) -> list[str]:
    """Lines of Markdown: what hardening a model takes."""
    lines: list[str] = []
    for table in HARDENED:
        own_rows = [row for row in rows(table) if only_method(row["defense"]) == name]
        for label, cells in _by(own_rows, "defense").items():
            if not any(float(row["defense_seconds"] or 0) for row in cells):
                continue  # nothing was trained, and the seconds of a copy are not recorded
            once = list({place(row): row for row in cells}.values())
            keys = ("defense_steps", "defense_tokens", "defense_flops", "defense_seconds")
            lines.append(f"| {_table(table, once)} | `{label}` | " + " | ".join(_median(once, k) for k in keys) + " |")
    head = ["| table | defense | steps | tokens | FLOPs | seconds |", "|---|---|---:|---:|---:|---:|"]
    told = [f"Hardening a model once: medians over hardened models. {WALL}", "", *head, *lines, ""] if lines else []
    told += _bare(name)
    why = WITHOUT_TRAINING.get(name, "no stored table has the costs of a model that it alone hardened")
    return told or [f"Not measured: {why}."]


def _bare(name: str) -> list[str]:
    """A step of hardening on random weights, if it was measured."""
    own = f"hardening_step_{name}"  # measured again, after the other file
    source = own if (RESULTS / f"{own}.json").exists() else "hardening_step"
    file, words = _json(source), "the bare passes that it consists of"
    lines = [
        f"| `{one['defense']}` | {one['seconds']:.2f} | {one['ratio']:.2f} | {one['peak_memory_copies']:.1f} |"
        for one in _of_defense(file, name)
    ]
    if not lines:
        return []
    settings = file["settings"]
    told = (
        f"A step of {settings['rows']} rows on {settings['parameters'] / 1e6:.0f} million random weights, one thread "
        f"(`{source}.json`, {settings['steps']} steps, {settings['seeds']} seed):"
    )
    head = f"| defense | seconds | times {words} | peak memory, in copies of the weights |"
    return [told, "", head, "|---|---:|---:|---:|", *lines]


def _of_defense(file: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The results of a file that are a defense's, whatever its settings."""
    return [one for one in file["results"] if one["defense"].partition(",")[0] == name]


def of_constraint(name: str) -> list[str]:
    """Lines of Markdown: a step of an attack under the defense, relative to the same step without it."""
    lines: list[str] = []
    for table in CONSTRAINED:
        controls = {(row["attack"], *place(row)): row for row in rows(table) if row["defense"] == "none"}
        own_rows = [row for row in rows(table) if only_method(row["defense"]) == name]
        for (label, attack), cells in _by(own_rows, "defense", "attack").items():
            pairs = [(row, controls[key]) for row in cells if (key := (attack, *place(row))) in controls]
            times = [_ratio(pairs, _a_step(key)) for key in ("wall_seconds", "flops")]
            lines.append(f"| `{table}` | `{label}` | `{attack}` | {len(pairs)} | " + " | ".join(times) + " |")
    head = ["| table | defense | attack | pairs | seconds a step | FLOPs a step |", "|---|---|---|---:|---:|---:|"]
    told = [f"A step under the defense in multiples of one without. {PAIRED}", "", *head, *lines, ""] if lines else []
    told += _plain_steps(name)
    return told or ["Not measured: no stored table has a run under it."]


def _plain_steps(name: str) -> list[str]:
    """A step under a defense on random weights, if it was measured."""
    file = _json("constrained_step")
    lines = [
        f"| `{one['attack']}` | `{one['defense']}` | {one['seconds']:.2f} | {one['ratio']:.2f} | "
        f"{one['token_share']:.2f} | {one['peak_memory_copies']:.1f} |"
        for one in _of_defense(file, name)
    ]
    if not lines:
        return []
    settings = file["settings"]
    told = (
        f"A step of {settings['rows']} rows on {settings['parameters'] / 1e6:.0f} million random weights, one thread "
        f"(`constrained_step.json`, {settings['steps']} steps, {settings['seeds']} seeds), without what the defense does "
        "once before the first step:"
    )
    head = "| attack | defense | seconds | times the plain step | tokens read, times | peak memory, copies of the weights |"
    return [told, "", head, "|---|---|---:|---:|---:|---:|", *lines]


def of_adaptive(name: str) -> list[str]:
    """Lines of Markdown: an attack with the adaptive attacker, relative to the same attack alone."""
    lines: list[str] = []
    for table in ADAPTED:
        alone = {(row["attack"], row["defense"], *place(row)): row for row in rows(table)}
        own_rows = [row for row in rows(table) if only_method(adaptive(row)) == name]
        for label, cells in _by(own_rows, "attack").items():
            keys = [(row, (label.rpartition(" + ")[0], row["defense"], *place(row))) for row in cells]
            pairs = [(row, alone[key]) for row, key in keys if key in alone]
            if pairs:
                values = [_whole("steps"), _whole("flops"), _a_step("flops"), _a_step("wall_seconds")]
                times = [_ratio(pairs, value) for value in values]
                lines.append(f"| `{table}` | `{label}` | {len(pairs)} | " + " | ".join(times) + " |")
    if not lines:
        return ["Not measured: no stored table has an attack with it beside the same attack alone."]
    head = "| table | attack | pairs | steps of the run | FLOPs of the run | FLOPs a step | seconds a step |"
    told = f"In multiples of the attack alone, against the same defense or none; many runs end at their break. {PAIRED}"
    return [told, "", head, "|---|---|---:|---:|---:|---:|---:|", *lines]


def of_judge(name: str) -> list[str]:
    """Lines of Markdown: CPU seconds for 1,000 answers, or that they were not measured and why."""
    file = _json("judge_cost")
    if name in file["not_measured"]:
        return [f"Not measured: {file['not_measured'][name]}."]
    lines = [
        f"| {one['what']} | {one['answers']} | {len(one['cpu_seconds'])} | {_number(one['per_1000'])} "
        f"[{_number(one['lowest'])}, {_number(one['highest'])}] |"
        for one in file["results"]
        if one["judge"] == name
    ]
    if not lines:
        return ["Not measured: `judge_cost.json` has no row for it."]
    told = (
        f"CPU seconds for 1,000 invented answers of {file['words']} words, questions included, one thread "
        "(`judge_cost.json`): median over repetitions with the smallest and the largest in brackets, without loading."
    )
    return [told, "", "| with | answers | repetitions | CPU seconds for 1,000 |", "|---|---:|---:|---:|", *lines]


def _by(table_rows: Sequence[Row], *keys: str) -> dict[Any, list[Row]]:
    """Cells by the values of columns, in the table's order; by one column, by its value alone."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in table_rows:
        groups[tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]].append(row)
    return groups


def _table(table: str, cells: Sequence[Row]) -> str:
    return f"`{table}` ({cells[0]['model']}, {runs(cells)})"


def _median(cells: Sequence[Row], key: str) -> str:
    values = [float(row[key]) for row in cells if row.get(key)]
    fewer = f" ({len(values)} runs)" if len(values) < len(cells) else ""
    return f"{_number(median(values))}{fewer}" if values else "not recorded"


def _whole(key: str) -> Value:
    return lambda row: float(row[key]) if row.get(key) else None


def _a_step(key: str) -> Value:
    return lambda row: float(row[key]) / float(row["steps"]) if row.get(key) and float(row["steps"] or 0) else None


def _ratio(pairs: Sequence[tuple[Row, Row]], value: Value) -> str:
    """The median of a value's ratios over pairs of cells, with the smallest and the largest; how many, if not all."""
    values = [(value(own), value(other)) for own, other in pairs]
    ratios = sorted(own / other for own, other in values if own is not None and other)
    if not ratios:
        return "not recorded"
    fewer = f", {len(ratios)} pairs" if len(ratios) < len(pairs) else ""
    return f"{median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]{fewer}"


def _number(value: float) -> str:
    """A number in three digits: 0.012, 37.3, 175,190, 2.01e+11."""
    if value >= 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _json(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded
