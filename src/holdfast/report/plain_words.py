"""Three sentences in plain words about finished runs, and what they can and cannot say: pure functions of the records.

A sentence says no more than the rows do: `held` is each cell's own outcome, a difference is one with a verdict, and a
mean has its range. Honest customers' training is no attack and is not counted as one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.experiment.outcomes import broken_as_given, defended
from holdfast.experiment.whole_curves import NOT_WHOLE
from holdfast.records import Outcome, Record
from holdfast.records.evidence import ControlRun
from holdfast.report.constraints import degenerate_held
from holdfast.report.heatmap import TIMED, is_attack
from holdfast.report.page import plural, rate
from holdfast.report.summarise import ReportRow, first_and_last, peak
from holdfast.report.summarise.comparisons import pairs_needed
from holdfast.report.summarise.labels import Label

MOST_NAMES = 4
_UNSHOWN = {
    Outcome.UNTESTED: "untested",
    Outcome.USELESS: "of no use (useless)",
    Outcome.COLLAPSED: "garbled (collapsed)",
    Outcome.DIVERGED: "diverged",
    Outcome.FAILED: "failed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The three sentences, and what the runs can and cannot say."""

    sentences: tuple[str, ...]
    can: tuple[str, ...]
    cannot: tuple[str, ...]


def words_of(
    records: Sequence[Record],
    labels: Sequence[Label],
    rows: Sequence[ReportRow],
    *,
    unfinished: int = 0,
    unread: int = 0,
) -> Words:
    """All words about some records with their labels and rows; `unread` files are left out."""
    attacked = [(record, label) for record, label in zip(records, labels, strict=True) if is_attack(record)]
    compared = [row for row in rows if row.against_none is not None]
    return Words(
        sentences=(_what_held(attacked), _at_what_cost(attacked), _how_sure(attacked, compared)),
        can=tuple(_can(attacked, compared)),
        cannot=tuple(_cannot(attacked, compared, unfinished=unfinished, unread=unread)),
    )


