"""Matched pairs: rows of a restricted prompt and its harmless twin, by the value of their column `pair`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from holdfast.data.splits import split
from holdfast.records import Example, HoldfastError

Pair = tuple[Example, Example]
"""A restricted prompt and its harmless twin."""
TRAINED_ON = ("defense", "attack")
MEASURED: tuple[Literal["development", "test"], ...] = ("development", "test")


def matched(rows: Sequence[Example], where: str) -> list[Pair]:
    """The pairs of rows, in the order of their first row.

    Raises:
        HoldfastError: a row has no `pair`, or a pair is not one harmful and one benign row; names the row.
    """
    sides: dict[str, dict[str, Example]] = {}
    for row in rows:
        role = "benign" if row.role in ("benign", "retain") else row.role
        if not row.pair:
            raise HoldfastError(
                f"{row.source or where}: has no value in the column `pair`; give it the name of its pair"
            )
        if role not in ("harmful", "benign") or role in sides.setdefault(row.pair, {}):
            raise HoldfastError(
                f"{row.source or where}: the pair {row.pair!r} has to be one harmful row and one benign one; this is "
                f"another {role} one"
            )
        sides[row.pair][role] = row
    for name, both in sides.items():
        if len(both) < 2:
            (only,) = both.values()
            raise HoldfastError(f"{only.source or where}: the pair {name!r} has no other row; give it a twin")
    return [(both["harmful"], both["benign"]) for both in sides.values()]


def placed(
    pairs: Sequence[Pair], used: Mapping[str, Sequence[Example]], shares: Mapping[str, float], *, seed: int
) -> dict[str, list[Pair]]:
    """Pairs in the splits `development` and `test`, without those of which a prompt is trained on.

    A pair with a prompt that is in one of the two splits already goes there; others by the hash of the restricted
    prompt, in proportion to the splits' shares. `used` are the prompts of all other rows, by split.
    """
    owner = {row.key: name for name in (*MEASURED, *TRAINED_ON) for row in used.get(name, ())}
    measured = sum(shares[name] for name in MEASURED)
    by_hash = split([first for first, _ in pairs], {name: shares[name] / measured for name in MEASURED}, seed=seed)
    by_key = {row.key: name for name, rows in by_hash.items() for row in rows}
    by_split: dict[str, list[Pair]] = {name: [] for name in MEASURED}
    for pair in pairs:
        names = {owner[row.key] for row in pair if row.key in owner} or {by_key[pair[0].key]}
        if len(names) == 1 and names <= set(MEASURED):
            by_split[names.pop()].append(pair)
    return by_split
