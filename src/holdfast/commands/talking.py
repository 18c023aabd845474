"""A chat with a model in the terminal, as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from holdfast.network.models import Model
    from holdfast.records import Cell, Message

LONGEST = 256
"""Tokens of an answer."""


def transformers_lines(folder: Path) -> str:
    """How to talk to a model's folder with transformers alone."""
    return (
        "from transformers import pipeline\n"
        f"say = pipeline('text-generation', {str(folder)!r})\n"
        "print(say([{'role': 'user', 'content': 'Hello'}], max_new_tokens=256)[0]['generated_text'][-1]['content'])"
    )


def talk(folder: Path, cell: Cell) -> None:
    """Ask for turns until an empty one or the end of the input, and print the likeliest answer to each.

    Control characters in answers are shown as symbols. What was said before is part of the prompt, as far back as the
    model's context reaches.
    """
    from holdfast.commands import display
    from holdfast.experiment.world import load_model
    from holdfast.network.generate import Sampling, complete
    from holdfast.records import Example, Message

    model = load_model(cell, folder)
    display.note("an empty line ends it")
    room = min(LONGEST, (model.context or 2 * LONGEST) // 2)
    sampling = Sampling(max_new_tokens=room, temperature=0.0)
    turns: tuple[Message, ...] = ()
    whole = True
    while question := _read_question():
        turns_that_fit = _latest(model, (*turns, Message("user", question)), room)
        if not turns_that_fit:
            display.note(f"too long: with an answer of {room} tokens it exceeds the {model.context} tokens of context")
            continue
        if whole and len(turns_that_fit) <= len(turns):
            display.note("from here on the oldest turns are left out: not all of them fit into the model's context")
            whole = False
        (answer,) = complete(model, [Example(prompt=turns_that_fit)], sampling, seed=0)
        display.note(answer.text)
        turns = (*turns_that_fit, Message("assistant", answer.text))


def _latest(model: Model, turns: tuple[Message, ...], room: int) -> tuple[Message, ...]:
    """The latest turns that leave `room` tokens for an answer; none if the last one alone does not."""
    while turns and model.context is not None and len(model.encode_prompt(turns)) + room > model.context:
        turns = turns[2:]
    return turns


def _read_question() -> str:
    try:
        return str(typer.prompt("you", default="", show_default=False)).strip()
    except (EOFError, typer.Abort):
        return ""
