"""Separate answers from thoughts: reasoning models mark their thoughts, each family in its own way.

A thought is between two tags at the beginning, or, as in OpenAI's harmony format, in a separate channel before the
channel `final`. If a chat template opens the thought in the prompt, its opening tag is put before the model's text
(`generate.as_completion`), so that the text alone is sufficient.
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
"""The opening and closing tags of thoughts."""
ALL_TAGS = frozenset(tag for pair in TAGS for tag in pair)
STRAY = TAGS[0]
"""Tags whose closing one may occur alone: other trainers show an answer without the beginning in its prompt."""

CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
FINAL = f"{CHANNEL}final{MESSAGE}"
CHANNEL_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", CHANNEL)
"""The tokens of the harmony format."""

_MARKS = re.compile(
    r"<\|start\|>\w*|<\|channel\|>[^<]*(?:<\|message\|>|$)|<\|(?:channel|message|end|return|call)\|>|"
    + "|".join(re.escape(tag) for pair in TAGS for tag in pair)
)
"""The markers around thoughts and answers."""

UNFINISHED = "unfinished thought"
"""The reason why a completion without a final answer is invalid."""


def final_answer(text: str) -> str | None:
    """The text after the thoughts, all of it if there are none; `None` if there is no final answer."""
    while CHANNEL not in text:  # a loop, since a model may repeat a tag until its answer is cut
        begins = text.lstrip()
        opening, closing = next((tags for tags in TAGS if begins.startswith(tags[0])), ("", STRAY[1]))
        before, closed, after = begins.partition(closing)
        if opening and not closed:
            return None
        if not opening and (not closed or STRAY[0] in before):
            return text
        text = after.strip()
    return _final_channel(text)


def with_thoughts(text: str) -> str | None:
    """Thoughts and answer as one plain text, without their markers; `None` if there is no thought or it is empty.

    Also for a thought without a final answer.
    """
    answer = final_answer(text)
    if answer == text:
        return None
    plain = _MARKS.sub("\n", text).strip()
    return None if not plain or plain.split() == (answer or "").split() else plain


def refuses(text: str) -> bool:
    """Whether the text after the thoughts is a refusal and nothing else."""
    return is_refusal(final_answer(text) or "")


def _final_channel(text: str) -> str | None:
    _, marker, after = text.rpartition(FINAL)
    if not marker:
        return None
    ends = [place for place in (after.find(end) for end in CHANNEL_ENDS) if place >= 0]
    return after[: min(ends, default=len(after))].strip()


def has_thought(text: str) -> bool:
    """Whether an answer contains its own thought or channel marker."""
    begins = text.lstrip()
    return CHANNEL in text or STRAY[1] in text or any(begins.startswith(opening) for opening, _ in TAGS)


def left_open(prompt: str) -> str:
    """The beginning of a thought with which a prompt ends, including the opening tag; empty if it opens none."""
    for opening, closing in TAGS:
        _, marker, after = prompt.rpartition(opening)
        if marker and closing not in after:
            return opening + after
    return ""


def closing_of(opened: str) -> str:
    """The closing tag for a thought found by `left_open`, with the separator before the answer."""
    closing = next(closing for opening, closing in TAGS if opened.startswith(opening))
    return ("" if opened.endswith("\n") else "\n") + f"\n{closing}\n\n"


def without_opening(text: str, opened: str) -> str:
    """A thought with its answer, for a prompt that already opens the thought."""
    opening = next(opening for opening, _ in TAGS if opened.startswith(opening))
    begins = text.lstrip()
    return begins.removeprefix(opening).lstrip("\n") if begins.startswith(opening) else text
