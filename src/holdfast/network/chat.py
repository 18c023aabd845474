"""Prompts, answers and the tokens that end them, as a model's chat template or a plain format writes them.

A control token inside a row's text (`<|im_end|>`) must never act as a control token. Where the tokenizer allows it, it
is tokenised as plain characters; otherwise the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from holdfast.network import templates
from holdfast.network.loading import one_line
from holdfast.network.templates import (
    DATE,
    apply,
    as_text,
    check_arguments,
    check_date,
    control_tokens,
    spelling,
    text_of,
)
from holdfast.records import HoldfastError, Message, digest, user
from holdfast.text import thinking

QUESTION, ANSWER = user("quaero"), "respondeo"
"""The conversation that a template is tried with; no template contains these words itself."""
NOT_ITS_CONTENT = frozenset(
    {
        "_tokenizer",
        "init_kwargs",
        "name_or_path",
        "files_loaded",
        "deprecation_warnings",
        "vocab_file",
        "tokenizer_file",
    }
)
"""What a tokenizer keeps beside its content: where it came from, and parts that are compared on their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chat:
    """A tokenizer and the format in which it writes conversations.

    `prompt_format` is a template with the placeholder `{prompt}`. Without it the tokenizer's chat template is used. It
    receives `arguments` (such as `enable_thinking`) and `date` as today's date. The model's embedding has `rows` rows.
    """

    name: str
    tokenizer: Any
    prompt_format: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE
    rows: int = 2**62
    _read: set[tuple[str, ...]] = field(default_factory=set, init=False, repr=False)

    def check(self) -> None:
        """Check everything that does not depend on a row.

        Raises:
            HoldfastError: the template does not use an argument, the date is not valid, the template ignores a turn,
                nothing marks the end of an answer, or a token has no embedding.
        """
        check_date(self.name, self.date)
        if self.arguments and self.prompt_format is not None:
            raise HoldfastError(
                f"{self.name}: chat_template_kwargs are for a chat template, and prompt_format is set; remove one"
            )
        check_arguments(self.name, self.tokenizer, self.arguments)
        self.prompt(QUESTION)
        self.response(ANSWER)

    def prompt(self, turns: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, up to where the answer begins.

        Raises:
            HoldfastError: the template refuses the conversation or ignores a turn, a turn holds a control token that
                the tokenizer cannot read as text, or a token has no embedding.
        """
        return self._embedded(self._prompt(turns))

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        if self.prompt_format is not None:
            return self._plain_prompt(as_text(turns))
        ids = self._tokens(turns)
        self._refuse_markers(turn.content for turn in turns)
        self._refuse_ignored_turns(tuple(turn.role for turn in turns))
        if all(self.control.isdisjoint(self.ids(turn.content)) for turn in turns):
            return ids
        # With harmless words in place of the control tokens, the only ones left are those that the template itself
        # writes.
        harmless = [turn._replace(content=self.written.sub("x", turn.content)) for turn in turns]
        own = [token for token in self._tokens(harmless) if token in self.control]
        try:
            ids = self._tokens(turns, sanitize_control_tokens=True)
        except HoldfastError:
            raise self._unreadable(turn.content for turn in turns) from None
        if [token for token in ids if token in self.control] != own:
            raise self._unreadable(turn.content for turn in turns)
        return ids

    def prompts(self, several: Sequence[Sequence[Message]]) -> list[list[int] | None]:
        """Tokens of many conversations, tokenised together; `None` for those that only `prompt` can read or refuse.

        These hold a control token, a turn marker or a token without an embedding; they are all of them if the template
        refuses one, or ignores a turn.
        """
        if not several or not getattr(self.tokenizer, "is_fast", False):
            return [None] * len(several)
        try:
            return self._plain_ones(several)
        except Exception:  # whatever a template raises; `prompt` says it of the row that it is due to
            return [None] * len(several)

    def _plain_ones(self, several: Sequence[Sequence[Message]]) -> list[list[int] | None]:
        together = self._together(several)
        parts = [self._parts(turns) for turns in several]
        texts = dict.fromkeys(text for some in parts for text in some)
        plain = {
            text
            for text, ids in zip(texts, self._all_ids(list(texts)), strict=True)
            if self.control.isdisjoint(ids) and not (self._markers and self._markers.search(text))
        }
        return [
            ids if max(ids, default=0) < self.rows and plain.issuperset(some) else None
            for some, ids in zip(parts, together, strict=True)
        ]

    def _parts(self, turns: Sequence[Message]) -> list[str]:
        """The texts of a conversation that must hold no control token."""
        return [turn.content for turn in turns] if self.prompt_format is None else [as_text(turns)]

    def _together(self, several: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Tokens of conversations, for those in which only the format writes control tokens."""
        if self.prompt_format is not None:
            texts = [self.prompt_format.replace("{prompt}", as_text(turns)) for turns in several]
            wholes = self.tokenizer(texts)["input_ids"]
            return [
                templates.with_beginning(plain_ids, list(whole))
                for plain_ids, whole in zip(self._all_ids(texts), wholes, strict=True)
            ]
        for roles in dict.fromkeys(tuple(turn.role for turn in turns) for turns in several):
            self._refuse_ignored_turns(roles)
        options = {**self.arguments, "add_generation_prompt": True, "return_dict": False}
        return [list(ids) for ids in templates.apply_to_all(self.tokenizer, several, options, date=self.date)]

    def reads_as(self, other: Chat) -> bool:
        """Whether every prompt has the same tokens for both, unless a model lacks embeddings of some."""
        if (self.prompt_format, self.arguments, self.date) != (other.prompt_format, other.arguments, other.date):
            return False
        return self.tokenizer is other.tokenizer or (self._content is not None and self._content == other._content)

    @cached_property
    def _content(self) -> str | None:
        """A digest of all that a tokenizer's tokens depend on; `None` if it cannot tell."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        own, named = (
            {key: value for key, value in values.items() if key not in NOT_ITS_CONTENT}
            for values in (vars(self.tokenizer), self.tokenizer.init_kwargs)
        )
        content = repr((type(self.tokenizer), own, named, self.tokenizer.backend_tokenizer.to_str()))
        return None if " object at 0x" in content else digest(content)

    def response(self, text: str) -> list[int]:
        """Tokens of an answer: what the template writes before it, the answer itself, and the tokens that end it.

        Raises:
            HoldfastError: the answer holds a control token that the tokenizer cannot read as text, or a token that has
                no embedding.
        """
        lead = self.lead(text)
        if thinking.CHANNEL in text:
            text = thinking.final_answer(text) or text
        if self.opened and thinking.has_thought(text):
            text = thinking.without_opening(text, self.opened)
        return self._embedded([*self.ids(lead), *self.answer_tokens(text, lead=lead), *self.end])

    def answer_tokens(self, text: str, *, lead: str = "") -> list[int]:
        """Tokens of a text that begins an answer, after `lead`; raises the same errors as `text`.

        SentencePiece adds a space before a text that is tokenised alone, but not before one that follows the template's
        text, and some templates write a space there. So the text is tokenised together with what precedes it. It is
        tokenised alone if its first token would span the end of the prompt, and after a plain format, which does not
        say whether a space is meant. A space that a template writes between an answer and its end is omitted, since
        decoded answers have none.
        """
        alone = self.text(text)
        in_place = self._in_place(text, lead) if self._moves else None
        return alone if in_place is None or not (self.control - self._thoughts).isdisjoint(in_place) else in_place

    @cached_property
    def _moves(self) -> bool:
        """Whether an answer has other tokens after its prompt than alone."""
        return self._in_place(ANSWER, self.lead(ANSWER)) not in (None, self.ids(ANSWER))

    def _in_place(self, text: str, lead: str) -> list[int] | None:
        """Tokens of a text after its prompt; `None` if a token spans the end of the prompt."""
        if self.prompt_format is not None:
            return None
        between, before = self._frame[0], self._render(QUESTION) + lead
        return templates.continued(self.ids, before, ("" if between.strip() else between) + text)

    def text(self, text: str) -> list[int]:
        """Tokens of a text alone; tags of reasoning such as `<think>` keep their meaning.

        Raises:
            HoldfastError: it holds a control token that the tokenizer cannot read as text.
        """
        self._refuse_markers([text])
        ids, wrong = self.ids(text), self.control - self._thoughts
        if not wrong.isdisjoint(ids):
            ids = self.ids(text, split_special_tokens=True)
            if not wrong.isdisjoint(ids):
                raise self._unreadable([text])
        return ids

    def answer(self, tokens: Sequence[int], *, ends: Container[int]) -> str:
        """Text of sampled tokens without trailing tokens of `ends`; control tokens before those stay visible."""
        content = [int(token) for token in tokens]
        while content and content[-1] in ends:
            content.pop()
        return str(self.tokenizer.decode(content)).strip().removesuffix(self.end_text).strip()

    def lead(self, text: str) -> str:
        """The text between the prompt and an answer: a channel's name, an empty thought; often nothing."""
        if thinking.has_thought(text) and thinking.CHANNEL not in text:
            return ""
        before, _ = self._frame
        if before.strip():
            return before
        return thinking.closing_of(self.opened) if self.opened else ""

    @cached_property
    def opened(self) -> str:
        """The opening tag of a thought with which every prompt ends; empty for most models."""
        if self.prompt_format is not None:
            return thinking.left_open(self.prompt_format.rpartition("{prompt}")[2])
        return thinking.left_open(self._render(QUESTION))

    @cached_property
    def end(self) -> list[int]:
        """The tokens that end an answer: what the template writes after it, up to the first control token.

        The tokenizer's end-of-sequence token if the template writes nothing there, and after a plain format.

        Raises:
            HoldfastError: there is neither, or what the template writes is not a special token.
        """
        _, after = self._frame
        first = next((token for token in self.ids(after) if token in self.control - self._thoughts), None)
        if first is not None:
            before = after.partition(text_of(self.tokenizer, first))[0]
            return [*(self.ids(before) if before.strip() else []), first]
        # Some templates always write the beginning of the next answer, even without `add_generation_prompt`.
        if after.strip() and not self._render(QUESTION).endswith(after):
            raise HoldfastError(
                f"{self.name}: its chat template ends an answer with {after.strip()!r}, which is not a token of its "
                "tokenizer, so that the end of an answer cannot be recognised; add it as a special token, or set "
                "`prompt_format`"
            )
        if self.tokenizer.eos_token_id is None:
            raise HoldfastError(f"{self.name}: the tokenizer has no end-of-sequence token; set `eos_token` in it")
        return [int(self.tokenizer.eos_token_id)]

    @cached_property
    def end_text(self) -> str:
        """The text of the ending tokens without the last one; mostly empty."""
        return str(self.tokenizer.decode(self.end[:-1])).strip() if len(self.end) > 1 else ""

    @cached_property
    def control(self) -> frozenset[int]:
        """Control tokens: the special ones, and the added ones that the chat format writes."""
        written = self.prompt_format
        if written is None:
            # Some templates assemble a marker from parts, so that only the rendered text contains it.
            written = f"{self.tokenizer.get_chat_template()}\n{self._render(QUESTION)}{self._frame[1]}"
        return control_tokens(self.tokenizer, written)

    @cached_property
    def written(self) -> re.Pattern[str]:
        """Matches the text of a control token."""
        return spelling(self.tokenizer, self.control)

    def suspicious(self, text: str) -> bool:
        """Whether a text contains the text of a control token or of a turn marker."""
        return any(pattern.search(text) for pattern in (self.written, self._markers) if pattern is not None)

    @cached_property
    def _thoughts(self) -> frozenset[int]:
        return frozenset(token for token in self.control if text_of(self.tokenizer, token) in thinking.ALL_TAGS)

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the template writes between the prompt and an answer, and after the answer."""
        if self.prompt_format is not None:
            return "", ""
        try:
            conversation = self._render((*QUESTION, Message("assistant", ANSWER)), generate=False)
        except HoldfastError:
            return "", ""  # a template that takes only one turn
        before, separator, after = conversation.rpartition(ANSWER)
        question = self._render(QUESTION)
        between = before.removeprefix(question) if before.startswith(question) else ""
        return (between, after) if separator else ("", "")

    def _plain_prompt(self, prompt: str) -> list[int]:
        """Tokens of the plain format, with the tokenizer's beginning-of-sequence token once and no end token."""
        assert self.prompt_format is not None
        text = self.prompt_format.replace("{prompt}", prompt)
        options = {}
        if not self.control.isdisjoint(self.ids(prompt)):
            options = {"split_special_tokens": True}
            if not self.control.isdisjoint([*self.ids(text, **options), *self.ids(self.prompt_format)]):
                raise self._unreadable([prompt])
        plain_ids, with_special = self.ids(text, **options), list(self.tokenizer(text, **options)["input_ids"])
        return templates.with_beginning(plain_ids, with_special)

    @cached_property
    def _markers(self) -> re.Pattern[str] | None:
        """Matches the template's turn markers that are plain text to its tokenizer, such as `[INST]`."""
        if self.prompt_format is not None:
            return None
        shown = self._render(QUESTION) + self._frame[1]
        return templates.marks(shown, but=lambda mark: mark in thinking.ALL_TAGS or bool(self.written.fullmatch(mark)))

    def _refuse_markers(self, texts: Iterable[str]) -> None:
        """Refuse text with a turn marker, which the model could not distinguish from the template's own."""
        for text in texts:
            match = self._markers.search(text) if self._markers else None
            if match is not None:
                raise HoldfastError(
                    f"{self.name}: the text holds {match[0]!r}, with which its chat template marks turns; remove it "
                    "from the row"
                )

    def _refuse_ignored_turns(self, roles: tuple[str, ...]) -> None:
        """Refuse a template that ignores the content of one of the turns."""
        if roles in self._read:
            return
        turns = [Message(role, "quaero") for role in roles]
        unchanged = self._render(turns)
        for i, role in enumerate(roles):
            if self._render([*turns[:i], Message(role, "dico"), *turns[i + 1 :]]) == unchanged:
                raise HoldfastError(
                    f"{self.name}: its chat template ignores the content of turn {i + 1} of {len(roles)}, by {role!r}; "
                    "remove that turn from the row, correct the template, or set `prompt_format`"
                )
        self._read.add(roles)

    def ids(self, text: str, **options: Any) -> list[int]:
        """Tokens of a text in which control tokens keep their meaning."""
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

    def _all_ids(self, texts: list[str]) -> list[list[int]]:
        """`ids` of many texts, tokenised together."""
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def _tokens(self, turns: Sequence[Message], **options: Any) -> list[int]:
        return list(self._apply(turns, add_generation_prompt=True, return_dict=False, **options))

    def _render(self, turns: Sequence[Message], *, generate: bool = True) -> str:
        return str(self._apply(turns, add_generation_prompt=generate, tokenize=False))

    def _apply(self, turns: Sequence[Message], **options: Any) -> Any:
        try:
            return apply(self.tokenizer, turns, {**self.arguments, **options}, date=self.date)
        except Exception as error:
            roles = ", ".join(turn.role for turn in turns)
            raise HoldfastError(
                f"{self.name}: its chat template refuses a conversation with the roles {roles} ({one_line(error)}); "
                "change the row, or set `prompt_format`"
            ) from error

    def _embedded(self, ids: list[int]) -> list[int]:
        if max(ids, default=0) >= self.rows:
            token = text_of(self.tokenizer, max(ids))
            raise HoldfastError(
                f"{self.name}: {token!r} is token {max(ids)} of the tokenizer, but the model has embeddings for "
                f"{self.rows} tokens; use the tokenizer that belongs to the model, or resize the model's embeddings"
            )
        return ids

    def _unreadable(self, texts: Iterable[str]) -> HoldfastError:
        token = next((match[0] for text in texts for match in [self.written.search(text)] if match), "a control token")
        return HoldfastError(
            f"{self.name}: the text holds {token!r}, a control token that its tokenizer cannot read as text; remove it "
            "from the row"
        )
