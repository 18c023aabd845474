"""Questions with options, one a row, as in cais/wmdp and cais/mmlu: what the judge `multiple_choice` measures."""

from __future__ import annotations

from holdfast.data.raw_rows import RawRow, Schema
from holdfast.records import Example, user

LETTERS = "ABCDEFGH"
ASKED = "Reason step by step, then put the letter of the right answer in \\boxed{}."


def examples(row: RawRow) -> list[Example]:
    """Columns `question`, `choices` (a list of texts), `answer` (the right one's number from 0, or its letter).

    The prompt has the options by letter and asks for the letter in a box; the response is the right letter in a box.
    Raises `HoldfastError`.
    """
    question, choices, answer = row.text("question"), row.cell("choices"), row.cell("answer")
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise row.error("expected a list of texts", "choices")
    if not 2 <= len(choices) <= len(LETTERS):
        raise row.error(f"expected 2 to {len(LETTERS)} options, found {len(choices)}", "choices")
    known = LETTERS[: len(choices)]
    letter = known[answer] if type(answer) is int and 0 <= answer < len(known) else answer
    if not isinstance(letter, str) or letter not in tuple(known):
        raise row.error(f"expected a number below {len(known)} or a letter of {known}, found {answer!r:.40}", "answer")
    options = "\n".join(f"{name}. {choice}" for name, choice in zip(known, choices, strict=True))
    prompt = user(f"{question}\n{options}\n{ASKED}")
    return [Example(prompt=prompt, response=f"\\boxed{{{letter}}}", role="benign", domain="exam", source=row.place)]


SCHEMA = Schema(examples, ("question", "choices", "answer"))
