"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="`key=value` settings, e.g. `seeds=[0,1,2]` or `attacks.grpo.optim.max_steps=50`."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes at a time; one for each core unless given, 0 stays in one process."),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that keeps the run; run again to go on.")]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="`sandbox`, a folder, a GGUF file, `package:NAME`, or a Hugging Face id.")
]
PromptFormat = Annotated[
    str | None, typer.Option(help=r"How to prompt a model without a chat template: 'Question: {prompt}\nAnswer:'.")
]
Harmful = Annotated[str | None, typer.Option(help="Harmful rows: file, folder or Hub id; the sandbox's if not given.")]
HarmfulRole = Annotated[
    str | None,
    typer.Option(
        help="Role of every harmful row, e.g. `harmful` for preferences: the rejected answer is the harmful one."
    ),
]
Benign = Annotated[str | None, typer.Option(help="Benign rows, for usefulness.")]
Format = Annotated[str, typer.Option(help="The rows' schema (`holdfast list formats`).")]
Refusal = Annotated[str | None, typer.Option(help="The refusal of harmful rows that come with none.")]
Written = Annotated[
    str, typer.Option("--dtype", help="What it is written in; the type of its own folder unless given.")
]
Checkpoints = Annotated[int, typer.Option(min=0, help="Optimizer steps between checkpoints; 0 for none.")]
