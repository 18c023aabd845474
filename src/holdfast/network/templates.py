"""Chat templates: what they are given, and which day they are told it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from holdfast.methods.tables import near
from holdfast.records import HoldfastError, Message

DATE = "2026-01-01"
"""The day that a template which writes today's is told, unless another is set: prompts do not change overnight."""
MARKER = re.compile(r"<\|?[^\s<>|]+\|?>|\[/?[A-Z][A-Z_]*\]")
"""What marks of turns look like."""
RESERVED = frozenset(
    {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"}
    | {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"}
)
"""Arguments of `apply_chat_template` that are ours to set."""


def begun_once(bare: list[int], whole: list[int]) -> list[int]:
    """Tokens without what a tokenizer adds at the end, and with what it adds at the beginning, unless it is there."""
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    begin = whole[: next(starts, 0)]
    return bare if begin and bare[: len(begin)] == begin else begin + bare


def continued(ids: Callable[[str], list[int]], before: str, text: str) -> list[int] | None:
    """Tokens of a text as they follow `before`; `None` where the two share a token."""
    start, whole = ids(before), ids(before + text)
    return whole[len(start) :] if whole[: len(start)] == start else None


def marks(text: str, *, but: Callable[[str], bool]) -> re.Pattern[str] | None:
    """Matches what a text marks turns with, such as `[INST]`, leaving out those of `but`; `None` where that is none."""
    markers = {mark for mark in MARKER.findall(text) if not but(mark)}
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True)))) if markers else None


def as_text(turns: Sequence[Message]) -> str:
    """One turn as it is; several with their speakers, since a plain format has no other place for them."""
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def check_prompt_format(name: str, tokenizer: Any, prompt_format: str | None) -> None:
    """Refuse a model that nobody said how to speak to: guessing a template moves harm scores by tens of points."""
    if prompt_format is None and not getattr(tokenizer, "chat_template", None):
        raise HoldfastError(
            f"{name}: the tokenizer has no chat template; give `prompt_format`, "
            r"for example 'Question: {prompt}\nAnswer:'"
        )
    if prompt_format is not None and "{prompt}" not in prompt_format:
        raise HoldfastError(f"prompt_format {prompt_format!r} has no place for the prompt: write {{prompt}} in it")


def control_tokens(tokenizer: Any, written: str) -> frozenset[int]:
    """Tokens that mean something beside what they spell: special ones, and added ones that stand in `written`.

    The token of unknown words is none of them: ordinary text has it too.
    """
    added = tokenizer.added_tokens_decoder
    special = {token for token, form in added.items() if form.special} | set(tokenizer.all_special_ids)
    used = {token for token, form in added.items() if form.content in written and form.content.strip()}
    return frozenset(special | used) - {tokenizer.unk_token_id}


def spelling(tokenizer: Any, tokens: Iterable[int]) -> re.Pattern[str]:
    """Matches any of the tokens as somebody would write it."""
    spelled = sorted({text_of(tokenizer, token) for token in tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled)) or "(?!)")


def text_of(tokenizer: Any, token: int) -> str:
    """How a token is written."""
    form = tokenizer.added_tokens_decoder.get(token)
    return form.content if form is not None else str(tokenizer.convert_ids_to_tokens(token))


def check_date(name: str, date: str) -> None:
    """Refuse a day that is none."""
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise HoldfastError(f"{name}: date {date!r} is no day; write it as {DATE}") from None


def check_arguments(name: str, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the tokenizer's chat template has no use for: a misspelt one would change nothing."""
    for key in arguments:
        names = set(re.findall(r"\w+", str(tokenizer.get_chat_template())))
        if key in RESERVED or key not in names:
            raise HoldfastError(
                f"{name}: chat_template_kwargs: {key!r} is nothing that its chat template asks for"
                f"{near(key, sorted(names - RESERVED))}"
            )


def apply(tokenizer: Any, turns: Sequence[Message], options: Mapping[str, Any], *, date: str) -> Any:
    """What the tokenizer's chat template makes of a conversation on the day `date`.

    Raises:
        Exception: whatever the template raises.
    """
    with _today_is(date):
        return tokenizer.apply_chat_template([turn._asdict() for turn in turns], **options)


@contextmanager
def _today_is(date: str) -> Iterator[None]:
    """While it lasts, `strftime_now` of transformers' templates tells the given day: its clock is their module's."""
    from transformers.utils import chat_template_utils

    class Pinned(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Pinned:  # noqa: ARG003
            return cls.fromisoformat(date)

    own = chat_template_utils.datetime
    chat_template_utils.datetime = Pinned
    try:
        yield
    finally:
        chat_template_utils.datetime = own
