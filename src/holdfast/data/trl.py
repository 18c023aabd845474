"""The two schemas that TRL's trainers read: preferences, and prompts with completions; as text or as chats."""

from __future__ import annotations

from holdfast.data.raw_rows import RawRow, Schema
from holdfast.records import Example, Message


def preference(row: RawRow) -> list[Example]:
    """Columns `prompt`, `chosen`, `rejected`, or only the last two as whole chats that differ only in their last turn.

    With a prompt, `chosen` and `rejected` are text, the assistant's turn alone, or the whole chat. Raises
    `HoldfastError` if the chats differ before their last turn.
    """
    prompt = row.prompt() if row.has("prompt") or "prompt" in row.columns else _shared_prompt(row)
    chosen, rejected = row.answer("chosen", prompt), row.answer("rejected", prompt)
    return [Example(prompt=prompt, chosen=chosen, rejected=rejected, source=row.place)]


def prompt_completion(row: RawRow) -> list[Example]:
    """Columns `prompt` and `completion`, each text or a chat; the completion becomes the response."""
    prompt = row.prompt()
    return [Example(prompt=prompt, response=row.answer("completion", prompt), source=row.place)]


def _shared_prompt(row: RawRow) -> tuple[Message, ...]:
    if isinstance(row.cell("chosen"), str):
        raise row.error("there is no prompt; texts need a 'prompt' column, only chats may omit it")
    chosen, rejected = row.chat("chosen")[:-1], row.chat("rejected")[:-1]
    if chosen != rejected:
        raise row.error("`chosen` and `rejected` must share every turn but the last")
    if not chosen or chosen[-1].role != "user" or not chosen[-1].content.strip():
        raise row.error("without a prompt column the chat must hold the user's turn before the answer", "chosen")
    return chosen


PREFERENCE = Schema(preference, ("prompt", "chosen", "rejected"))
PROMPT_COMPLETION = Schema(prompt_completion, ("prompt", "completion"))
