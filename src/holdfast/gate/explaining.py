"""What to run so that inconclusive lines can be decided: a grid, as plain values, and remarks.

Seeds and prompts are those with which a line would be decided if further ones came out as those so far. That is a
projection, not a promise: a value close to its bound stays undecided, and a further seed may break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from holdfast.evaluation.intervals import clopper_pearson
from holdfast.experiment.as_grid import (
    attack_entry,
    data_values,
    defense_entry,
    evaluation_values,
    judge_entries,
    model_entry,
)
from holdfast.experiment.cell_settings import settings_of
from holdfast.gate.attack_kinds import HOTTER
from holdfast.gate.bounds import Finding, verdict_of
from holdfast.gate.deciding import OF_GROUP, Decision, LineVerdict, groups_of, missing_attacks
from holdfast.gate.evidence import ROUNDED, Group
from holdfast.gate.gate_file import ANY, NOT_MEASURED, Gate, Line
from holdfast.gate.stand_ins import STAND_INS, customer, stand_in
from holdfast.records import Cell, HoldfastError, Record

MOST_SEEDS, MOST_PROMPTS = 100, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A grid of the missing cells.

    `proposed` are attacks that may not fit the model and are not in `values` yet; `remarks` say what no grid can add;
    `empty` means that a grid would add nothing.
    """

    values: Mapping[str, Any]
    proposed: Mapping[str, Any]
    remarks: tuple[str, ...]
    empty: bool


def missing(gate: Gate, decision: Decision) -> Missing:
    """What to run so that the inconclusive lines of a defense can be decided.

    Raises:
        HoldfastError: the defense is not judged by this gate, or none of its cells has an attack.
    """
    open_lines = [line for line in decision.lines if line.verdict == "inconclusive" and line.counts]
    attacked = [record for group in decision.subject.groups for record in group.records]
    if not decision.lines or not attacked:
        raise HoldfastError(f"{decision.subject.title}: {decision.reason}; so --explain can propose no grid")
    cell = attacked[0].cell
    grids = [_seeds(gate, line, decision) for line in open_lines if line.line.measure in OF_GROUP]
    wanted = max((seeds for seeds, _ in grids), default=0)
    prompts = max((_prompts(line) for line in open_lines), default=0)
    copies = dict.fromkeys(line.line.copy for line in open_lines if line.line.copy)
    proposed = _proposed(open_lines, decision, [record.cell for record in attacked])
    evaluation = _evaluation(cell, prompts, open_lines)
    there = {record.cell.seed for record in attacked}
    seeds = _extended(there, max(wanted, gate.seeds, *map(gate.seeds_of, _lines(open_lines, "trainability"))))
    honest = any(group.task for group in decision.subject.groups) or "trainability" in proposed
    values = {
        "name": f"{gate.name}_missing",
        "description": f"What is missing before the gate {gate.name} can decide on {decision.subject.defense}.",
        "models": _models(attacked),
        "defenses": [*(["none"] if honest else []), defense_entry(cell, without=ROUNDED)],
        "attacks": [attack_entry(group.records[0].cell) for group in decision.subject.groups if group.copy is None],
        "seeds": seeds,
        "data": data_values(cell),
        "judges": judge_entries(record.cell for record in attacked),
        "evaluation": evaluation,
        **({"copies": list(copies)} if copies and not cell.constraints else {}),
    }
    changed = evaluation != evaluation_values(cell)
    remarks = [remark for _, own in grids for remark in own]
    if changed:
        remarks.append("the evaluation differs from that of the runs, so that every cell is run again")
    remarks += [remark for line in open_lines if (remark := _remark(line, cell, honest=honest))]
    return Missing(
        values=values,
        proposed=proposed,
        remarks=tuple(dict.fromkeys(remarks)),
        empty=not (wanted or prompts or copies or proposed or changed or len(seeds) > len(there)),
    )


def _lines(lines: Sequence[LineVerdict], measure: str) -> list[Line]:
    return [line.line for line in lines if line.line.measure == measure]


def _proposed(lines: Sequence[LineVerdict], decision: Decision, cells: Sequence[Cell]) -> dict[str, Any]:
    """An attack for each kind that is missing, and an honest customer's for `trainability` if there is none."""
    proposed: dict[str, Any] = {kind: stand_in(kind, cells) for kind in _absent(lines, decision)}
    if _lines(lines, "trainability") and not any(group.task for group in decision.subject.groups):
        own = customer(cells)
        proposed |= {} if own is None else {"trainability": own}
    return proposed


