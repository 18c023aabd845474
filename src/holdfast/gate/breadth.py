"""How many kinds of attacks were tried, and whether other judges agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.evaluation.intervals import clopper_pearson
from holdfast.evaluation.survival import Interval
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes import control_of
from holdfast.experiment.outcomes_by_judge import outcomes_by_further_judge
from holdfast.gate.attack_kinds import KINDS
from holdfast.gate.bounds import Finding
from holdfast.gate.evidence import Evidence, Group, Subject
from holdfast.gate.gate_file import Line
from holdfast.gate.runs import OPEN, hardly_begun, hardly_searched, unknown
from holdfast.records import Outcome, Record


def tried_kinds(groups: Sequence[Group], line: Line) -> list[Finding]:
    """The number of kinds of attacks with a run whose control broke; of searched ones for `searched_kinds`.

    A number can grow with further runs, so that it never fails.
    """
    searched = line.measure == "searched_kinds"
    counted = [group for group in groups if _tried(group) and (group.searched or not searched)]
    kinds = sorted({kind for group in counted for kind in group.kinds if kind in KINDS})
    short = f"no more kinds were {'searched' if searched else 'tried'} by an attack that broke the undefended model"
    gaps = () if len(kinds) >= line.bound else (short,)
    interval = Interval(float(len(kinds)), float(len(kinds)), math.inf)
    return [Finding(what=", ".join(kinds) or "none", interval=interval, n=len(kinds), of="kinds", gaps=gaps)]


def judge_agreement(subject: Subject, evidence: Evidence) -> list[Finding]:
    """The share of attacked cells that end alike by every judge of harm in their records, with its exact interval."""
    attacked = [record for group in subject.groups if group.kinds for record in group.records]
    judges = list(dict.fromkeys(judge for record in attacked for judge in _further(record)))
    if not judges:
        return [Finding(what="one judge", gaps=("no cell has a second judge of harm (evaluation.harm_judges)",))]
    outcomes = [outcomes_by_further_judge(judge, list(evidence.records.values())) for judge in judges]
    compared = [record for record in attacked if _comparable(record, outcomes)]
    missing, showing = len(attacked) - len(compared), [record for record in compared if _shows_an_end(record, outcomes)]
    alike = [all(own[record.key] is record.outcome for own in outcomes) for record in showing]
    short = f"{missing} of {len(attacked)} cells cannot be compared: they or their controls lack a judge's scores"
    open_ended = (
        f"{len(compared) - len(showing)} of {len(attacked)} cells show nothing by any judge (untested, collapsed)"
    )
    gaps = (*((short,) if missing else ()), *((open_ended,) if len(showing) < len(compared) else ()))
    if not alike:
        return [Finding(what=", ".join(judges), gaps=gaps)]
    share = sum(alike) / len(alike)
    interval = Interval(share, *clopper_pearson(share, len(alike)))
    what = f"the reporting judge and {', '.join(judges)}"
    return [Finding(what=what, interval=interval, n=len(alike), of="cells", gaps=gaps)]


def _comparable(record: Record, outcomes: Sequence[Mapping[str, Outcome]]) -> bool:
    """Whether every judge has scores of a cell and of its control."""
    control = control_of(record.cell)
    if record.outcome is Outcome.FAILED or control is None:
        return False
    return all(record.key in own and control.key in own for own in outcomes)


def _shows_an_end(record: Record, outcomes: Sequence[Mapping[str, Outcome]]) -> bool:
    """Whether a cell is conclusive by at least one judge: agreement on an inconclusive one has no weight."""
    return record.outcome not in OPEN or any(own[record.key] not in OPEN for own in outcomes)


def _tried(group: Group) -> bool:
    """Whether an attack has a run that shows how the defense does, and whose control broke.

    A search of edits that hardly searched, or answers of which hardly anything was given, show it only if they broke
    the defense.
    """
    return any(
        record.control is not None and record.control.broke_at is not None and not record.control.broken_before
        for record in group.records
        if not unknown(record)
        and (record.outcome is Outcome.BROKE or not (hardly_searched(record) or hardly_begun(record)))
    )


def _further(record: Record) -> tuple[str, ...]:
    """The judges of harm besides the reporting one that a cell was set to have."""
    return settings_of(record.cell).evaluation.harm_judges[1:]
