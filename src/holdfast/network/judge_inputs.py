"""Input formats of sequence classifiers for a question and an answer, and their limits of length.

`pair` are the tokenizer's two texts with its own separator between them, `answer` the answer alone, `chat` the
tokenizer's chat template, and anything else a template with the places `{prompt}` and `{response}`.

Inputs that are too long lose the middle of the question, never of the answer. An answer that still does not fit is read
in pieces that overlap by a quarter, each after the shortened question. A control token's text in a question or an
answer is treated as plain text: a space is inserted after its first character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.network.loading import one_line
from holdfast.network.templates import DATE, apply, control_tokens, spelling
from holdfast.records import Example, HoldfastError, Message

if TYPE_CHECKING:
    from torch import Tensor

Answer = tuple[Example, str]
Tokens = dict[str, list[int]]
CUT = " ... "


def default_format(tokenizer: Any) -> str:
    """The input format of a model that does not state one: its chat template if there is one, else a pair."""
    return "chat" if getattr(tokenizer, "chat_template", None) else "pair"


def check_input_format(input_format: str, tokenizer: Any, path: str, *, config: Any) -> None:
    """Refuse an input format that is invalid, not supported by the tokenizer, or without a separator before the answer.

    Raises:
        HoldfastError: as above; says what to set instead.
    """
    remedy = r"set input_format to `chat` or to a template such as 'Question: {prompt}\nAnswer: {response}'"
    if input_format == "chat" and not getattr(tokenizer, "chat_template", None):
        raise HoldfastError(
            f"judge {path}: its tokenizer has no chat template; set input_format to `pair` or to a template such as "
            r"'Question: {prompt}\nAnswer: {response}'"
        )
    if input_format not in ("pair", "answer", "chat") and "{response}" not in input_format:
        raise HoldfastError(
            f"judge {path}: input_format {input_format!r} is not `pair`, `answer`, `chat` or a template: write "
            f"{{response}} in it, and {{prompt}} where the question goes"
        )
    if input_format == "pair" and not _separates(tokenizer, config):
        raise HoldfastError(f"judge {path}: its tokenizer does not separate the two texts of a pair; {remedy}")
    if re.search(r"\{prompt\}\{response\}|\{response\}\{prompt\}", input_format):
        raise HoldfastError(
            f"judge {path}: input_format {input_format!r} does not separate question and answer; {remedy}"
        )


def _separates(tokenizer: Any, config: Any) -> bool:
    """Whether the model can separate the texts of a pair: by a token between them, or by trained token types."""
    if tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False):
        return True
    return (getattr(config, "type_vocab_size", 0) or 0) > 1 and "token_type_ids" in tokenizer("a", "a")


@dataclass(frozen=True)
class Reading:
    """Converts answers to inputs of a classifier, at most `max_length` tokens each, question and answer together."""

    tokenizer: Any
    input_format: str
    max_length: int

    def pieces(self, answers: Sequence[Answer]) -> list[list[Tokens]]:
        """The tokens of each answer, in as many pieces as needed."""
        uncut = self._tokens([([turn.content for turn in example.prompt], example, text) for example, text in answers])
        return [
            [tokens] if len(tokens["input_ids"]) <= self.max_length else self._fitted(*answer)
            for tokens, answer in zip(uncut, answers, strict=True)
        ]

    def padded(self, rows: Sequence[Tokens]) -> dict[str, Tensor]:
        """Rows of tokens as named tensors (B, S)."""
        return dict(self.tokenizer.pad(list(rows), padding=True, return_tensors="pt"))

    def _fitted(self, example: Example, text: str) -> list[Tokens]:
        contents = [turn.content for turn in example.prompt]
        total = sum(map(len, contents))

        def asked(keep: int, answer: str) -> Tokens:
            return self._tokens([(_ends(contents, keep), example, answer)])[0]

        def fits(tokens: Tokens, most: int = self.max_length) -> bool:
            return len(tokens["input_ids"]) <= most

        keep = _most(total, lambda keep: fits(asked(keep, text)))
        if keep is not None:
            return [asked(keep, text)]
        without_answer = len(asked(0, "")["input_ids"])
        if without_answer > self.max_length:
            raise HoldfastError(f"max_length {self.max_length}: too short for an answer; raise it")
        keep = (
            _most(total, lambda keep: fits(asked(keep, ""), without_answer + (self.max_length - without_answer) // 4))
            or 0
        )
        return self._in_pieces(text, lambda answer: asked(keep, answer))

    def _in_pieces(self, text: str, read: Callable[[str], Tokens]) -> list[Tokens]:
        """The tokens by `read` of as much of the text as fits, then of pieces three quarters further on each."""
        pieces, start = [], 0

        def fits(size: int) -> bool:
            return len(read(text[start : start + size])["input_ids"]) <= self.max_length

        while start < len(text):
            size = _most(len(text) - start, fits)
            if not size:
                raise HoldfastError(f"max_length {self.max_length}: too short for an answer; raise it")
            pieces.append(read(text[start : start + size]))
            if start + size == len(text):
                break
            onward = start + max(1, size - size // 4)
            start = (
                max(text.rfind(" ", start + 1, onward) + 1, start + 1) if " " in text[start + 1 : onward] else onward
            )
        return pieces

    def _tokens(self, rows: Sequence[tuple[list[str], Example, str]]) -> list[Tokens]:
        """Each row's tokens without a limit; a row is the prompt's contents by turn, the example, and the answer."""
        options: dict[str, Any] = {"truncation": False, "padding": False, "verbose": False}
        texts = [self._plain(text) for _, _, text in rows]
        if self.input_format == "pair":
            read = self.tokenizer([self._question(*row[:2]) for row in rows], texts, **options)
        else:
            written = [self._written(*row[:2], text) for row, text in zip(rows, texts, strict=True)]
            read = self.tokenizer(written, add_special_tokens=self.input_format != "chat", **options)
        return [{name: values[i] for name, values in read.items()} for i in range(len(rows))]

    def _written(self, contents: list[str], example: Example, answer: str) -> str:
        if self.input_format == "answer":
            return answer
        if self.input_format == "chat":
            turns = [Message(turn.role, self._plain(left)) for turn, left in zip(example.prompt, contents, strict=True)]
            return self._chat([*turns, Message("assistant", answer)], example)
        question = self._question(contents, example)
        before, _, after = self.input_format.partition("{response}")
        return before.replace("{prompt}", question) + answer + after.replace("{prompt}", question)

    def _chat(self, turns: list[Message], example: Example) -> str:
        try:
            return str(apply(self.tokenizer, turns, {"tokenize": False}, date=DATE))
        except Exception as error:
            raise HoldfastError(
                f"{example.source or 'a row'}: the judge's chat template refuses the row ({one_line(error)}); "
                "change the row, or set another input_format"
            ) from error

    def _question(self, contents: list[str], example: Example) -> str:
        """The last user turn (`Example.question`), with its remaining content."""
        turns = zip(example.prompt[::-1], contents[::-1], strict=True)
        return self._plain(next((content for turn, content in turns if turn.role == "user"), ""))

    def _plain(self, text: str) -> str:
        """The text with a space inside every control token's text, so that it is no longer one."""
        while self._control.search(text):  # the rest of one may form another
            text = self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " ", text)
        return text

    @cached_property
    def _control(self) -> re.Pattern[str]:
        template = str(getattr(self.tokenizer, "chat_template", None) or "")
        return spelling(self.tokenizer, control_tokens(self.tokenizer, template))


def _ends(contents: Sequence[str], keep: int) -> list[str]:
    """The texts without their common middle, so that `keep` characters stay, half at either end."""
    total = sum(map(len, contents))
    if keep >= total:
        return list(contents)
    first, last = (keep + 1) // 2, total - keep // 2
    shortened, at = [], 0
    for content in contents:
        before, after = content[: max(0, first - at)], content[max(0, last - at) :]
        cut = CUT if at <= first <= at + len(content) and (before or after) else ""
        shortened.append(before + cut + after if len(before) + len(after) < len(content) else content)
        at += len(content)
    return shortened


def _most(limit: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number up to `limit` that fits, by bisection; `None` if not even 0 does."""
    if not fits(0):
        return None
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
