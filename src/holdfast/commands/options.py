"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.commands import completing

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="`key=value` settings, e.g. `seeds=[0,1,2]` or `attacks.grpo.optim.max_steps=50`."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of processes, by default one for each GPU, or for each core without any; several on one GPU get "
        "equal parts of its memory; 0 runs everything in this one.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the run; run again to resume.")]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="`sandbox`, a folder, a GGUF file, `package:NAME`, or a Hugging Face id.")
]
PromptFormat = Annotated[
    str | None, typer.Option(help=r"How to prompt a model without a chat template: 'Question: {prompt}\nAnswer:'.")
]
Harmful = Annotated[str | None, typer.Option(help="Harmful rows: file, folder or Hub id; by default the sandbox's.")]
HarmfulRole = Annotated[
    str | None,
    typer.Option(
        help="Role of every harmful row, e.g. `harmful` for preferences: the rejected answer is the harmful one."
    ),
]
Benign = Annotated[str | None, typer.Option(help="Benign rows, for usefulness.")]
Format = Annotated[
    str, typer.Option(help="The rows' schema (`holdfast list formats`).", autocompletion=completing.formats)
]
Refusal = Annotated[str | None, typer.Option(help="The refusal for harmful rows without one.")]
Written = Annotated[
    str, typer.Option("--dtype", help="The dtype in which it is saved, by default that of its own folder.")
]
Checkpoints = Annotated[int, typer.Option(min=0, help="Optimizer steps between checkpoints; 0 for none.")]


def exit_unless_zero(code: int) -> None:
    """End the program with an exit code other than 0; 0 goes on to the end of the command."""
    if code:
        raise typer.Exit(code)
