"""A chat with a model in the terminal, as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from holdfast.records import Cell

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

    Control characters in answers are shown as symbols. What was said before is part of the prompt.
    """
    from holdfast.commands import display
    from holdfast.experiment.world import load_model
    from holdfast.network.generate import Sampling, complete
    from holdfast.records import Example, Message

    model = load_model(cell, folder)
    display.note("an empty line ends it")
    room = min(LONGEST, (model.context or 2 * LONGEST) // 2)
    turns: list[Any] = []
    while asked := _asked():
        turns.append(Message("user", asked))
        (answer,) = complete(
            model, [Example(prompt=tuple(turns))], Sampling(max_new_tokens=room, temperature=0.0), seed=0
        )
        display.note(answer.text)
        turns.append(Message("assistant", answer.text))


def _asked() -> str:
    try:
        return str(typer.prompt("you", default="", show_default=False)).strip()
    except (EOFError, typer.Abort):
        return ""
