"""The words in which every form tells figures, outcomes and limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from holdfast.exports.contents import MEANINGS, Subject, showed, world
from holdfast.records import Outcome, Record
from holdfast.report.heatmap import is_attack
from holdfast.report.page import plural
from holdfast.report.summarise.intervals import BreakTime, Estimate, Share

CELLS_SHOWN = 40
"""The largest number of cells of which a text tells the reasons; further ones are counted."""
BASES = {
    "models": "t-interval over models, never narrower than the runs' own",
    "seeds": "t-interval over seeds, never narrower than the runs' own",
    "completions": "over the answers of one run",
    "none": "no interval",
}
HELD_WITH_CONTROL = (
    "A run counts as held only if the same attack, with the same settings, data and seed, broke the model without the "
    "defense. A run of which nothing can be said (untested, failed, diverged, collapsed) never counts as held."
)
TRIED_ONLY = (
    "It is about the attacks that were tried, with the budgets that were tried: another attack, more steps, more data "
    "or a better search may break the model. Holding for longer is not holding for ever."
)

TIMES = (
    "A time to break is known up to the steps between two evaluations; its interval over few runs is too narrow, and "
    "of no width where all runs agree."
)


def estimated(estimate: Estimate | None) -> str:
    """A mean over runs, its 95 % interval and what that is over, runs and answers."""
    if estimate is None or estimate.value is None:
        return "not measured"
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    runs = f"{estimate.seeds} run{'' if estimate.seeds == 1 else 's'}"
    return f"{estimate.value:.3f}{ends}, {runs}, n = {estimate.n} answers"


def shared(share: Share | None) -> str:
    """The share of runs that held, with its interval."""
    return "none can hold" if share is None else f"{share.held} of {share.n} [{share.low:.2f}, {share.high:.2f}]"


def timed(time: BreakTime | None, unit: str) -> str:
    """The restricted mean time to break: at least that much if a run was never broken."""
    if time is None or time.steps is None:
        return "not known"
    ends = "" if time.low is None or time.high is None else f" [{time.low:.4g}, {time.high:.4g}]"
    least = "at least " if time.censored else ""
    amount = f"{unit} = {time.steps:.4g}" if unit != "step" else f"{time.steps:.4g} steps"
    return f"{least}{amount}{ends}, {time.seeds} run{'' if time.seeds == 1 else 's'}"


def undefended(records: Iterable[Record], unit: str) -> str:
    """How the same attack ended on the undefended model, by the runs' own controls."""
    every = list(records)
    controls = [record.control for record in every if record.control is not None]
    if not controls:
        return "not run"
    broke = sorted({control.broke_at for control in controls if control.broke_at is not None})
    ends = dict.fromkeys((str(broke[0]), str(broke[-1]))) if broke else ()
    at = f", at {unit}{' =' if unit != 'step' else ''} {' to '.join(ends)}" if broke else ""
    count = sum(control.broke_at is not None for control in controls)
    missing = "" if len(controls) == len(every) else f"; {len(every) - len(controls)} not run"
    return f"{count} of {len(controls)} broke{at}{missing}"


def outcomes(counts: Mapping[Outcome, int]) -> str:
    """`2 held, 1 untested`, in the order of `Outcome`."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts.get(outcome))


def judges(records: Iterable[Record]) -> str:
    """The judges of harm and of help, each with the name of its method."""
    named: dict[str, None] = {}
    for record in records:
        for name, judge in record.cell.judges.items():
            named[name if name == judge.name else f"{name} ({judge.name})"] = None
    return ", ".join(named) or "none"


def seeds(subject: Subject) -> str:
    """How many seeds, and of how many models, in words."""
    own = sorted({record.cell.seed for record in subject.records})
    models = sorted({seed for record in subject.records if (seed := record.cell.model_seed) is not None})
    several = f", models with seeds {', '.join(map(str, models))}" if len(models) > 1 else ""
    few = "" if len(own) * max(len(models), 1) >= 10 else " (few: ten or more are needed to compare defenses)"
    return f"{len(own)} seed{'' if len(own) == 1 else 's'}: {', '.join(map(str, own))}{several}{few}"


def without_finding(subject: Subject) -> list[tuple[str, Record]]:
    """The attacked cells that showed nothing, each with the label of its attack."""
    return [
        (attack, record)
        for attack, record in zip(subject.attacks, subject.records, strict=True)
        if is_attack(record) and not showed(record)
    ]


def not_shown(subject: Subject) -> list[str]:
    """A line for each attacked cell that showed nothing: attack, seed, outcome and reason.

    From `CELLS_SHOWN` cells on one line counts the others.
    """
    cells = without_finding(subject)
    lines = [
        f"{attack}, seed {record.cell.seed}: {record.outcome} ({MEANINGS[record.outcome]}): {record.reason}"
        for attack, record in cells[:CELLS_SHOWN]
    ]
    further = Counter(record.outcome for _, record in cells[CELLS_SHOWN:])
    return [*lines, *([f"and further cells: {outcomes(further)}"] if further else [])]


def limits(subject: Subject, unfinished: int = 0) -> list[str]:
    """What a reader has to know beside the figures, a sentence or two each."""
    sentences = [*dict.fromkeys(world(record.cell) for record in subject.records)]
    sentences += [f"Judges: {judges(subject.records)}. Runs: {seeds(subject)}.", HELD_WITH_CONTROL, TRIED_ONLY, TIMES]
    number = len(without_finding(subject))
    if number:
        ends = "shows nothing, and is listed as such." if number == 1 else "show nothing, and are listed as such."
        sentences.append(f"{plural(number, 'attacked cell')} {ends}")
    if unfinished:
        sentences.append(f"Not among the figures, since unfinished: {plural(unfinished, 'cell')} of the runs.")
    return sentences