def _seeds(gate: Gate, line: LineVerdict, decision: Decision) -> tuple[int, list[str]]:
    """The seeds that a line needs, and remarks on attacks for which none are enough."""
    needed, remarks = 0, []
    for group in groups_of(line.line, decision.subject):
        if verdict_of(line.line, OF_GROUP[line.line.measure](group, gate, line.line)) != "inconclusive":
            continue
        seeds = projected(gate, line.line, group)
        needed = max(needed, seeds or 0)
        if seeds is None:
            remarks.append(f"{line.line.measure}: {group.attack} is not decided by up to {MOST_SEEDS} such runs")
    return needed, remarks


def projected(gate: Gate, line: Line, group: Group) -> int | None:
    """The number of runs that decide a line if further ones end like those so far; `None` if too many."""
    own, number = group.records, max(len(group.records), gate.seeds_of(line))
    while number <= MOST_SEEDS:
        more = tuple(again(own[place % len(own)], place // len(own)) for place in range(number))
        if verdict_of(line, OF_GROUP[line.measure](replace(group, records=more), gate, line)) != "inconclusive":
            return number
        number += max(1, number // 10)
    return None


def again(record: Record, number: int) -> Record:
    """The record as if of another seed."""
    return replace(record, cell=replace(record.cell, seed=record.cell.seed + 1_000_000 * number))


def _extended(seeds: set[int], number: int) -> list[int]:
    """The seeds that there are, and the least further ones up to this number."""
    further = (seed for seed in range(number + len(seeds)) if seed not in seeds)
    return sorted(seeds | set(islice(further, max(0, number - len(seeds)))))


def _prompts(line: LineVerdict) -> int:
    """The prompts that a line before the attack needs, 0 if it needs no more."""
    if line.line.measure not in ("harm_before", "over_refusal"):
        return 0
    return max(
        (_prompts_of(line.line, each.finding) for each in line.judgements if each.verdict == "inconclusive"), default=0
    )


def _prompts_of(line: Line, finding: Finding) -> int:
    if finding.interval is None or finding.gaps or finding.n < 1:
        return 0
    for times in range(2, MOST_PROMPTS // finding.n + 1):
        low, high = clopper_pearson(finding.interval.value, finding.n * times)
        if high <= line.bound or low > line.bound:
            return finding.n * times
    return 0


def _absent(lines: Sequence[LineVerdict], decision: Decision) -> list[str]:
    """The kinds and names of attacks that lines ask for and no run has, each once."""
    named = [
        name
        for line in lines
        if line.line.measure in OF_GROUP and line.line.copy is None
        for name in missing_attacks(line.line, decision.subject)
        if name != ANY
    ]
    there = {kind for group in decision.subject.groups for kind in group.kinds}
    for line in (line for line in lines if line.line.measure == "attack_kinds"):
        more = [kind for kind in STAND_INS if kind not in there and kind not in named]
        named += more[: max(0, int(line.line.bound) - len(there | (set(named) - {HOTTER})))]
    return list(dict.fromkeys(named))


def _remark(line: LineVerdict, cell: Cell, *, honest: bool) -> str | None:
    """What no grid can add for a line, `None` if there is nothing to say."""
    measure = line.line.measure
    if measure == "searched_kinds":
        return "searched_kinds: `holdfast search THIS_FILE attacks=[...] seeds=[0] --budget STEPS`"
    if measure == "trainability" and not honest:
        return (
            "trainability: the data has no task of an honest customer; name its rows under `data.tasks` and add an "
            "attack with it as `task`, on no defense too"
        )
    if measure == "judge_agreement" and _is_refusal(cell):
        return (
            "judge_agreement: add a second judge, which reads what answers say (`terms`, `classifier` or `llm`; "
            "`holdfast show terms`): write `judges: {harm: {terms: {path: terms.txt}}}` and in `evaluation` "
            "`harm_judges: [harm, refusal]`; `refusal` only tells whether an answer refuses"
        )
    return line.reason if measure == NOT_MEASURED else None


def _evaluation(cell: Cell, prompts: int, lines: Sequence[LineVerdict]) -> dict[str, Any]:
    values, settings = evaluation_values(cell), settings_of(cell).evaluation
    if prompts > settings.num_prompts:
        values["num_prompts"] = prompts
    judges = settings.harm_judges
    if len(judges) == 1 and _lines(lines, "judge_agreement") and not _is_refusal(cell):
        values["harm_judges"] = [*judges, "refusal"]
    return values


def _is_refusal(cell: Cell) -> bool:
    """Whether `refusal` is the only judge of harm, so that it cannot be the second."""
    judges = settings_of(cell).evaluation.harm_judges
    first = cell.judges.get(judges[0])
    return len(judges) == 1 and "refusal" in (judges[0], "" if first is None else first.name)


def _models(records: Sequence[Record]) -> list[Any]:
    models: list[Any] = []
    for record in records:
        model = model_entry(record.cell)
        models += [] if model in models else [model]
    return models
