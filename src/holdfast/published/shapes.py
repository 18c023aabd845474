"""Verdicts on a published table beside runs: per data set the sides of the threshold, and orders of rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from holdfast.published.agreement import Order, Sides, Verdict, combined_verdict, order
from holdfast.published.standing import HARM, Pair, reported_interval, reported_side
from holdfast.published.tables import Published, PublishedRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """The order of a metric along one key of the rows: of defenses, or of the values of a swept setting."""

    metric: str
    along: str
    order: Order


@dataclass(frozen=True, kw_only=True, slots=True)
class Reversal:
    """Two rows that differ in `along` only; `higher` has more harm in the paper and less in the runs.

    On both sides the two intervals do not overlap, so that n bears it out.
    """

    along: str
    higher: Pair
    lower: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The verdicts on one data set: sides of the threshold (`None` without harmfulness), and orders.

    `judged_by` are the metrics whose orders count for the verdict: harmfulness where the table has it, else all.
    """

    dataset: str | None
    sides: Sides | None
    ranked: tuple[Ranked, ...]
    reversals: tuple[Reversal, ...] = ()
    judged_by: tuple[str, ...] = (HARM,)

    @property
    def verdict(self) -> Verdict:
        """The verdict on orders and sides; `cannot tell` for a metric without two measured rows to order."""
        orders = [each.order.verdict for each in self.ranked if each.metric in self.judged_by]
        unknown: list[Verdict] = ["cannot tell"] if self.unordered else []
        return combined_verdict([*orders, *unknown, *([self.sides.verdict] if self.sides is not None else [])])

    @property
    def unordered(self) -> list[str]:
        """The metrics that count for the verdict, and have no two rows to put in order."""
        return [metric for metric in self.judged_by if metric not in {each.metric for each in self.ranked}]


def shapes(table: Published, pairs: Sequence[Pair]) -> list[Shape]:
    """The verdicts on each data set of the rows, in their order."""
    judged_by = (HARM,) if HARM in table.metrics else table.metrics
    all_shapes = []
    for dataset in dict.fromkeys(pair.row.dataset for pair in pairs if pair.measured is not None):
        own = [pair for pair in pairs if pair.row.dataset == dataset]
        ranked = [
            Ranked(metric=metric, along=along, order=result)
            for metric in table.metrics
            for along in axes(own)
            if (result := _order(own, along, metric)).pairs
        ]
        all_shapes.append(
            Shape(
                dataset=dataset,
                sides=_sides(own) if HARM in table.metrics else None,
                ranked=tuple(ranked),
                reversals=tuple(_reversals(own)),
                judged_by=judged_by,
            )
        )
    return all_shapes


def of_the_paper(table: Published) -> Shape | None:
    """The paper's two data sets compared like reported and measured values; `None` unless there are two."""
    datasets = list(dict.fromkeys(row.dataset for row in table.rows if row.dataset is not None))
    if len(datasets) != 2 or HARM not in table.metrics:
        return None
    first, second = ({key(row): row for row in table.rows if row.dataset == name} for name in datasets)
    twins = [(row, second[place]) for place, row in first.items() if place in second]
    pairs = [(row, other) for row, other in twins if row.state == other.state == "printed"]
    if not pairs:
        return None
    sides = [(reported_side(row, table.threshold), reported_side(other, table.threshold)) for row, other in pairs]
    own = [_Twins(row, (row.values[HARM].middle, other.values[HARM].middle)) for row, other in pairs]
    ranked = [
        Ranked(metric=HARM, along=along, order=result)
        for along in _axes([row for row, _ in pairs])
        if (result := order(_groups(own, along))).pairs
    ]
    return Shape(dataset=" and ".join(datasets), sides=_counted(sides), ranked=tuple(ranked))


@dataclass(frozen=True, slots=True)
class _Twins:
    """A row and two values of one metric."""

    row: PublishedRow
    values: tuple[float, float]


