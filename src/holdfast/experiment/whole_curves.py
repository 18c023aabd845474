"""Whether a record is as a run leaves it: settings that its key is the hash of, and every evaluation they ask for.

A run is measured before its first step, every `every` steps and at its last; which steps these are follows from its
settings. A curve without one of them was cut by hand or damaged: without the evaluation at which it broke, a run would
seem to have held. Nothing is said of the curve of a run that failed or diverged: it never shows that a defense holds.

What cannot be seen: that settings and key were both changed; that the end is missing where an attacker may stop early,
or where a method of another package may end the run at any step; anything of an attack whose settings do not have its
steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from holdfast.attacks import ATTACKS, unit
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.defenses.online import ONLINE
from holdfast.evaluation.breaking import given_up, is_break, when
from holdfast.experiment.cell_settings import settings_of
from holdfast.records import Cell, Outcome, Record

NOT_WHOLE = "not as a run leaves it: "
"""How the reason of a cell begins whose record is not."""
LATER = "; later "
"""What a reason has before the cause of a divergence that came after the break."""
CUT_SHORT = (Outcome.FAILED, Outcome.DIVERGED)
"""Outcomes of runs that may have ended at any step."""
MEASURED_AT = ("numbers", "trials", "tokens")
"""Settings of attacks that do not train that hold what they are measured at."""
PREPARING = frozenset(("expert_sft", "warm_start", "guided"))
"""Attacks and attackers that may train something first; its steps count, so that their own first one is a later one."""


def not_whole(record: Record) -> str | None:
    """Why a record cannot be that of a whole run, in words; `None` if it can, or if that cannot be checked."""
    attack, steps = record.cell.attack, [evaluation.step for evaluation in record.evaluations]
    if steps and record.key != record.cell.key:
        return f"{NOT_WHOLE}its settings are not those that its key is the hash of"
    if record.outcome in CUT_SHORT or attack is None or not steps:
        return None
    twice = _twice(record)
    if twice is not None:
        return f"{NOT_WHOLE}{twice}"
    if any(later < earlier for earlier, later in pairwise(steps)):
        return f"{NOT_WHOLE}its evaluations are not in the order of their steps"
    counted, missing = unit(attack.name), missing_steps(record)
    if missing:
        more = f", nor at {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{NOT_WHOLE}no evaluation {when(missing[0], counted)}{more}, where the settings ask for one"
    free = _free_of_charge(record) if counted == "step" else None
    return None if free is None else f"{NOT_WHOLE}the steps before step {free} cost nothing by its evaluations"


def _twice(record: Record) -> str | None:
    """A score that an evaluation has twice, of which one would be read and the other not."""
    for evaluation in record.evaluations:
        names = [score.name for score in evaluation.scores]
        if len(set(names)) < len(names):
            return f"{max(names, key=names.count)} is given twice at step {evaluation.step}"
    return None


def missing_steps(record: Record) -> list[int]:
    """The steps at which a record's settings ask for an evaluation that it does not have."""
    cell, attack = record.cell, record.cell.attack
    steps = [evaluation.step for evaluation in record.evaluations]
    if attack is None or not steps:
        return []
    if unit(attack.name) != "step":
        return sorted({0, *_choices(cell, stopped=_stopped(record))} - set(steps))
    by_others = _by_others(cell)
    if by_others and record.effect is None:
        return []
    starts = [0] if not by_others and PREPARING.isdisjoint(_names(cell)) else _starts(record, steps)
    return min((sorted(_due_steps(record, start) - set(steps)) for start in starts), key=len)


def _starts(record: Record, steps: Sequence[int]) -> Sequence[int]:
    """Where the first evaluation of an attack after others' training may be: behind that of the model as it was given.

    Records without an `effect` may be of versions that did not measure the latter.
    """
    if not record.cell.adaptive:
        return steps[:1]
    return steps[:2] if record.effect is None else steps[1:2] or steps


def _due_steps(record: Record, start: int) -> set[int]:
    """The steps of the evaluations of a training attack whose own first one is at `start`."""
    every, last = settings_of(record.cell).evaluation.every, _last(record, start)
    if last is None:
        return set()
    before = {0} if record.cell.adaptive and record.effect is not None else set()
    return {*before, start, last, *range(start - start % every + every, last, every)}


def _last(record: Record, start: int) -> int | None:
    """The last step of a training attack, as far as its settings tell; `None` if they do not have the number."""
    reached = record.evaluations[-1].step
    assert record.cell.attack is not None
    optim = record.cell.attack.settings.get("optim")
    most = optim.get("max_steps") if isinstance(optim, Mapping) else None
    if not isinstance(most, int):
        return None
    if _by_others(record.cell):
        return reached
    if _stopped(record):
        return min(reached, start + most)
    patient = [method.settings.get("patience") for method in record.cell.adaptive if method.name == "early_stop"]
    least = min((steps for steps in patient if isinstance(steps, int) and steps > 0), default=most)
    return start + min(max(reached - start, least), most)


def _stopped(record: Record) -> bool:
    """Whether a run ended early: by an error, or by a limit that its settings give."""
    settings, last = settings_of(record.cell).evaluation, record.evaluations[-1]
    if record.outcome is Outcome.DIVERGED or (record.outcome is Outcome.BROKE and LATER in record.reason):
        return True
    if settings.stop_when_broken and is_break(last, settings.break_threshold, max_invalid=settings.collapse_threshold):
        return True
    return given_up(record.evaluations, settings)


def _choices(cell: Cell, *, stopped: bool) -> Iterable[int]:
    """What an attack that does not train is measured at, besides its start."""
    assert cell.attack is not None
    settings = cell.attack.settings
    if stopped or cell.attack.name not in ATTACKS.built_in:
        return ()
    measured_at = next((settings[key] for key in MEASURED_AT if key in settings), None)
    if measured_at is not None:
        return measured_at
    return (settings["steps"] or 1,) if "steps" in settings else ()


def _names(cell: Cell) -> set[str]:
    return {method.name for method in (*filter(None, [cell.attack]), *cell.adaptive)}


def _by_others(cell: Cell) -> bool:
    """Whether a method of another package acts during the attack."""
    attack = cell.attack is not None and cell.attack.name not in ATTACKS.built_in
    adaptive = any(method.name not in ADAPTIVE.built_in for method in cell.adaptive)
    return attack or adaptive or any(method.name not in ONLINE.built_in for method in cell.constraints)


def _free_of_charge(record: Record) -> int | None:
    """A step up to which the attack took no more tokens than up to the one before: one evaluation given for two."""
    curve = record.evaluations
    if not any(evaluation.tokens for evaluation in curve):
        return None  # they were not counted
    pairs = ((one, later) for one, later in pairwise(curve) if later.step > one.step)
    return next((later.step for one, later in pairs if later.tokens <= one.tokens), None)
