"""What a comparison says, in sentences and as flat rows, for the terminal, the page and the CSV file alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.published.agreement import Sides
from holdfast.published.comparing import Comparison
from holdfast.published.shapes import Ranked, Reversal, Shape
from holdfast.published.standing import HARM, Pair, reported_interval
from holdfast.published.tables import PublishedRow
from holdfast.report.page import chance, plural, rate

NAMES = {"kl": "KL", "rouge1": "ROUGE-1", "n": "N"}
VERDICTS = {
    "same": "the same shape",
    "not the same": "not the same shape",
    "cannot tell": "cannot tell whether it has the same shape",
}


def headline(comparison: Comparison) -> str:
    """The verdict in one line."""
    misses, flips = len(comparison.misses), sum(len(shape.reversals) for shape in comparison.shapes)
    by_rank = all(shape.sides is None for shape in comparison.shapes)
    missed = "" if by_rank else f"; {plural(misses, 'miss')}"
    reversals = f", {plural(flips, 'clear reversal')} of two rows" if not by_rank else ""
    useless = sum(pair.useless for pair in comparison.pairs if pair.standing == "same side")
    missing = (
        f"; {comparison.missing} of {plural(comparison.printed, 'row')} without a cell" if comparison.missing else ""
    )
    only = f"; {plural(useless, 'row')} on the same side only since the model here is of no use" if useless else ""
    return f"{comparison.table.name}: {VERDICTS[comparison.verdict]}{missed}{reversals}{missing}{only}"


def sentences(comparison: Comparison) -> list[str]:
    """The verdicts with their numbers, one line each."""
    return [f"{heading}: {line}" for heading, lines in verdicts(comparison) for line in lines]


def verdicts(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The verdicts with their numbers, by data set; last how the paper's own two stand to each other."""
    threshold = comparison.table.threshold
    groups = [(shape.dataset or "data set not named", of_shape(shape, threshold)) for shape in comparison.shapes]
    if comparison.itself is not None:
        between = of_shape(comparison.itself, threshold, ("on the first", "on the second"))
        groups.append((f"for scale, the paper's own data sets beside each other, {comparison.itself.dataset}", between))
    return groups


def of_shape(shape: Shape, threshold: float, names: tuple[str, str] = ("reported", "measured")) -> list[str]:
    """A data set's verdicts, one line each; `names` are what the two values of a row are called."""
    sides = [] if shape.sides is None else [of_sides(shape.sides, threshold, names)]
    judged = [each for each in shape.ranked if each.metric in shape.judged_by]
    others = [each for each in shape.ranked if each.metric not in shape.judged_by]
    ranks = [f"{of_order(each)}: {each.order.verdict}" for each in judged]
    ranks += [f"{name(metric)}: no two rows to put in order: cannot tell" for metric in shape.unordered]
    return [*sides, *ranks, *(f"{of_order(each)} (no part of the verdict)" for each in others)]


def of_sides(sides: Sides, threshold: float, names: tuple[str, str]) -> str:
    """`9 of 12 cells on the same side of 0.5 [.47, .91] (above 2, below 7; ...)`."""
    one, other = names
    low, high = sides.interval
    parts = {
        f"{one} above, {other} below": sides.only_reported,
        f"{one} below, {other} above": sides.only_measured,
        "garbled here only": sides.collapsed,
    }
    missed = "".join(f"; {name} {count}" for name, count in parts.items() if count)
    unclear = f"; {plural(sides.unclear, 'cell')} too close to tell" if sides.unclear else ""
    share = f"{sides.same} of {plural(sides.n, 'cell')} on the same side of {threshold:g} [{low:.2f}, {high:.2f}]"
    useless = f", {sides.useless} of them since the model here is of no use" if sides.useless else ""
    return f"{share} (above {sides.above}, below {sides.below}{useless}{missed}{unclear}): {sides.verdict}"


def of_order(ranked: Ranked) -> str:
    """`harmfulness, order of defenses: tau .47 [-.09, .80], n = 13 rows in 3 groups, ...`."""
    agreement = ranked.order
    along = {"defense": "defenses", "attack": "attacks"}.get(ranked.along, f"rows by {name(ranked.along)}")
    tau = "none" if agreement.tau is None else f"{agreement.tau:.2f}"
    alike = f"{agreement.same} alike, {agreement.reversed} reversed, {agreement.tied} tied"
    pairs = f"{plural(agreement.pairs, 'pair')}, {alike}"
    groups = f"n = {plural(agreement.rows, 'row')} in {plural(agreement.groups, 'group')}"
    return (
        f"{name(ranked.metric)}, order of {along}: tau {tau} [{agreement.low:.2f}, {agreement.high:.2f}], {groups} "
        f"({pairs}), p {chance(agreement.chance)}"
    )


def of_reversal(reversal: Reversal) -> str:
    """`dpo: security_vectors .72 above lisa .13, here .01 [.00, .04] below .52 [.40, .64]`."""
    one, other = reversal.higher, reversal.lower
    first, second = (titled(pair.row, reversal.along) for pair in (one, other))
    return (
        f"{setting(one.row, reversal.along)}: reported {first} {reported(one, HARM)} above {second} "
        f"{reported(other, HARM)}; measured {measured(one, HARM)} below {measured(other, HARM)}"
    )


