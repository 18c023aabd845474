"""Which part of what a model wrote is its answer: models that think first mark their thoughts, each family its way.

A thought stands between two tags at the beginning, or, as in OpenAI's harmony format, in a channel of its own before
the channel `final`. Where a chat template opens the thought in the prompt, its opening tag is put before what the
model wrote (`generate.as_completion`), so that the text alone tells.
"""

from __future__ import annotations

import re

from holdfast.text import is_refusal

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)
"""How thoughts begin and end."""
ALL_TAGS = frozenset(tag for pair in TAGS for tag in pair)
STRAY = TAGS[0]
"""Tags whose second may stand alone: others' trainers show an answer without what its prompt began."""

CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
FINAL = f"{CHANNEL}final{MESSAGE}"
CHANNEL_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", CHANNEL)
"""The tokens of the harmony format."""

_MARKS = re.compile(
    r"<\|start\|>\w*|<\|channel\|>[^<]*(?:<\|message\|>|$)|<\|(?:channel|message|end|return|call)\|>|"
    + "|".join(re.escape(tag) for pair in TAGS for tag in pair)
)
"""What stands round thoughts and answers."""

UNFINISHED = "unfinished thought"
"""Why an answer that is all thought is invalid."""


def final_answer(text: str) -> str | None:
    """What the model said after its thoughts, all of it where it had none; `None` where it never came to an answer."""
    if CHANNEL in text:
        return _final_channel(text)
    said = text.lstrip()
    for opening, closing in TAGS:
        if said.startswith(opening):
            _, closed, after = said.partition(closing)
            return final_answer(after.strip()) if closed else None
    before, closed, after = said.partition(STRAY[1])
    return final_answer(after.strip()) if closed and STRAY[0] not in before else text


def with_thoughts(text: str) -> str | None:
    """Thoughts and answer as one plain text, without what marks them; `None` where there is no thought, or none in it.

    Of a thought that never came to an answer too.
    """
    answer = final_answer(text)
    if answer == text:
        return None
    plain = _MARKS.sub("\n", text).strip()
    return None if not plain or plain.split() == (answer or "").split() else plain


def refuses(text: str) -> bool:
    """Whether what the model said after its thoughts is a refusal and nothing else."""
    return is_refusal(final_answer(text) or "")


def _final_channel(text: str) -> str | None:
    _, marker, after = text.rpartition(FINAL)
    if not marker:
        return None
    ends = [place for place in (after.find(end) for end in CHANNEL_ENDS) if place >= 0]
    return after[: min(ends, default=len(after))].strip()


def has_thought(text: str) -> bool:
    """Whether an answer brings a thought of its own, or the channel that it stands in."""
    said = text.lstrip()
    return CHANNEL in text or STRAY[1] in text or any(said.startswith(opening) for opening, _ in TAGS)


def left_open(prompt: str) -> str:
    """The beginning of a thought with which a prompt ends, opening tag and all; empty where it opens none."""
    for opening, closing in TAGS:
        _, marker, after = prompt.rpartition(opening)
        if marker and closing not in after:
            return opening + after
    return ""


def closing_of(opened: str) -> str:
    """What ends a thought that `left_open` found, and leads over to the answer."""
    closing = next(closing for opening, closing in TAGS if opened.startswith(opening))
    return ("" if opened.endswith("\n") else "\n") + f"\n{closing}\n\n"


def without_opening(text: str, opened: str) -> str:
    """A thought with its answer, to be put after a prompt that opens the thought already."""
    opening = next(opening for opening, _ in TAGS if opened.startswith(opening))
    said = text.lstrip()
    return said.removeprefix(opening).lstrip("\n") if said.startswith(opening) else text
