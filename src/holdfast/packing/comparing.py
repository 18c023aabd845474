"""Compares a pack's files with those computed from its records: texts, tables by row, a verdict by line."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from holdfast.files import parse_json
from holdfast.packing.figures import VERDICT
from holdfast.packing.recomputing import alike, differences, short
from holdfast.records import Record
from holdfast.report.read import ODD

_log = logging.getLogger("holdfast")

Status = Literal["agrees", "differs", "not checked"]
MOST_SHOWN = 8
"""The number of differences of one kind that are named one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A checked thing and the result; `version`: another version of Holdfast may explain a difference."""

    status: Status
    what: str
    version: bool = False


def summed(wrong: Sequence[str], fine: str, *, version: bool = False) -> Iterator[Finding]:
    """A line for each difference, up to a number; one line if there is none."""
    if not wrong:
        yield Finding(status="agrees", what=fine)
    for text in wrong[:MOST_SHOWN]:
        yield Finding(status="differs", what=text, version=version)
    if len(wrong) > MOST_SHOWN:
        yield Finding(status="differs", what=f"and {len(wrong) - MOST_SHOWN} more such differences", version=version)


def computed(
    step: Callable[[Mapping[str, Record]], Iterable[Finding]], records: Mapping[str, Record], what: str
) -> list[Finding]:
    """The findings of a step of the check, or, where it meets odd values, the records it cannot be computed of.

    A mistake of Holdfast's own ends a step likewise, so that this never agrees; the log's debug level has its place.
    """
    try:
        return list(step(records))
    except ODD as error:
        _log.debug("%s: cannot be computed", what, exc_info=True)
        why = f"{what} cannot be computed ({error!r:.120})"
    odd = [f"{name}: {why}" for name, record in records.items() if _is_odd(step, {name: record})]
    return list(summed(odd or [why], "", version=True))


def _is_odd(step: Callable[[Mapping[str, Record]], Iterable[Finding]], records: Mapping[str, Record]) -> bool:
    try:
        list(step(records))
    except ODD:
        return True
    return False


def in_short(name: str, differing: Sequence[object]) -> list[str]:
    """The first difference of a thing and the number of the others; empty if there is none."""
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    return [f"{name}: {differing[0]}{more}"] if differing else []


def text_differences(stored: bytes, computed: bytes) -> Iterator[str]:
    """Differences of JSON values, or of other texts."""
    if stored == computed:
        return
    try:
        differing = list(differences(parse_json(stored.decode()), parse_json(computed.decode())))
    except ValueError:
        yield "is not what follows from the records"
        return
    yield from map(str, differing)


def table_differences(stored: bytes, computed: bytes) -> Iterator[str]:
    """Differences of CSV tables, row by row."""
    if stored == computed:
        return
    try:
        one, other = (csv.DictReader(io.StringIO(table.decode())) for table in (stored, computed))
        names, again = one.fieldnames, other.fieldnames
        rows = [*one], [*other]
    except (csv.Error, ValueError) as error:
        yield f"is not a table ({error})"
        return
    if names != again:  # a column that is there twice would be read once
        yield "has other columns than by the records"
        return
    if len(rows[0]) != len(rows[1]):
        yield f"has {len(rows[0])} rows, and {len(rows[1])} by the records"
    for number, (row, follows) in enumerate(zip(*rows, strict=False), 1):
        for column in dict.fromkeys([*row, *follows]):
            pair = row.get(column), follows.get(column)
            if not alike(*map(_number, pair)):
                yield f"row {number}, {column} is {short(pair[0])}, and {short(pair[1])} by the records"


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def verdict_findings(stored: bytes | None, computed: bytes) -> Iterator[Finding]:
    """The gate's verdict line by line."""
    if stored is None:
        yield Finding(status="differs", what=f"{VERDICT}: is missing")
        return
    try:
        stored_verdict, again = parse_json(stored.decode()), parse_json(computed.decode())
        own, other = (_by_title(value["defenses"]) for value in (stored_verdict, again))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding(status="differs", what=f"{VERDICT}: is not a verdict ({error!r:.80})")
        return
    wrong = [
        f"{VERDICT}: {each}" for each in differences(_without(stored_verdict, "defenses"), _without(again, "defenses"))
    ]
    names = _short({**own, **other})
    for title in dict.fromkeys([*own, *other]):
        if title not in own or title not in other:
            wrong.append(f"{VERDICT}: {title} is judged {'by the records' if title not in own else 'in it'} only")
            continue
        differing, fine = _decision(own[title], other[title], names[title])
        wrong += differing
        yield from (Finding(status="agrees", what=what) for what in fine)
    yield from summed(wrong, f"{VERDICT}: {again['verdict']} in all, by {again['gate']['file']}", version=True)


def _decision(stored: Mapping[str, Any], computed: Mapping[str, Any], name: str) -> tuple[list[str], list[str]]:
    """What differs between a defense's verdicts, and what agrees."""
    wrong = in_short(name, list(differences(_without(stored, "lines"), _without(computed, "lines"))))
    fine = [] if wrong else [f"{name}: {computed['verdict']}"]
    for number, (line, again) in enumerate(zip_longest(stored["lines"], computed["lines"]), 1):
        what = f"{name}, line {number}" + (f", {again['measure']}" if again else "")
        off = in_short(what, list(differences(line, again)))
        wrong += off
        fine += [] if off else [f"{what}: {again['verdict']}"]
    return [f"{VERDICT}: {text}" for text in wrong], fine


def _without(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name != key}


def _by_title(decisions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The verdicts by defense, model and threat model; of several with one title the later ones have a number."""
    by_title: dict[str, dict[str, Any]] = {}
    for one in decisions:
        title = plain = f"{one['defense']} on {one['model']} ({one['threat_model']})"
        while title in by_title:
            title = f"{plain}, {len(by_title) + 1}"
        by_title[title] = {**one, "lines": list(one["lines"])}
    return by_title


def _short(decisions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A defense's name for each title, if no other title has it."""
    names = [str(one["defense"]) for one in decisions.values()]
    return {title: name if names.count(name) == 1 else title for title, name in zip(decisions, names, strict=True)}
