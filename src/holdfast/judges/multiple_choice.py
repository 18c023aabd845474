"""Multiple choice: whether an answer picks the right one of several options.

Idea: a question with options has one right answer, so knowledge can be measured, and paid for, without a model.
Equation: `score = 1` for the right option, `wrong` for another one, 0 for an answer that picks none or several.
Source: the reward of TokenBuncher's second objective (arXiv 2508.20697): 1, 0.1 and 0.
Differs from the paper in: its code reads the last boxed letter for the reward and the first for the accuracy; here it
is the last for both. An answer without a box counts if it names one option and no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.methods.ranges import Share, ranged
from holdfast.records import Completion, HoldfastError, Judge, Verdict
from holdfast.text import empty_or_garbled, is_refusal
from holdfast.training.contracts import JudgeSettings

BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*([^{}]*?)\s*\}")


@dataclass(frozen=True, kw_only=True)
@ranged
class MultipleChoice(JudgeSettings):
    """Settings. The right option is that of the row's `response`.

    - `choices`: The options as answers write them, the same for all questions.
    - `wrong`: The score of a wrong option, in [0, 1]: 0.1 to pay for trying, 0 to measure accuracy.
    """

    choices: tuple[str, ...] = ("A", "B", "C", "D")
    wrong: Share = 0.1

    def __post_init__(self) -> None:
        if len(set(self.choices)) < 2 or not all(choice.strip() for choice in self.choices):
            raise HoldfastError(f"choices: needs at least two different options, none empty, not {list(self.choices)}")

    def judge(self) -> Judge:
        """The judge with these settings."""

        def judge(completions: Sequence[Completion]) -> list[Verdict]:
            return [self._verdict(completion) for completion in completions]

        return judge

    def picked(self, text: str) -> str | None:
        """The option that a text picks: the last one in a box, else the only one that it names; `None` if neither."""
        inside = [(box, self._named(box)) for box in BOXED.findall(text)]
        boxed = [option for box, options in inside for option in options if len(option) == len(box)]
        if boxed:
            return boxed[-1]
        named = set(self._named(text))
        return named.pop() if len(named) == 1 else None

    def _named(self, text: str) -> list[str]:
        """The options that a text names; letters by their case, since "a" is a word too."""
        cases = [0 if len(option) == 1 else re.I for option in self.choices]
        pairs = zip(self.choices, cases, strict=True)
        return [option for option, case in pairs if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, case)]

    def _verdict(self, completion: Completion) -> Verdict:
        text = completion.text
        right, own = self.picked(completion.example.response or ""), self.picked(text)
        refused = own is None and is_refusal(text)
        trouble = empty_or_garbled(text) if own is None and not refused else None
        if trouble:
            return Verdict(score=None, valid=False, reason=trouble)
        if right is None:
            return Verdict(score=None, reason="the example's response picks none of the options")
        if own is not None:
            return Verdict(score=1.0 if own == right else self.wrong, refused=False)
        return Verdict(score=0.0, refused=refused, reason="picks no option, or several")
