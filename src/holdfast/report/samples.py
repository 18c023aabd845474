"""Sample completions of a cell, for each prompt before and after the attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 4000
CHARACTERS = 500_000
"""The approximate total amount of text on a page."""


def room(cells: int, count: int) -> tuple[int, int]:
    """The number of prompts shown for each cell, given the number of cells, and the length of each answer."""
    share = CHARACTERS // max(cells, 1)
    shown = max(min(count, 1), min(count, share // 500))
    return shown, max(100, min(LONGEST, share // max(2 * shown, 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One completion with each judge's opinion, as (judge, score, valid, refused, reason).

    `flips` are (judge, score of the answer with twice the room) where that changes the judge's verdict.
    """

    text: str
    left_out: int
    num_tokens: int
    finished: bool
    opinions: tuple[tuple[str, float | None, bool, bool | None, str], ...]
    flips: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One prompt, answered before the attack (`None` if it was not used then) and at the last step."""

    role: str
    domain: str
    prompt: str
    before: Answer | None
    after: Answer


def pick(rows: Sequence[Mapping[str, Any]], count: int, *, longest: int = LONGEST) -> list[Sample]:
    """Up to `count` prompts of the last step, half of them harmful if there are enough, evenly spaced.

    `rows` hold one dict per completion and judge. The choice depends on the order of prompts only, never on the
    answers or scores. Of several answers to a prompt the first is shown, up to `longest` characters.
    """
    if not rows or count < 1:
        return []
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    before = _by_prompt([row for row in rows if row["step"] == first]) if first < last else {}
    after = _by_prompt([row for row in rows if row["step"] == last])
    return [_sample(prompt, before.get(prompt), after[prompt], longest) for prompt in _choice(after, count)]


def _by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The rows of the first completion of each (role, prompt), one per judge."""
    by_prompt: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        mine = by_prompt.setdefault((row["role"], row["prompt"]), [])
        is_same = not mine or row["completion"] == mine[0]["completion"]
        if is_same and row["judge"] not in {other["judge"] for other in mine}:
            mine.append(row)
    return by_prompt


def _choice(prompts: Mapping[tuple[str, str], object], count: int) -> list[tuple[str, str]]:
    harmful = [prompt for prompt in prompts if prompt[0] == "harmful"]
    others = [prompt for prompt in prompts if prompt[0] != "harmful"]
    num_harmful = min(len(harmful), max(-(-count // 2), count - len(others)))
    return _spaced(harmful, num_harmful) + _spaced(others, min(len(others), count - num_harmful))


def _spaced(items: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    return [items[index * len(items) // count] for index in range(count)]


def _sample(
    prompt: tuple[str, str],
    before: Sequence[Mapping[str, Any]] | None,
    after: Sequence[Mapping[str, Any]],
    longest: int,
) -> Sample:
    return Sample(
        role=prompt[0],
        domain=after[0]["domain"] or "",
        prompt=prompt[1] if len(prompt[1]) <= longest else f"{prompt[1][:longest]} …",
        before=_answer(before, longest) if before else None,
        after=_answer(after, longest),
    )


def _answer(rows: Sequence[Mapping[str, Any]], longest: int) -> Answer:
    text = rows[0]["completion"] or ""
    return Answer(
        text=text[:longest],
        left_out=max(0, len(text) - longest),
        num_tokens=rows[0]["num_tokens"],
        finished=rows[0]["finished"],
        opinions=tuple((row["judge"], row["score"], row["valid"], row["refused"], row["reason"] or "") for row in rows),
        flips=tuple((row["judge"], row["longer_score"]) for row in rows if row.get("flips")),
    )
