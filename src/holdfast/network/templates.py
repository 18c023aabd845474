"""Chat templates: their arguments, the date they receive, and their control tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from holdfast.methods.tables import near
from holdfast.records import HoldfastError, Message

DATE = "2026-01-01"
"""The default date for templates that write today's date: it is fixed so that prompts do not change overnight."""
MARKER = re.compile(r"<\|?[^\s<>|]+\|?>|\[/?[A-Z][A-Z_]*\]")
"""Matches what looks like a turn marker."""
RESERVED = frozenset(
    {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"}
    | {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"}
)
"""Arguments of `apply_chat_template` that a user may not set."""


def with_beginning(bare: list[int], complete: list[int]) -> list[int]:
    """The tokens `bare` after those that the tokenizer adds before them in `complete`, unless they begin with these.

    What the tokenizer adds at the end is not included.
    """
    starts = (i for i in range(len(complete) - len(bare) + 1) if complete[i : i + len(bare)] == bare)
    begin = complete[: next(starts, 0)]
    return bare if begin and bare[: len(begin)] == begin else begin + bare


def continued(ids: Callable[[str], list[int]], before: str, text: str) -> list[int] | None:
    """Tokens of a text that follows `before`; `None` if a token spans both."""
    start, together = ids(before), ids(before + text)
    return together[len(start) :] if together[: len(start)] == start else None


def marks(text: str, *, but: Callable[[str], bool]) -> re.Pattern[str] | None:
    """Matches the turn markers in a text, such as `[INST]`, except those for which `but` holds; `None` without any."""
    markers = {mark for mark in MARKER.findall(text) if not but(mark)}
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True)))) if markers else None


def as_text(turns: Sequence[Message]) -> str:
    """One turn as it is; several turns with their roles, which a plain format cannot show otherwise."""
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def check_prompt_format(name: str, tokenizer: Any, prompt_format: str | None) -> None:
    """Refuse a model without a prompt format: a guessed template can change harm scores by tens of points."""
    if prompt_format is None and not getattr(tokenizer, "chat_template", None):
        raise HoldfastError(
            f"{name}: the tokenizer has no chat template; set `prompt_format`, "
            r"for example 'Question: {prompt}\nAnswer:'"
        )
    if prompt_format is not None and "{prompt}" not in prompt_format:
        raise HoldfastError(
            f"prompt_format {prompt_format!r} has no placeholder for the prompt; write {{prompt}} in it"
        )


def control_tokens(tokenizer: Any, written: str) -> frozenset[int]:
    """Control tokens: the special ones, and the added ones that occur in `written`.

    The unknown token is not among them, since ordinary text may contain it.
    """
    added = tokenizer.added_tokens_decoder
    special = {token for token, form in added.items() if form.special} | set(tokenizer.all_special_ids)
    used = {token for token, form in added.items() if form.content in written and form.content.strip()}
    return frozenset(special | used) - {tokenizer.unk_token_id}


def spelling(tokenizer: Any, tokens: Iterable[int]) -> re.Pattern[str]:
    """Matches the text of any of the tokens."""
    spelled = sorted({text_of(tokenizer, token) for token in tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled)) or "(?!)")


def text_of(tokenizer: Any, token: int) -> str:
    """The text of a token."""
    form = tokenizer.added_tokens_decoder.get(token)
    return form.content if form is not None else str(tokenizer.convert_ids_to_tokens(token))


def check_date(name: str, date: str) -> None:
    """Refuse a date that is not an ISO date."""
    try:
        datetime.fromisoformat(date)
    except ValueError:
        raise HoldfastError(f"{name}: date {date!r} is not a date; write it like {DATE}") from None


def check_arguments(name: str, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the tokenizer's chat template does not use: a misspelt one would have no effect."""
    for key in arguments:
        names = set(re.findall(r"\w+", str(tokenizer.get_chat_template())))
        if key in RESERVED or key not in names:
            raise HoldfastError(
                f"{name}: chat_template_kwargs: its chat template does not use {key!r}"
                f"{near(key, sorted(names - RESERVED))}; remove or correct it"
            )


def apply(tokenizer: Any, turns: Sequence[Message], options: Mapping[str, Any], *, date: str) -> Any:
    """A conversation written by the tokenizer's chat template, with `date` as today's date.

    Raises:
        Exception: whatever the template raises.
    """
    with _today_is(date):
        return tokenizer.apply_chat_template([turn._asdict() for turn in turns], **options)


def apply_to_all(tokenizer: Any, several: Sequence[Sequence[Message]], options: Mapping[str, Any], *, date: str) -> Any:
    """Conversations, at least one, each as `apply` writes it; the template's text is tokenised together."""
    with _today_is(date):
        return tokenizer.apply_chat_template([[turn._asdict() for turn in turns] for turns in several], **options)


@contextmanager
def _today_is(date: str) -> Iterator[None]:
    """Within this context, `strftime_now` in transformers' templates returns the given date."""
    from transformers.utils import chat_template_utils

    own = chat_template_utils.datetime
    chat_template_utils.datetime = _pinned(date)
    try:
        yield
    finally:
        chat_template_utils.datetime = own


@cache
def _pinned(date: str) -> type[datetime]:
    class Pinned(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Pinned:  # noqa: ARG003
            return cls.fromisoformat(date)

    return Pinned