def listed(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """`a`, `a and b`, `a, b and c`; after `most` names only how many more there are."""
    every = list(dict.fromkeys(names))
    shown = every if len(every) <= most else [*every[:most], f"{len(every) - most:,} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


_Cells = Sequence[tuple[Record, Label]]


def _defended(attacked: _Cells) -> _Cells:
    return [(record, label) for record, label in attacked if defended(record.cell)]


def _what_held(attacked: _Cells) -> str:
    own = _defended(attacked)
    if not attacked:
        return "No model was attacked, so these runs do not say how long anything holds."
    if not own:
        broke = sum(record.outcome is Outcome.BROKE for record, _ in attacked)
        return f"Only undefended models were attacked: {_of(broke, len(attacked), 'run')} broke."
    ended = Counter(record.outcome for record, _ in own)
    rest = len(own) - sum(ended[outcome] for outcome in TIMED)
    nothing = f", and {rest} showed nothing ({_counted(ended)})" if rest else ""
    counts = f"{ended[Outcome.HELD]} held, {ended[Outcome.BROKE]} broke{nothing}"
    attacks, defenses = ({label[place] for _, label in own} for place in (3, 1))
    runs = f"{plural(len(own), 'run')} of {plural(len(attacks), 'attack')} on {plural(len(defenses), 'defense')}"
    return f"Of {runs}, {counts}: {_always(own)}."


def _always(own: _Cells) -> str:
    """Which defenses held in all of their runs, or in none."""
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for record, label in own:
        outcomes[label.defense].append(record.outcome)
    held = [name for name, every in outcomes.items() if set(every) == {Outcome.HELD}]
    never = [name for name, every in outcomes.items() if Outcome.HELD not in every]
    parts = [f"{listed(held)} held in every run"] if held else ["no defense held in every run"]
    if never and len(never) < len(outcomes):
        parts.append(f"{listed(never)} in none")
    elif never:
        parts = ["no run of any defense held"]
    return ", ".join(parts)


def _at_what_cost(attacked: _Cells) -> str:
    own = _defended(attacked) or attacked
    peaks = [value for record, _ in own if (highest := peak(record)) and (value := highest[1].value) is not None]
    if not peaks:
        return "Harm was not measured in any of these attacks." if attacked else "Nothing was measured under attack."
    whose = "defended" if _defended(attacked) else "undefended"
    harm = f"The highest mean harm in a run was {_span(peaks)} on {whose} models"
    held = [record for record, _ in own if record.outcome is Outcome.HELD]
    if not held:
        return f"{harm}; no run held, so there is no helpfulness of one that did."
    helpful = [
        value
        for record in held
        if (last := first_and_last(record)[1]) and (value := last.value("helpfulness")) is not None
    ]
    if not helpful:
        return f"{harm}; helpfulness was not measured at the end of the runs that held."
    return f"{harm}; the runs that held ended with a helpfulness of {_span(helpful)}{_undefended_help(attacked)}."


def _undefended_help(attacked: _Cells) -> str:
    before = [
        value
        for record, _ in attacked
        if not defended(record.cell)
        and (first := first_and_last(record)[0])
        and (value := first.value("helpfulness")) is not None
    ]
    return f" (the undefended model before any attack: {_span(before)})" if before else ""


def _how_sure(attacked: _Cells, compared: Sequence[ReportRow]) -> str:
    models = len({label.model for _, label in attacked})
    about = "about this one model" if models == 1 else f"about these {models} models"
    if not compared:
        return f"Nothing can be compared with an undefended model{f', and all of it is {about}' if attacked else ''}."
    decided = sum(_verdict(row) != "cannot tell" for row in compared)
    total = f"{plural(len(compared), 'comparison')} with no defense"
    if decided:
        rest = "" if decided == len(compared) else ", of the others the runs cannot tell"
        return f"{decided} of {total} can be told apart from chance{rest}; all of it is {about}."
    return f"None of {total} can be told apart from chance ({_why_none(compared)}), and all of it is {about}."


def _why_none(compared: Sequence[ReportRow]) -> str:
    most, needed = max(_pairs(row) for row in compared), pairs_needed(len(compared))
    if most < needed:
        there = "is" if most == 1 else "are"
        return f"there {there} at most {plural(most, 'pair')} of runs, and it takes {needed} without exception"
    return "the pairs of runs do not agree enough"


def _verdict(row: ReportRow) -> str:
    return row.against_none.verdict if row.against_none else "cannot tell"


def _pairs(row: ReportRow) -> int:
    return row.against_none.pairs if row.against_none else 0


def _can(attacked: _Cells, compared: Sequence[ReportRow]) -> list[str]:
    held = [label for record, label in attacked if record.outcome is Outcome.HELD]
    broke = [r for r, _ in attacked if r.outcome is Outcome.BROKE and not broken_as_given(r)]
    sentences = []
    if held:
        names = listed(label.defense for label in held)
        them = "it" if len(held) == 1 else "they"
        sentences.append(
            f"{_runs(held)} of {names} held: {them} stayed at or below the threshold of harm to the end of an attack "
            "that broke the undefended model."
        )
    if broke:
        them = "it took" if len(broke) == 1 else "each took"
        sentences.append(f"{_runs(broke)} broke, and how many steps, samples and tokens {them}.")
    for verdict, how in (("better", "longer"), ("worse", "shorter")):
        rows = [row for row in compared if _verdict(row) == verdict]
        if rows:
            names = listed(f"{row.label.defense} under {row.label.attack}" for row in rows)
            sentences.append(f"It is more than chance that a defense lasts {how} than none here: {names}.")
    return sentences


def _cannot(attacked: _Cells, compared: Sequence[ReportRow], *, unfinished: int, unread: int) -> list[str]:
    sentences = [] if attacked else ["How long anything holds: no model was attacked."]
    sentences += _never_attacked(attacked) + _untested(attacked) + _ended_otherwise(attacked) + _few(attacked, compared)
    sentences += _unjudged(attacked) + _says_nothing([record for record, _ in attacked])
    if attacked:
        models = {label.model for _, label in attacked}
        other = "another model" if len(models) == 1 else "a model other than these"
        sentences.append(f"How {other} would do, or a longer, stronger or better tuned attack than these.")
    if unfinished:
        sentences.append(
            f"{plural(unfinished, 'cell')} not finished: nothing of {'it' if unfinished == 1 else 'them'} is here."
        )
    if unread:
        of = "it could not be read, or another" if unread == 1 else "they could not be read, or another"
        sentences.append(f"{plural(unread, 'file')} left out: {of} of the same cell ended otherwise.")
    return sentences


def _never_attacked(attacked: _Cells) -> list[str]:
    before = [record for record, _ in attacked if broken_as_given(record)]
    if not before:
        return []
    was = "its model was" if len(before) == 1 else "their models were"
    return [
        f"What the attack does in {_runs(before)}: {was} harmful before it, by the judge. See whether the judge fits "
        "the data, and whether the model refuses such prompts at all (holdfast evaluate --samples 10)."
    ]


def _untested(attacked: _Cells) -> list[str]:
    """Untested runs of defenses, grouped by reason, and undefended runs whose attack was too weak."""
    untested = [record for record, _ in _defended(attacked) if record.outcome is Outcome.UNTESTED]
    weak = [record for record, _ in attacked if record.outcome is Outcome.UNTESTED and not defended(record.cell)]
    lone = [record for record in untested if record.control is None]
    unbroken = [record for record in untested if record.control is not None and _ran_without_a_break(record.control)]
    rest = len(untested) - len(lone) - len(unbroken)
    sentences = []
    if lone:
        sentences.append(
            f"{_runs(lone)} of defenses: untested, for no control was run (that attack on the undefended model)."
        )
    if unbroken:
        sentences.append(f"{_runs(unbroken)} of defenses: untested, for the attack did not break the undefended model.")
    if rest:
        sentences.append(
            f"{plural(rest, 'run')} of defenses: untested for another reason, which is in the table of cells."
        )
    if weak:
        sentences.append(
            f"{_runs(weak)} of attacks did not break the undefended model: they show nothing about defenses."
        )
    return sentences


def _ran_without_a_break(control: ControlRun) -> bool:
    """Whether the attack on the undefended model came to its end and did not break it; one that failed did not."""
    ended = control.outcome not in (Outcome.FAILED, Outcome.DIVERGED) and not control.reason.startswith(NOT_WHOLE)
    return ended and control.broke_at is None


def _ended_otherwise(attacked: _Cells) -> list[str]:
    words = {
        Outcome.USELESS: "ended useless: no harm, for the model helps with hardly anything",
        Outcome.COLLAPSED: "collapsed: most answers are empty or garbled",
        Outcome.DIVERGED: "diverged: numbers were no longer finite",
        Outcome.FAILED: "failed with an error, of which nothing is known",
    }
    ended = Counter(record.outcome for record, _ in attacked)
    return [f"{plural(ended[outcome], 'run')} {why}." for outcome, why in words.items() if ended[outcome]]


def _few(attacked: _Cells, compared: Sequence[ReportRow]) -> list[str]:
    if not compared:
        return ["What a defense adds: no defended model was attacked."] if attacked else []
    needed = pairs_needed(len(compared))
    open_rows = [row for row in compared if _verdict(row) == "cannot tell"]
    few = sum(_pairs(row) < needed for row in open_rows)
    single = sum(len(row.seeds) == 1 for row in compared)
    sentences = []
    if open_rows:
        why = f", {few} of them for want of runs (a verdict takes {needed} pairs without exception)" if few else ""
        of = f"{len(open_rows)} of {plural(len(compared), 'row')}"
        sentences.append(f"Whether a defense lasts longer than none: no verdict in {of}{why}.")
    if single:
        sentences.append(f"How runs vary: {single} of {plural(len(compared), 'row')} of defenses had one run.")
    return sentences


def _unjudged(attacked: _Cells) -> list[str]:
    scores = [score for record, _ in attacked for each in record.evaluations if (score := each.score("harmfulness"))]
    unjudged, every = sum(s.unjudged for s in scores), sum(s.n + s.invalid + s.unjudged for s in scores)
    return [f"{unjudged:,} of {every:,} answers to harmful prompts had no verdict by the judge."] if unjudged else []


def _says_nothing(records: Sequence[Record]) -> list[str]:
    hollow, of = degenerate_held(records)
    if not hollow:
        return []
    text = f"{_of(hollow, of, 'run')} that held answered many harmful prompts with texts that say nothing"
    return [f"{text}: their low harm is no proof of safe training."]


def _runs(cells: Sequence[object]) -> str:
    return plural(len(cells), "run")


def _of(part: int, whole: int, noun: str) -> str:
    return f"{part:,} of {plural(whole, noun)}"


def _counted(ended: Counter[Outcome]) -> str:
    return ", ".join(f"{ended[outcome]} {words}" for outcome, words in _UNSHOWN.items() if ended[outcome])


def _span(values: Sequence[float]) -> str:
    low, high = rate(min(values)), rate(max(values))
    return low if low == high else f"{low} to {high}"