def titled(row: PublishedRow, along: str) -> str:
    """The value of a row along which two are ordered."""
    return (
        row.defense if along == "defense" else row.attack if along == "attack" else f"{along} {row.settings[along]:g}"
    )


def setting(row: PublishedRow, *without: str) -> str:
    """What identifies a row, in words, leaving out the named parts."""
    own = "" if "defense" in without else row.defense
    attack = "" if "attack" in without else row.attack
    swept = ", ".join(f"{name(key)} {shown(value)}" for key, value in row.settings.items() if key not in without)
    return ", ".join(filter(None, [row.dataset or "", attack, own, swept]))


def swept(row: PublishedRow) -> str:
    """The settings of a row, in words."""
    return ", ".join(f"{name(key)} {shown(value)}" for key, value in row.settings.items())


def name(key: str) -> str:
    """A metric or a setting, for people."""
    return NAMES.get(key, key)


def shown(value: float | str) -> str:
    """A setting's value."""
    return value if isinstance(value, str) else f"{value:,g}" if value < 1e4 else f"{value:,.0f}"


def reported(pair: Pair, metric: str) -> str:
    """A printed value, with its interval where n is known; the paper's reason where there is none."""
    value = pair.row.values.get(metric)
    if value is None:
        return pair.row.state if pair.row.state != "printed" else "–"
    text = rate(value.low) if value.low == value.high else f"{rate(value.low)} to {rate(value.high)}"
    marked = f"{text}*" if pair.row.state == "collapsed" else text
    if metric != HARM or pair.row.n is None:
        return marked
    low, high = reported_interval(value, pair.row.n)
    return f"{marked} [{rate(low)}, {rate(high)}]"


def measured(pair: Pair, metric: str) -> str:
    """A measured mean with its interval."""
    value = pair.measured.estimates.get(metric) if pair.measured is not None else None
    if value is None or value.value is None:
        return "–"
    known = value.low is not None and value.high is not None
    return f"{rate(value.value)} [{rate(value.low)}, {rate(value.high)}]" if known else rate(value.value)


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat row for each published one, in the order of the comparison: what the CSV file has."""
    keys = tuple(dict.fromkeys(key for pair in comparison.pairs for key in pair.row.settings))
    return [_flat(pair, comparison, keys) for pair in comparison.pairs]


def _flat(pair: Pair, comparison: Comparison, keys: tuple[str, ...]) -> dict[str, Any]:
    row, own = pair.row, pair.measured
    flags = ", ".join(flag for flag in ("ambiguous", "from_text") if getattr(row, flag))
    flat: dict[str, Any] = {
        "table": comparison.table.name,
        "standing": pair.standing,
        "attack": row.attack,
        "dataset": row.dataset or "",
        "defense": row.defense,
        **{key: row.settings.get(key) for key in keys},
        "reported_state": row.state,
        "reported_flags": flags,
        "reported_n": row.n,
        "reported_side": pair.reported_side,
        "measured_side": pair.measured_side,
        "runs": own.runs if own is not None else 0,
        "outcomes": pair.ended,
        "why": pair.why,
        "deviations": "; ".join(own.deviations) if own is not None else "",
    }
    for metric in dict.fromkeys((*comparison.table.metrics, HARM)):
        flat |= _numbers(pair, metric)
    return flat


def _numbers(pair: Pair, metric: str) -> dict[str, Any]:
    value = pair.row.values.get(metric)
    estimate = pair.measured.estimates.get(metric) if pair.measured is not None else None
    return {
        f"reported_{metric}": None if value is None else value.middle,
        f"measured_{metric}": None if estimate is None else estimate.value,
        f"measured_{metric}_low": None if estimate is None else estimate.low,
        f"measured_{metric}_high": None if estimate is None else estimate.high,
        f"measured_{metric}_n": 0 if estimate is None else estimate.n,
    }


def remarks(comparison: Comparison) -> Iterator[str]:
    """What a reader should know beside the verdicts."""
    if comparison.own_data and len({shape.dataset for shape in comparison.shapes} - {None}) > 1:
        yield "the runs are of one world of their own, the paper of two data sets: each cell is compared with both"
    others = [name(metric) for metric in comparison.table.metrics if metric != HARM]
    if others:
        yield f"{', '.join(others)}: by rank only, since the scales differ"
    differ = dict.fromkeys(text for pair in comparison.pairs if pair.measured for text in pair.measured.deviations)
    if differ:
        yield f"settings of some cells are not the paper's (the runs are of {comparison.beside}): {'; '.join(differ)}"
    if any(pair.row.n is None for pair in comparison.pairs):
        yield "the paper does not state n for some rows: their values are taken as they stand"
    if comparison.unused:
        belong = "belongs" if comparison.unused == 1 else "belong"
        yield f"{plural(comparison.unused, 'cell')} of the runs {belong} to no row: controls, or other tables'"
    if comparison.unfinished:
        yield f"{plural(comparison.unfinished, 'cell')} without a record: unfinished, and not compared"
    yield from (f"unreadable, and not compared: {line}" for line in comparison.trouble)
