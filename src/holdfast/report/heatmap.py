"""Defenses by attacks at one glance: time to break as a ratio to no defense, harm and help, and what showed nothing.

A tile's ratio is that of the survival curves where there is one, with its interval, else the same ratio of the means
without an interval. Runs of a defense that neither broke nor held count as broken at the start; a tile with no other
runs has no ratio, and says what they were. Honest customers' training is no attack and has no tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from holdfast.evaluation.survival import Interval
from holdfast.experiment.outcomes import defended
from holdfast.records import Outcome, Record
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.summarise.labels import Label
from holdfast.report.summarise.survival import Point, Survival, point_of

TIMED = (Outcome.HELD, Outcome.BROKE)
Tone = Literal["longer", "alike", "shorter", "reference", "none"]
NEAR = 1.25
"""Ratios between its inverse and itself have the tone of no difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One defense under one attack. `showed` is `held`, `broke`, `mixed` (both), else what most of its runs were.

    `partly` names outcomes of runs that neither broke nor held where others did. `point` has the ratio, `interval` its
    95 % interval, `None` with fewer than three runs that broke or held.
    """

    row: ReportRow
    undefended: bool
    showed: str
    partly: tuple[Outcome, ...]
    point: Point | None
    interval: Interval | None

    @property
    def tone(self) -> Tone:
        """How long it lasted beside no defense, as a tone of color; the words in the tile say the same."""
        if self.undefended:
            return "reference" if self.showed == Outcome.BROKE else "none"
        if self.point is None:
            return "none"
        return "longer" if self.point.ratio >= NEAR else "shorter" if self.point.ratio <= 1 / NEAR else "alike"

    @property
    def decided(self) -> bool:
        """Whether a verdict says that it lasts longer, or shorter, than no defense."""
        return self.row.against_none is not None and self.row.against_none.verdict != "cannot tell"


class Line(NamedTuple):
    """A defense with its tile for each attack of its grid, `None` where that was not run."""

    defense: str
    threat_model: str
    tiles: tuple[Tile | None, ...]


class Grid(NamedTuple):
    """The tiles of one model."""

    model: str
    attacks: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def tiles(self) -> list[Tile]:
        """Those that were run, in reading order."""
        return [tile for line in self.lines for tile in line.tiles if tile is not None]


def is_attack(record: Record) -> bool:
    """Whether a record is of an attack, and not of an evaluation alone or of an honest customer's training."""
    attack = record.cell.attack
    return attack is not None and attack.settings.get("task") is None


def grids(
    records: Sequence[Record], labels: Sequence[Label], rows: Sequence[ReportRow], survivals: Sequence[Survival]
) -> list[Grid]:
    """The grid of each model with an attack, in the order of the rows."""
    groups: dict[Label, list[Record]] = defaultdict(list)
    for record, label in zip(records, labels, strict=True):
        if is_attack(record):
            groups[label].append(record)
    lasting = {each.label: each for each in survivals}
    by_model: dict[str, list[Tile]] = defaultdict(list)
    for row in rows:
        if row.label in groups:
            by_model[row.label.model].append(_tile(row, groups[row.label], lasting.get(row.label)))
    return [_grid(model, tiles) for model, tiles in by_model.items()]


def _grid(model: str, tiles: Sequence[Tile]) -> Grid:
    attacks = tuple(dict.fromkeys(tile.row.label.attack for tile in tiles))
    placed = {(_line(tile), tile.row.label.attack): tile for tile in tiles}
    names = sorted(dict.fromkeys(_line(tile) for tile in tiles), key=lambda line: line[0] != "none")
    return Grid(
        model, attacks, tuple(Line(*name, tuple(placed.get((name, each)) for each in attacks)) for name in names)
    )


def _line(tile: Tile) -> tuple[str, str]:
    return tile.row.label.defense, tile.row.label.threat_model


def _tile(row: ReportRow, group: Sequence[Record], lasting: Survival | None) -> Tile:
    undefended = not any(defended(record.cell) for record in group)
    timed = [outcome for outcome in TIMED if row.outcomes.get(outcome)]
    others = tuple(outcome for outcome in row.outcomes if outcome not in TIMED)
    most = max(row.outcomes, key=lambda outcome: row.outcomes[outcome])
    interval = None if lasting is None else lasting.ratio
    return Tile(
        row=row,
        undefended=undefended,
        showed=("mixed" if len(timed) > 1 else str(timed[0])) if timed else str(most),
        partly=others if timed else (),
        point=None if row.unit != "step" else point_of(group, lasting.horizon if lasting and interval else None),
        interval=interval,
    )


def heatmap_rows(all_grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """A flat row for each tile, for the CSV file next to the page."""
    return [_flat(tile) for grid in all_grids for tile in grid.tiles]


def _flat(tile: Tile) -> dict[str, Any]:
    row = tile.row
    return {
        **{name: getattr(row.label, name) for name in ("model", "defense", "threat_model", "attack")},
        "showed": tile.showed,
        "tone": tile.tone,
        "runs": row.runs,
        **{str(outcome): row.outcomes.get(outcome, 0) for outcome in Outcome},
        "ratio_to_none": tile.point.ratio if tile.point else None,
        "ratio_open_ended": tile.point.open_ended if tile.point else None,
        "ratio_low": tile.interval.low if tile.interval else None,
        "ratio_high": tile.interval.high if tile.interval else None,
        "against_none": row.against_none.verdict if row.against_none else None,
        "unit": row.unit,
        "time_to_break": row.time_to_break.steps if row.time_to_break else None,
        "censored": row.time_to_break.censored if row.time_to_break else None,
        **_ends("harmfulness_peak", row.peak_harmfulness),
        **_ends("helpfulness_before", row.before.get("helpfulness")),
        **_ends("helpfulness_after", row.after.get("helpfulness")),
    }


def _ends(name: str, estimate: Estimate | None) -> Mapping[str, Any]:
    return {name + (end and f"_{end}"): getattr(estimate, end or "value", None) for end in ("", "low", "high", "n")}


COLUMNS = (
    *("model", "defense", "threat_model", "attack", "showed", "tone", "runs", *map(str, Outcome)),
    *("ratio_to_none", "ratio_open_ended", "ratio_low", "ratio_high", "against_none", "unit", "time_to_break"),
    "censored",
    *(
        name + end
        for name in ("harmfulness_peak", "helpfulness_before", "helpfulness_after")
        for end in ("", "_low", "_high", "_n")
    ),
)
"""The columns of that file, which has a header also where there is no tile."""
