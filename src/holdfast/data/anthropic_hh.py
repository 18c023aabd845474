"""Anthropic/hh-rlhf: two transcripts per row that differ only in the assistant's last turn."""

from __future__ import annotations

import re

from holdfast.data.raw_rows import RawRow, Schema
from holdfast.records import Example, Message

MARKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def examples(row: RawRow) -> list[Example]:
    """Columns `chosen` and `rejected`, each a transcript of turns that begin with Human: or Assistant:.

    The prompt is every turn before the last, which must be the assistant's; role `benign`. Raises `HoldfastError` if a
    transcript does not parse or the two prompts differ.
    """
    prompt, chosen = _prompt_and_answer(row, "chosen")
    other, rejected = _prompt_and_answer(row, "rejected")
    if prompt != other:
        raise row.error("`chosen` and `rejected` differ before the assistant's last turn; drop the row")
    return [Example(prompt=prompt, chosen=chosen, rejected=rejected, role="benign", source=row.place)]


def _prompt_and_answer(row: RawRow, name: str) -> tuple[tuple[Message, ...], str]:
    before, *parts = MARKER.split(row.text(name))
    turns = [Message(ROLES[who], content.strip()) for who, content in zip(parts[::2], parts[1::2], strict=True)]
    roles = [turn.role for turn in turns]
    if before.strip() or roles[:1] != ["user"] or roles[-2:] != ["user", "assistant"]:
        expected = "a transcript that begins with '\\n\\nHuman:' and ends with a Human and an Assistant turn"
        raise row.error(f"expected {expected}; correct the row or drop it", name)
    if not turns[-2].content:
        raise row.error("the prompt is empty", name)
    return tuple(turns[:-1]), turns[-1].content


SCHEMA = Schema(examples, ("chosen", "rejected"))
