"""One row of a file as typed cells: every error names the file, the row and the column. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, get_args

from holdfast.data.near_columns import close_to, remedy
from holdfast.methods.tables import one_line
from holdfast.records import Example, HoldfastError, Message, Role, user

HALF_PAIR = re.compile("[\\ud800-\\udfff]")
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
FLAGS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """The cells of one row by column name, `place` ("data.jsonl, line 3"), and the user's `columns` map.

    A reader uses the schema's name of a cell; `columns` maps it to the name in this file.
    """

    cells: Mapping[str, object]
    place: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the cell has a value; `None` and a missing column have none."""
        return self.cells.get(self._column(name)) is not None

    def cell(self, name: str) -> object:
        """The unconverted cell. Raises `HoldfastError` if the row has no such column."""
        column = self._column(name)
        if column not in self.cells:
            raise self._missing(name, column)
        return self.cells[column]

    def text(self, name: str) -> str:
        """A cell that must be text."""
        value = self.cell(name)
        return value if isinstance(value, str) else self._refuse(name, "text", value)

    def flag(self, name: str) -> bool:
        """A cell that must be true or false; the texts "True" and "false" of CSV and the numbers 0 and 1 are
        accepted."""
        return self._flag(name, self.cell(name))

    def flags(self, name: str) -> dict[str, bool]:
        """A cell that must be an object of flags (`mapping`, `flag`); null counts as false."""
        return {key: value is not None and self._flag(name, value) for key, value in self.mapping(name).items()}

    def mapping(self, name: str) -> Mapping[str, object]:
        """A cell that must be an object, or JSON text of one (as in CSV files).

        Raises:
                HoldfastError: it is neither; names file, row and column.
        """
        value = self.cell(name)
        if isinstance(value, str):
            try:
                value = json_value(value)
            except json.JSONDecodeError:
                value = None
            except ValueError as problem:
                raise self.error(str(problem), name) from None
        return value if isinstance(value, Mapping) else self._refuse(name, "an object", self.cell(name))

    def prompt(self, name: str = "prompt") -> tuple[Message, ...]:
        """A prompt: text, or a chat that ends with the user's turn. Raises `HoldfastError` if it is blank."""
        value = self.cell(name)
        turns = user(value) if isinstance(value, str) else self._chat(name, value)
        if turns[-1].role != "user":
            raise self.error(f"the prompt must end with the user's turn, not {turns[-1].role!r}", name)
        if not turns[-1].content.strip():
            raise self.error("the prompt is empty", name)
        return turns

    def chat(self, name: str) -> tuple[Message, ...]:
        """A cell that must be a chat: a list of {role, content}, at least one turn."""
        return self._chat(name, self.cell(name))

    def answer(self, name: str, prompt: tuple[Message, ...]) -> str:
        """An answer to `prompt`: text, or a chat with the assistant's turn, alone or after the prompt.

        Raises:
                HoldfastError: it is neither; names file, row and column.
        """
        value = self.cell(name)
        if isinstance(value, str):
            return value
        *before, last = self._chat(name, value)
        if last.role != "assistant":
            raise self.error(f"the answer must be the assistant's turn, not {last.role!r}", name)
        if before and tuple(before) != prompt:
            raise self.error("the turns before the answer are not the prompt", name)
        return last.content

    def error(self, message: str, name: str | None = None) -> HoldfastError:
        """An error that names this row, and the column `name` if one is given."""
        where = self.place if name is None else f"{self.place}, column {self._column(name)!r}"
        return HoldfastError(f"{where}: {message}")

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _flag(self, name: str, value: object) -> bool:
        known = FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
        return self._refuse(name, "true or false", value) if known is None else known

    def _chat(self, name: str, value: object) -> tuple[Message, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
            self._refuse(name, "text or a list of turns" if name == "prompt" else "a list of turns", value)
        return tuple(self._turn(name, turn) for turn in value)

    def _turn(self, name: str, turn: object) -> Message:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            self._refuse(name, "turns {role: system|user|assistant, content: text}", turn)
        return Message(role, content)

    def _missing(self, name: str, column: str) -> HoldfastError:
        present = ", ".join(repr(other) for other in self.cells) or "none"
        close = close_to(column, self.cells)
        return HoldfastError(f"{self.place}: no column {column!r}; the columns are {present}; {remedy(name, close)}")

    def _refuse(self, name: str, expected: str, value: object) -> NoReturn:
        raise self.error(f"expected {expected}, found {type_name(value)}", name)


def type_name(value: object) -> str:
    """A value as error messages show it: its type and its beginning."""
    if value is None:
        return "nothing (null)"
    kind = "text" if isinstance(value, str) else type(value).__name__
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # deeply nested, or a number with thousands of digits
        shown = "..."
    return f"{kind} ({shown if len(shown) <= 40 else shown[:37] + '...'})"


def json_value(text: str) -> Any:
    """The JSON value of a whole text; stricter than the standard reader.

    Raises `json.JSONDecodeError` for broken JSON, and `ValueError` with a readable reason for a duplicate key in an
    object, nesting that is too deep, a number with thousands of digits, or an unpaired surrogate.
    """
    value = _sound(lambda: DECODER.decode(text))
    _refuse_surrogates(value, text)
    return value


def json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends. Raises as `json_value` does."""
    value, end = _sound(lambda: DECODER.raw_decode(text, start))
    _refuse_surrogates(value, text[start:end])
    return value, end


def _sound(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None
    except json.JSONDecodeError:
        raise
    except ValueError as problem:
        if "digits" in str(problem):
            raise ValueError("a number has too many digits to be read") from None
        raise


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object; keep one of them")
    return row


def _refuse_surrogates(value: object, text: str) -> None:
    """Refuse a value with an unpaired surrogate in a text: it is not valid Unicode, and tokenizers reject it."""
    left = [value] if ESCAPED_HALF.search(text) else []
    while left:
        item = left.pop()
        if isinstance(item, str) and HALF_PAIR.search(item):
            raise ValueError("a text holds an unpaired surrogate (\\ud800 to \\udfff), which is not a character")
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            left += item


DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)


class Schema(NamedTuple):
    """A schema of data: `read` turns one row into its examples, `columns` are its column names. A mapping to a file's
    own names (`Source.columns`) may have only these keys.
    """

    read: Callable[[RawRow], list[Example]]
    columns: tuple[str, ...]


def examples_of(read: Callable[[RawRow], list[Example]], row: RawRow, where: str) -> list[Example]:
    """The checked examples that a reader makes from a row; `where` names the reader in errors.

    Raises:
        HoldfastError: it raised another exception, or did not return a list of valid examples.
    """
    try:
        examples = read(row)
    except HoldfastError:
        raise
    except Exception as error:
        raise HoldfastError(f"{row.place}: {where} raised {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(examples, list):
        raise HoldfastError(f"{row.place}: {where} returned {examples!r:.60}; it has to return a list of `Example`")
    for example in examples:
        fault = _fault(example)
        if fault is not None:
            raise HoldfastError(f"{row.place}: {where} returned {fault}")
    return examples


def _fault(example: Any) -> str | None:
    """The fault of an example from a reader, `None` if it is valid; a file's cells are checked by `RawRow`."""
    if not isinstance(example, Example):
        return f"{example!r:.60}, which is not an `Example`"
    turns = example.prompt
    if not isinstance(turns, tuple) or not turns or not all(isinstance(turn, Message) for turn in turns):
        return f"an example whose prompt is {turns!r:.60}; use `row.prompt()`, or `holdfast.records.user(text)`"
    for name in ("response", "refusal", "chosen", "rejected"):
        if not isinstance(value := getattr(example, name), str | None):
            return f"an example whose {name} is {value!r:.60}, and no text; use `row.text({name!r})`"
    if example.role not in get_args(Role):
        return f"an example of role {example.role!r}; the roles are {', '.join(get_args(Role))}"
    return None
