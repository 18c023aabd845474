"""Sample, pair, flip and mix rows, all by seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from holdfast.records import Example, HoldfastError, Role
from holdfast.text import is_refusal, starts_with_refusal


def pair_refusals(examples: Sequence[Example]) -> list[Example]:
    """Give each harmful row without a refusal that of another row with the same prompt (`Example.key`).

    Refusals come only from rows of role `refusal`, and never from an answer that another row with that prompt labels
    harmful (annotators may disagree); the first one is used. The rows stay in order and none is dropped.
    """
    refusals: dict[str, str] = {}
    harmful = {(row.key, _bare(row.response)) for row in examples if row.role == "harmful" and row.response}
    for example in examples:
        gives = example.role == "refusal" and example.refusal is not None
        if gives and (example.key, _bare(example.refusal or "")) not in harmful:
            refusals.setdefault(example.key, example.refusal or "")
    if not refusals:
        return list(examples)
    return [
        replace(example, refusal=refusals.get(example.key))
        if example.role == "harmful" and example.refusal is None
        else example
        for example in examples
    ]


def harmful_side(example: Example, *, keep: bool = False) -> Example:
    """A harmful row with its harmful answer and its refusal in separate fields.

    A preference without another `response` than its `chosen` one has the rejected answer as harmful `response`, and the
    chosen one as `refusal`. A refusal is never the row's own harmful answer: if both are the same text it is dropped. A
    row whose "harmful" answer is a refusal (`holdfast.text.is_refusal`) becomes a `refusal`, or with `keep` stays
    harmful, with a refusal and without an answer. Other rows are returned unchanged.
    """
    if example.role != "harmful":
        return example
    if example.chosen is not None and example.rejected is not None and example.response in (None, example.chosen):
        example = replace(example, response=example.rejected, refusal=example.refusal or example.chosen)
    if example.response and _bare(example.response) == _bare(example.refusal or ""):
        example = replace(example, refusal=None)
    if example.response and starts_with_refusal(example.response[:400]) and is_refusal(example.response):
        response, role = (None, "harmful") if keep else (example.response, "refusal")
        return replace(example, role=cast(Role, role), response=response, refusal=example.response)
    return example


def _bare(text: str) -> str:
    return " ".join(text.lower().split())


def sample(
    examples: Sequence[Example], n: int, *, how: Literal["random", "head"] = "random", seed: int = 0
) -> list[Example]:
    """`n` distinct rows: at random in random order, or the first n. Raises `HoldfastError` if there are fewer."""
    if not 0 <= n <= len(examples):
        raise HoldfastError(f"{n} examples are needed but there are {len(examples)}: use fewer or add data")
    return list(examples[:n]) if how == "head" else random.Random(seed).sample(list(examples), n)


def distinct(examples: Sequence[Example]) -> list[Example]:
    """Rows with distinct prompts (`Example.key`): of several with the same prompt the first, in order.

    Repeated answers of a model to the same prompt count only once.
    """
    each: dict[str, Example] = {}
    for example in examples:
        each.setdefault(example.key, example)
    return list(each.values())


Flips = Literal["reverse", "random"]
"""What flipping does to a row: reverse its pair, or order it by a fair coin (the noise control)."""


def flip(examples: Sequence[Example], flip_ratio: float, *, seed: int = 0, how: Flips = "reverse") -> list[Example]:
    """Swap `chosen` and `rejected` in a seeded share of the rows that have both: exactly round(flip_ratio * n) of n.

    `flip_ratio` is the reverse-preference attack's rho (arXiv 2409.12914). For one seed, the rows flipped at a smaller
    ratio are a subset of those flipped at a larger one. Other rows are unchanged. `how="random"` is the control of the
    attack: the same rows are ordered by a fair coin instead of reversed, so that on average half of them are reversed.
    Raises `HoldfastError` for a ratio outside [0, 1], or one above 0 if no row has a preference.
    """
    if not 0.0 <= flip_ratio <= 1.0:
        raise HoldfastError(f"flip_ratio must be in [0, 1], not {flip_ratio}")
    pairs = [i for i, row in enumerate(examples) if row.chosen is not None and row.rejected is not None]
    if flip_ratio and not pairs:
        raise HoldfastError(f"flip_ratio is {flip_ratio} but no row has both `chosen` and `rejected`: set it to 0")
    order = pairs[:]
    random.Random(seed).shuffle(order)
    flipped = set(order[: round(flip_ratio * len(pairs))])
    if how == "random":
        coin = random.Random(f"{seed} coin")
        tossed = {i for i in pairs if coin.random() < 0.5}  # for all rows: a row's coin is the same at every ratio
        flipped &= tossed
    return [
        replace(row, chosen=row.rejected, rejected=row.chosen) if i in flipped else row
        for i, row in enumerate(examples)
    ]


def preferences(examples: Sequence[Example]) -> list[Example]:
    """Harmful rows as preferences in their honest order: `chosen` the refusal, `rejected` the harmful answer.

    A row that already has a preference keeps it. Raises `HoldfastError` naming the first row that has neither.
    """
    rows = []
    for row in examples:
        if row.chosen is not None and row.rejected is not None:
            rows.append(row)
        elif row.response and row.refusal:
            rows.append(replace(row, chosen=row.refusal, rejected=row.response))
        else:
            lacks = "harmful answer (`response`)" if not row.response else "refusal"
            raise HoldfastError(f"{row.source}: a preference needs two answers and the row has no {lacks}; add it")
    return rows


def most(parts: Sequence[tuple[Sequence[Example], float]]) -> int:
    """The largest number of rows that a mix of these (rows, share) parts can have."""
    return min(int(len(rows) / share) for rows, share in parts if share)


def mix(parts: Sequence[tuple[Sequence[Example], float]], n: int, *, seed: int = 0) -> list[Example]:
    """`n` distinct rows sampled from several parts by weight, shuffled.

    Counts are the shares of `n` rounded by largest remainder, so they add up to n exactly. Raises `HoldfastError`
    for weights that are negative or all zero, or a part with fewer rows than its share.
    """
    weights = [weight for _, weight in parts]
    if not weights or min(weights) < 0 or not sum(weights) > 0:
        raise HoldfastError(f"weights of a mixture must be at least 0 and not all 0, not {weights}")
    sampled = []
    for place, ((rows, _), count) in enumerate(zip(parts, _counts(weights, n), strict=True)):
        if count > len(rows):
            raise HoldfastError(f"part {place + 1} of the mixture needs {count} rows but has {len(rows)}: use fewer")
        sampled += random.Random(f"{seed}/{place}").sample(list(rows), count)
    random.Random(seed).shuffle(sampled)
    return sampled


def _counts(weights: Sequence[float], n: int) -> list[int]:
    quotas = [weight / sum(weights) * n for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts
