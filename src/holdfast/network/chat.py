"""How a model is spoken to: prompts, answers and their ends, as its chat template or a plain format writes them.

Text from data is text: a control token that somebody wrote into a row (`<|im_end|>`) is never one to the model.
Where a tokenizer can, it is read as the characters it is made of; where not, the row is refused.
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
from holdfast.records import HoldfastError, Message, user
from holdfast.text import thinking

QUESTION, ANSWER = user("quaero"), "respondeo"
"""What a template is tried with; no template has these words of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chat:
    """A tokenizer and the format in which it puts conversations.

    `prompt_format` is a template with the place `{prompt}`, else it is the tokenizer's chat template, which is given
    the `arguments` (such as `enable_thinking`) and told that today is `date`. The model has an embedding for `rows`
    tokens.
    """

    name: str
    tokenizer: Any
    prompt_format: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE
    rows: int = 2**62
    _read: set[tuple[str, ...]] = field(default_factory=set, init=False, repr=False)

    def check(self) -> None:
        """Look at everything that does not depend on a row.

        Raises:
            HoldfastError: an argument is none of the template's, the date is none, the template leaves out what it is
                given, nothing says where an answer ends, or what it writes has no embedding.
        """
        check_date(self.name, self.date)
        if self.arguments and self.prompt_format is not None:
            raise HoldfastError(f"{self.name}: chat_template_kwargs are for a chat template, and prompt_format is set")
        check_arguments(self.name, self.tokenizer, self.arguments)
        self.prompt(QUESTION)
        self.response(ANSWER)

    def prompt(self, turns: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, up to the place where the answer begins.

        Raises:
            HoldfastError: the template refuses the conversation or leaves out a turn, a turn holds a control token that
                the tokenizer cannot read as text, or a token has no embedding.
        """
        return self._embedded(self._prompt(turns))

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        if self.prompt_format is not None:
            return self._plain_prompt(as_text(turns))
        ids = self._tokens(turns)
        self._refuse_markers(turn.content for turn in turns)
        self._refuse_deaf(tuple(turn.role for turn in turns))
        if all(self.control.isdisjoint(self.ids(turn.content)) for turn in turns):
            return ids
        # Beside a word that is none, the template writes the same control tokens: its own.
        harmless = [turn._replace(content=self.written.sub("x", turn.content)) for turn in turns]
        own = [token for token in self._tokens(harmless) if token in self.control]
        try:
            ids = self._tokens(turns, sanitize_control_tokens=True)
        except HoldfastError:
            raise self._unreadable(turn.content for turn in turns) from None
        if [token for token in ids if token in self.control] != own:
            raise self._unreadable(turn.content for turn in turns)
        return ids

    def response(self, text: str) -> list[int]:
        """Tokens of an answer: what the template puts before it, the answer as text, and its end.

        Raises:
            HoldfastError: the answer holds a control token that the tokenizer cannot read as text, or a token that has
                no embedding.
        """
        lead = self.lead(text)
        if thinking.CHANNEL in text:
            text = thinking.final_answer(text) or text
        if self.opened and thinking.has_thought(text):
            text = thinking.without_opening(text, self.opened)
        return self._embedded([*self.ids(lead), *self.spoken(text, lead=lead), *self.end])

    def spoken(self, text: str, *, lead: str = "") -> list[int]:
        """Tokens of a text that begins an answer, after `lead`; raises as `text`.

        SentencePiece puts a space before a text by itself, and not before one that follows the template's; and some
        templates write a space there. So the text is read in its place. It is read by itself where its first token
        takes in the end of the prompt, and after a plain format, which does not say whether a space is meant. A space
        that a template writes between an answer and its end is left out, as answers have none when they are decoded.
        """
        alone = self.text(text)
        placed = self._placed(text, lead) if self._moves else None
        return alone if placed is None or not (self.control - self._thoughts).isdisjoint(placed) else placed

    @cached_property
    def _moves(self) -> bool:
        """Whether an answer is made of other tokens in its place than by itself."""
        return self._placed(ANSWER, self.lead(ANSWER)) not in (None, self.ids(ANSWER))

    def _placed(self, text: str, lead: str) -> list[int] | None:
        """Tokens of a text in its place; `None` where they cannot be told from the prompt's."""
        if self.prompt_format is not None:
            return None
        between, before = self._frame[0], self._render(QUESTION) + lead
        return templates.continued(self.ids, before, ("" if between.strip() else between) + text)

    def text(self, text: str) -> list[int]:
        """Tokens of a text as such; the tags of a thought are what they are to the model.

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
        """Text of sampled tokens without those of `ends` that they end with; control tokens within stay visible."""
        kept = [int(token) for token in tokens]
        while kept and kept[-1] in ends:
            kept.pop()
        return str(self.tokenizer.decode(kept)).strip().removesuffix(self.end_text).strip()

    def lead(self, text: str) -> str:
        """What stands between the prompt and an answer: a channel's name, a thought of nothing; mostly nothing."""
        if thinking.has_thought(text) and thinking.CHANNEL not in text:
            return ""
        before, _ = self._frame
        if before.strip():
            return before
        return thinking.closing_of(self.opened) if self.opened else ""

    @cached_property
    def opened(self) -> str:
        """The beginning of a thought that every prompt ends with; empty for most models."""
        if self.prompt_format is not None:
            return thinking.left_open(self.prompt_format.rpartition("{prompt}")[2])
        return thinking.left_open(self._render(QUESTION))

    @cached_property
    def end(self) -> list[int]:
        """The tokens that end an answer: what the template writes after it up to its first control token.

        The tokenizer's end-of-sequence token where the template writes nothing there, and after a plain format.

        Raises:
            HoldfastError: there is neither, or what the template writes is no token.
        """
        _, after = self._frame
        first = next((token for token in self.ids(after) if token in self.control - self._thoughts), None)
        if first is not None:
            before = after.partition(text_of(self.tokenizer, first))[0]
            return [*(self.ids(before) if before.strip() else []), first]
        # Some templates write the beginning of the next answer whether they are asked for it or not.
        if after.strip() and not self._render(QUESTION).endswith(after):
            raise HoldfastError(
                f"{self.name}: its chat template ends an answer with {after.strip()!r}, which is no token of its "
                "tokenizer, so that nobody can tell where an answer ends; add it as a special token, or give "
                "`prompt_format`"
            )
        if self.tokenizer.eos_token_id is None:
            raise HoldfastError(f"{self.name}: the tokenizer has no end-of-sequence token; set `eos_token` in it")
        return [int(self.tokenizer.eos_token_id)]

    @cached_property
    def end_text(self) -> str:
        """What of the end is text and not its last token; mostly nothing."""
        return str(self.tokenizer.decode(self.end[:-1])).strip() if len(self.end) > 1 else ""

    @cached_property
    def control(self) -> frozenset[int]:
        """Tokens that mean something beside what they spell: special ones, and added ones that its format writes."""
        written = self.prompt_format
        if written is None:
            # Some templates put a marker together from parts, so that only what they make of it shows it.
            written = f"{self.tokenizer.get_chat_template()}\n{self._render(QUESTION)}{self._frame[1]}"
        return control_tokens(self.tokenizer, written)

    @cached_property
    def written(self) -> re.Pattern[str]:
        """Matches a control token as somebody would write it."""
        return spelling(self.tokenizer, self.control)

    def suspicious(self, text: str) -> bool:
        """Whether a text holds a control token or a mark of turns as somebody would write it; quickly told."""
        return any(pattern.search(text) for pattern in (self.written, self._markers) if pattern is not None)

    @cached_property
    def _thoughts(self) -> frozenset[int]:
        return frozenset(token for token in self.control if text_of(self.tokenizer, token) in thinking.ALL_TAGS)

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the template writes between its prompt and an answer, and after the answer."""
        if self.prompt_format is not None:
            return "", ""
        try:
            whole = self._render((*QUESTION, Message("assistant", ANSWER)), generate=False)
        except HoldfastError:
            return "", ""  # a template for one turn
        before, separator, after = whole.rpartition(ANSWER)
        asked = self._render(QUESTION)
        between = before.removeprefix(asked) if before.startswith(asked) else ""
        return (between, after) if separator else ("", "")

    def _plain_prompt(self, said: str) -> list[int]:
        """Tokens of the plain format: a tokenizer's beginning is written once, and its end never."""
        assert self.prompt_format is not None
        text = self.prompt_format.replace("{prompt}", said)
        options = {}
        if not self.control.isdisjoint(self.ids(said)):
            options = {"split_special_tokens": True}
            if not self.control.isdisjoint([*self.ids(text, **options), *self.ids(self.prompt_format)]):
                raise self._unreadable([said])
        bare, whole = self.ids(text, **options), list(self.tokenizer(text, **options)["input_ids"])
        return templates.begun_once(bare, whole)

    @cached_property
    def _markers(self) -> re.Pattern[str] | None:
        """Matches what the template marks turns with where that is text to its tokenizer, such as `[INST]`."""
        if self.prompt_format is not None:
            return None
        shown = self._render(QUESTION) + self._frame[1]
        return templates.marks(shown, but=lambda mark: mark in thinking.ALL_TAGS or bool(self.written.fullmatch(mark)))

    def _refuse_markers(self, texts: Iterable[str]) -> None:
        """Refuse what would be read as the mark of a turn: nothing tells it from the template's own."""
        for text in texts:
            match = self._markers.search(text) if self._markers else None
            if match is not None:
                raise HoldfastError(
                    f"{self.name}: the text holds {match[0]!r}, with which its chat template marks turns; take it "
                    "out of the row"
                )

    def _refuse_deaf(self, roles: tuple[str, ...]) -> None:
        """Refuse a template that writes the same whatever one of the turns says."""
        if roles in self._read:
            return
        turns = [Message(role, "quaero") for role in roles]
        whole = self._render(turns)
        for i, role in enumerate(roles):
            if self._render([*turns[:i], Message(role, "dico"), *turns[i + 1 :]]) == whole:
                raise HoldfastError(
                    f"{self.name}: its chat template leaves out what turn {i + 1} of {len(roles)}, by {role!r}, says; "
                    "take that turn out of the row, mend the template, or give `prompt_format`"
                )
        self._read.add(roles)

    def ids(self, text: str, **options: Any) -> list[int]:
        """Tokens of a text in which control tokens are control tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

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
                f"{self.name}: its chat template refuses a conversation of turns by {roles} ({one_line(error)}); "
                "change the row, or give `prompt_format`"
            ) from error

    def _embedded(self, ids: list[int]) -> list[int]:
        if max(ids, default=0) >= self.rows:
            token = text_of(self.tokenizer, max(ids))
            raise HoldfastError(
                f"{self.name}: {token!r} is token {max(ids)} of the tokenizer and the model has {self.rows}; take "
                "the tokenizer that belongs to it, or resize its embeddings"
            )
        return ids

    def _unreadable(self, texts: Iterable[str]) -> HoldfastError:
        token = next((match[0] for text in texts for match in [self.written.search(text)] if match), "a control token")
        return HoldfastError(
            f"{self.name}: the text holds {token!r}, a control token that its tokenizer cannot read as text; take it "
            "out of the row"
        )
