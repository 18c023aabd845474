"""A published row and the cells that measured it, and whether they agree.

Only rows with a printed value and a value of the run are compared. The paper's dashes (failed, not run) and the models
that it marks as collapsed, whose harm of 0 is no success, are listed and never compared, as are rows without a cell,
and cells that failed. A cell that collapsed where the paper's model did not is a miss. A defended cell that is
`untested` (the attack did not break the undefended model either) is no evidence on either side of the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.evaluation.intervals import wilson
from holdfast.published.agreement import Side, side
from holdfast.published.joining import Measured
from holdfast.published.tables import PublishedRow, Reported
from holdfast.records import Outcome

Standing = Literal["same side", "miss", "cannot tell", "by rank only", "not compared"]
ORDER: tuple[Standing, ...] = ("miss", "cannot tell", "same side", "by rank only", "not compared")
"""As they are shown: what was missed first."""
HARM = "harmfulness"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A published row and what the runs measured; `standing` is about harmfulness, `why` says what decides it."""

    row: PublishedRow
    measured: Measured | None
    reported_side: Side | None
    measured_side: Side | None
    standing: Standing
    why: str

    @property
    def ended(self) -> str:
        """How the runs ended, in words: `2 held, 1 broke`; empty without runs."""
        return ended(self.measured.outcomes) if self.measured is not None else ""

    @property
    def garbled(self) -> bool:
        """Whether a run ended with garbled answers, whose low harm is no success."""
        return self.measured is not None and self.measured.outcomes[Outcome.COLLAPSED] > 0

    @property
    def useless(self) -> bool:
        """Whether a run is below the threshold since its model answers nothing."""
        return self.measured is not None and self.measured.useless > 0

    def both(self, metric: str) -> tuple[float, float] | None:
        """The reported and the measured value of a metric, if both count: garbled answers and missing values do not."""
        reported = self.row.values.get(metric)
        estimate = self.measured.estimates.get(metric) if self.measured is not None else None
        if self.row.state != "printed" or self.garbled:
            return None
        return (
            None
            if reported is None or estimate is None or estimate.value is None
            else (reported.middle, estimate.value)
        )


def ended(outcomes: Mapping[Outcome, int]) -> str:
    """Outcomes with their numbers, in words."""
    return ", ".join(f"{times} {outcome}" for outcome, times in sorted(outcomes.items()))


def pair(row: PublishedRow, measured: Measured | None, missing: str, threshold: float) -> Pair:
    """A row and its cells with their standing; `missing` says why there are none."""
    reported = reported_side(row, threshold)
    own, why = (None, missing) if measured is None else _measured_side(row, measured, threshold)
    standing, why = _standing(row, measured, reported, (own, why))
    return Pair(row=row, measured=measured, reported_side=reported, measured_side=own, standing=standing, why=why)


def reported_side(row: PublishedRow, threshold: float) -> Side | None:
    """The side of the threshold that the paper reports, by Wilson's interval where it states n, else by the value."""
    value = row.values.get(HARM)
    return None if value is None else side(*reported_interval(value, row.n), threshold)


def reported_interval(value: Reported, n: int | None) -> tuple[float, float]:
    """A reported share's 95 % interval by its n; the value itself where n is not stated, or it is no share."""
    if n is None or not 0 <= value.low <= value.high <= 1:
        return value.low, value.high
    return wilson(value.low, n)[0], wilson(value.high, n)[1]


def _standing(
    row: PublishedRow, cells: Measured | None, reported: Side | None, own: tuple[Side | None, str]
) -> tuple[Standing, str]:
    measured, why = own
    if row.state != "printed":
        here = f"; here: {ended(cells.outcomes)}" if cells is not None else ""
        return "not compared", f"in the paper: {row.state}{here}"
    if cells is None or not (cells.estimates or cells.outcomes[Outcome.COLLAPSED]):
        return "not compared", why
    return ("by rank only", "") if HARM not in row.values else _by_sides(cells, reported, measured, why)


def _by_sides(cells: Measured, reported: Side | None, measured: Side | None, why: str) -> tuple[Standing, str]:
    if cells.outcomes[Outcome.COLLAPSED] == cells.runs:
        return "miss", why
    if measured is None and not cells.outcomes[Outcome.COLLAPSED]:
        return "not compared", why
    if reported == "cannot tell":
        near = "the reported value is too close to the threshold for its n"
        return "cannot tell", "; ".join(filter(None, [near, why]))
    if measured in (None, "cannot tell"):
        return "cannot tell", why
    return ("same side" if measured == reported else "miss"), why


def _measured_side(row: PublishedRow, cells: Measured, threshold: float) -> tuple[Side | None, str]:
    """The side on which a row's cells are, with a remark."""
    runs, times = cells.runs, cells.outcomes
    value = cells.estimates.get(HARM)
    if times[Outcome.COLLAPSED]:
        return None, f"garbled answers in {times[Outcome.COLLAPSED]} of {runs}, whose harm means nothing"
    if value is None or value.low is None or value.high is None:
        return None, f"no harmfulness was measured: {ended(times)}{_first_reason(cells)}"
    own = side(value.low, value.high, threshold)
    doubt = _doubt(row, cells, own, threshold)
    if doubt is not None:
        return doubt
    useless = cells.useless if own == "below" else 0
    return own, f"of no use in {useless} of {runs}: harmless, since it answers nothing" if useless else ""


def _doubt(row: PublishedRow, cells: Measured, own: Side, threshold: float) -> tuple[Side, str] | None:
    """The side, and why, where the interval alone does not decide it."""
    runs, times = cells.runs, cells.outcomes
    lost = times[Outcome.FAILED] + times[Outcome.DIVERGED]
    if lost:
        return "cannot tell", f"{lost} of {runs} runs did not finish{_first_reason(cells)}"
    if own == "cannot tell":
        return own, f"the measured interval includes {threshold:g}: too few runs or prompts"
    if own == "below" and cells.broke:
        sooner = f"at the end below {threshold:g}, but {cells.broke} of {runs} broke on the way"
        return ("above" if cells.broke == runs else "cannot tell"), sooner
    attacked = row.defense != "none" and row.attacks != ("none",)
    if own == "below" and attacked and times[Outcome.UNTESTED]:
        untested = f"untested in {times[Outcome.UNTESTED]} of {runs}"
        return "cannot tell", f"{untested}: that the attack breaks the undefended model was not shown"
    return None


def _first_reason(cells: Measured) -> str:
    return f" ({cells.reasons[0]})" if cells.reasons else ""
