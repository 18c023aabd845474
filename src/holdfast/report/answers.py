"""Judged answers of a cell in a compact form for its page: every text once, answers as numbers that point to them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

LONGEST = 4000
"""Characters of one text on a page."""
CHARACTERS, FEWEST, MOST = 60_000_000, 40_000, 1_500_000
"""Characters of all the pages of a report together, roughly, and of one page at least and at most."""
HARMFUL, HARMLESS, UNJUDGED, OTHER = "harmful", "not harmful", "not judged", "other prompts"
"""What the first judge of harm says of an answer; `OTHER`: the prompt does not ask for harm."""

Opinion = tuple[str, float | None, bool, bool | None, str, float | None]
"""One judge's name, score, validity, refusal and reason, and its score of twice the room if that is another verdict."""


def room(cells: int) -> int:
    """The number of characters that the page of each of `cells` cells may show."""
    return max(FEWEST, min(MOST, CHARACTERS // max(cells, 1)))


def packed(columns: Mapping[str, Sequence[Any]], *, judge: str, threshold: float, most: int) -> dict[str, Any]:
    """A table of completions as lists of distinct prompts, texts and opinions, and four numbers for each answer.

    `columns` are those of `completions.parquet`, one row per completion and judge; `judge` is the one whose score above
    `threshold` makes an answer to a harmful prompt harmful. If all texts have more than `most` characters, only every
    second (third, ...) prompt of each role is kept, with its answers at every step: the choice never depends on answers
    or scores. `answers` has, one after the other, the places of an answer's step, prompt, text and opinions; `of` is
    the number of answers in the table.
    """
    listed = list(_answers(columns))
    steps: _Places[int] = _Places()
    prompts: _Places[_Asked] = _Places()
    texts: _Places[_Text] = _Places()
    opinions: _Places[tuple[bool, tuple[Opinion, ...]]] = _Places()
    numbers: list[int] = []
    for step, asked, text, judged in _every(listed, most):
        numbers += (steps.of(step), prompts.of(asked), texts.of(text), opinions.of((asked[0] == "harmful", judged)))
    return {
        "steps": list(steps),
        "prompts": [[role or "", domain or "", *_cut(question or "")] for role, question, domain in prompts],
        "texts": [[*_cut(text or ""), tokens, finished] for text, tokens, finished in texts],
        "opinions": [
            [_kind(each, judge, threshold) if asks_harm else OTHER, [[*o[:4], o[4] or "", o[5]] for o in each]]
            for asks_harm, each in opinions
        ],
        "answers": numbers,
        "of": len(listed),
    }


_Value = TypeVar("_Value", bound=Hashable)


class _Places(dict[_Value, int]):
    """Distinct values in order of appearance, each with its place."""

    def of(self, value: _Value) -> int:
        """The place of a value, which is added if it is new."""
        return self.setdefault(value, len(self))


_Asked = tuple[str, str, str]
_Text = tuple[str, int, bool]
_Answer = tuple[int, _Asked, _Text, tuple[Opinion, ...]]


def _answers(columns: Mapping[str, Sequence[Any]]) -> Iterator[_Answer]:
    """Step, prompt (role, text, domain), text and opinions of each completion; its rows, one per judge, follow each
    other."""
    if not columns:
        return
    steps, judges = columns["step"], columns["judge"]
    flips = columns.get("flips") or [False] * len(steps)
    longer = [score if flip else None for score, flip in zip(columns.get("longer_score") or flips, flips, strict=True)]
    prompts = list(zip(*(columns[name] for name in ("role", "prompt", "domain")), strict=True))
    texts = list(zip(*(columns[name] for name in ("completion", "num_tokens", "finished")), strict=True))
    opinions = list(
        zip(judges, *(columns[name] for name in ("score", "valid", "refused", "reason")), longer, strict=True)
    )
    begin = 0
    for row in range(1, len(steps) + 1):
        if (
            row < len(steps)
            and judges[row] not in judges[begin:row]
            and (steps[row], texts[row], prompts[row]) == (steps[begin], texts[begin], prompts[begin])
        ):
            continue
        yield steps[begin], prompts[begin], texts[begin], tuple(opinions[begin:row])
        begin = row


def _kind(opinions: Sequence[Opinion], judge: str, threshold: float) -> str:
    """What the judge says of an answer to a harmful prompt: an invalid one has no score, and is never harmless."""
    score = next((score for name, score, valid, *_ in opinions if name == judge and valid), None)
    return UNJUDGED if score is None else HARMFUL if score > threshold else HARMLESS


def _every(answers: Sequence[_Answer], most: int) -> Sequence[_Answer]:
    """The answers to every prompt, or to every n-th of each role if all texts are longer than `most`."""
    texts = {asked[1] for _, asked, _, _ in answers} | {text[0] for _, _, text, _ in answers}
    step = -(-sum(min(len(text or ""), LONGEST) for text in texts) // most)
    if step <= 1:
        return answers
    by_role: dict[str, _Places[_Asked]] = {}
    return [answer for answer in answers if by_role.setdefault(answer[1][0], _Places()).of(answer[1]) % step == 0]


def _cut(text: str) -> tuple[str, int]:
    """The beginning of a text, and the number of characters that are left out."""
    return text[:LONGEST], max(0, len(text) - LONGEST)
