"""Attacks that were run at several flip ratios: points of harm over the ratio, and the selection for other charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.report.summarise import ReportRow
    from holdfast.report.summarise.labels import Label

MOST_PANELS = 8


def flipped(rows: Iterable[ReportRow]) -> list[ReportRow]:
    """The rows of attacks that differ in flip ratio."""
    return [row for row in rows if row.label.flip is not None]


def plotted(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows with panels and samples: all of them, unless flips need more than `MOST_PANELS`.

    Then only the strongest flip of each attack: the highest ratio of the reversed ones, or of the random ones if there
    are no others.
    """
    if len({(row.label.model, row.label.attack) for row in flipped(rows)}) <= MOST_PANELS:
        return list(rows)
    strongest: dict[tuple[str, str], tuple[bool, float]] = {}
    for row in flipped(rows):
        family = (row.label.model, row.label.family)
        strongest[family] = max(_strength(row.label), strongest.get(family, (False, 0.0)))
    return [
        row
        for row in rows
        if row.label.flip is None or _strength(row.label) == strongest[row.label.model, row.label.family]
    ]


def points(rows: Iterable[ReportRow], score: str) -> list[dict[str, Any]]:
    """The score of that name at the end of each attack over its flip ratio, as flat rows for a chart.

    At ratio 0 nothing is flipped in either way: that row is used for every line of its attack without its own.
    """
    lines: dict[tuple[Label, str], dict[float, ReportRow]] = {}
    for row in flipped(rows):
        if row.label.flip:
            lines.setdefault((_line(row), row.label.flip.how), {})[row.label.flip.ratio] = row
    zeros = {line: at[0.0] for (line, _), at in lines.items() if 0.0 in at}
    for (line, _), at in lines.items():
        if line in zeros:
            at.setdefault(0.0, zeros[line])
    rows_of_points = [
        {**_point(at[ratio], score), "how": how, "ratio": ratio}
        for (_, how), at in lines.items()
        for ratio in sorted(at)
    ]
    return [point for point in rows_of_points if point["value"] is not None]


def _strength(label: Label) -> tuple[bool, float]:
    return (label.flip.how == "reverse", label.flip.ratio) if label.flip else (False, 0.0)


def _line(row: ReportRow) -> Label:
    return row.label._replace(attack=row.label.family, flip=None)


def _point(row: ReportRow, score: str) -> dict[str, Any]:
    after = row.after.get(score)
    return {
        "model": row.label.model,
        "defense": row.label.defense,
        "family": row.label.family,
        "threshold": row.threshold,
        "of": len(row.seeds),
        "outcomes": ", ".join(f"{count} {outcome}" for outcome, count in row.outcomes.items()),
        **{key: getattr(after, key, None) for key in ("value", "low", "high", "seeds", "n")},
    }