def key(row: PublishedRow, *without: str) -> tuple[object, ...]:
    """What identifies a row besides its data set, leaving out the parts named in `without`."""
    parts = {"attack": row.attacks, "defense": row.defense, **row.settings}
    return tuple((name, value) for name, value in sorted(parts.items()) if name not in without)


def axes(pairs: Sequence[Pair]) -> list[str]:
    """The keys along which rows are ordered: defense and swept settings, the attack where there is neither."""
    return _axes([pair.row for pair in pairs])


def _axes(rows: Sequence[PublishedRow]) -> list[str]:
    names = dict.fromkeys(["defense", *(name for row in rows for name in row.settings)])
    ordered_by = [name for name in names if any(len(group) > 1 for group in _by_rest(rows, name).values())]
    return ordered_by or ["attack"]


def _by_rest(rows: Sequence[PublishedRow], along: str) -> Mapping[object, list[PublishedRow]]:
    groups: dict[object, list[PublishedRow]] = defaultdict(list)
    for row in rows:
        if along in ("defense", "attack") or along in row.settings:
            groups[key(row, along)].append(row)
    return groups


def _groups(twins: Sequence[_Twins], along: str) -> list[list[tuple[float, float]]]:
    groups: dict[object, list[tuple[float, float]]] = defaultdict(list)
    for each in twins:
        if along in ("defense", "attack") or along in each.row.settings:
            groups[key(each.row, along)].append(each.values)
    return list(groups.values())


def _order(pairs: Sequence[Pair], along: str, metric: str) -> Order:
    return order(_groups([_Twins(pair.row, both) for pair in pairs if (both := pair.both(metric))], along))


def _sides(pairs: Sequence[Pair]) -> Sides:
    counted = [pair for pair in pairs if pair.standing in ("same side", "miss", "cannot tell")]
    garbled = [pair for pair in counted if pair.standing == "miss" and pair.measured_side is None]
    clear_sides = [(pair.reported_side, pair.measured_side) for pair in counted if pair.standing != "cannot tell"]
    unclear = sum(pair.standing == "cannot tell" for pair in counted)
    counts = _counted([each for each in clear_sides if each[1] is not None], unclear=unclear, collapsed=len(garbled))
    return replace(counts, useless=sum(pair.useless for pair in counted if pair.standing == "same side"))


def _counted(sides: Sequence[tuple[object, object]], *, unclear: int = 0, collapsed: int = 0) -> Sides:
    clear_sides = [each for each in sides if "cannot tell" not in each]
    return Sides(
        above=clear_sides.count(("above", "above")),
        below=clear_sides.count(("below", "below")),
        only_reported=clear_sides.count(("above", "below")),
        only_measured=clear_sides.count(("below", "above")),
        collapsed=collapsed,
        unclear=unclear + len(sides) - len(clear_sides),
    )


def _reversals(pairs: Sequence[Pair]) -> Iterator[Reversal]:
    """Pairs of rows whose intervals are apart on both sides, in opposite orders."""
    known = [pair for pair in pairs if pair.both(HARM) is not None and pair.row.n is not None]
    for along in axes(pairs):
        for one, other in combinations(known, 2):
            same_rest = key(one.row, along) == key(other.row, along)
            if not same_rest or key(one.row) == key(other.row):
                continue
            reported, measured = _clear(_reported(one), _reported(other)), _clear(_found(one), _found(other))
            if reported * measured < 0:
                higher, lower = (one, other) if reported > 0 else (other, one)
                yield Reversal(along=along, higher=higher, lower=lower)


def _reported(pair: Pair) -> tuple[float, float]:
    return reported_interval(pair.row.values[HARM], pair.row.n)


def _found(pair: Pair) -> tuple[float, float]:
    assert pair.measured is not None
    value = pair.measured.estimates[HARM]
    return (0.0 if value.low is None else value.low), (1.0 if value.high is None else value.high)


def _clear(one: tuple[float, float], other: tuple[float, float]) -> int:
    """1 if the first interval is above the second, -1 if below, 0 if they overlap."""
    return (one[0] > other[1]) - (one[1] < other[0])
