"""Commands on one model: harden, attack or evaluate it, or say what that will need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.commands import completing
from holdfast.commands.options import (
    Benign,
    Format,
    Harmful,
    HarmfulRole,
    ModelName,
    Overrides,
    PromptFormat,
    Refusal,
    Runs,
    Workers,
    Written,
    exit_unless_zero,
)


def harden(
    defense: Annotated[
        str, typer.Argument(help="An offline defense (`holdfast list defenses`).", autocompletion=completing.hardenings)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the hardened model.")],
    *,
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    dtype: Written = "auto",
    runs: Runs = Path("runs/harden"),
    workers: Workers = None,
) -> None:
    """Harden a model before release, and measure it before and after.

    Writes a Hugging Face model folder with a model card, in the model's own dtype. The measured model is loaded from
    that folder.

    Examples: `holdfast harden reward_neutralization -o hardened`,
    `holdfast harden reward_neutralization -m ./model --harmful rows.jsonl --harmful-format beavertails
    --benign help.jsonl --refusal "I can't help with that." -o hardened
    defenses.reward_neutralization.optim.max_steps=50`.
    """
    from holdfast.commands.jobs import harden_model
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    values = grid_options(model, prompt_format, data, defenses=["none", defense], attacks=["none"])
    exit_unless_zero(harden_model(values, out=out, dtype=dtype, runs=runs, overrides=overrides or [], workers=workers))


def attack(
    attack: Annotated[
        str, typer.Argument(help="An attack (`holdfast list attacks`).", autocompletion=completing.attacks)
    ],
    *,
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Defenses to stack; none by default.", autocompletion=completing.defenses)
    ] = None,
    runs: Runs = Path("runs/attack"),
    workers: Workers = None,
    keep_weights: Annotated[bool, typer.Option(help="Keep attacked weights; deleted otherwise.")] = False,
) -> None:
    """Attack a model by fine-tuning and measure how long it holds.

    Examples: `holdfast attack grpo`, `holdfast attack sft --defense refusal_loss`,
    `holdfast attack sft -m ./model --harmful rows.jsonl --harmful-format beavertails --benign help.jsonl
    attacks.sft.optim.max_steps=50 evaluation.every=5`.
    """
    from holdfast.commands.jobs import run_values
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    values = grid_options(model, prompt_format, data, defenses=[defense or "none"], attacks=[attack])
    code = run_values(
        {"name": "attack", **values}, runs=runs, overrides=overrides or [], workers=workers, keep_weights=keep_weights
    )
    exit_unless_zero(code)


def evaluate(
    *,
    overrides: Overrides = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    samples: Annotated[int, typer.Option(min=0, help="Sample completions to print.")] = 0,
    runs: Runs = Path("runs/evaluate"),
) -> None:
    """Measure a model without changing it: harm on harmful prompts and usefulness on benign ones.

    Examples: `holdfast evaluate --samples 5`,
    `holdfast evaluate -m ./model --harmful rows.jsonl --harmful-format beavertails --benign help.jsonl
    judges.harm.classifier.path=./classifier judges.harm.classifier.harmful_label=harmful
    evaluation.harm_judges=[harm,refusal]`.
    """
    from holdfast.commands.jobs import evaluate_model
    from holdfast.config import data_options, grid_options

    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role)
    values = grid_options(model, prompt_format, data, defenses=["none"], attacks=["none"])
    exit_unless_zero(evaluate_model(values, runs=runs, overrides=overrides or [], samples=samples))


def doctor(
    *,
    overrides: Overrides = None,
    attack: Annotated[
        str | None,
        typer.Option(help="Estimate this attack (`holdfast list attacks`).", autocompletion=completing.attacks),
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Defenses to stack; none by default.", autocompletion=completing.defenses)
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Estimate all cells of a YAML file or preset instead.", autocompletion=completing.grids),
    ] = None,
    model: ModelName = "sandbox",
    prompt_format: PromptFormat = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Benign = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
    price: Annotated[float | None, typer.Option(min=0, help="What an hour of this machine costs.")] = None,
    workers: Workers = None,
) -> None:
    """Check this machine: versions, accelerator, memory, disk, extras. Or estimate what an attack will need on it.

    An estimate runs a few steps and two evaluations of each cell: memory, seconds a step, hours, and with `--price`
    money.

    Examples: `holdfast doctor`, `holdfast doctor --attack grpo -m ./model --harmful rows.jsonl --benign help.jsonl`,
    `holdfast doctor --grid kitchen --price 2.5`.
    """
    from holdfast.commands.doctor import examine, refuse_unused

    named = {"--defense": defense, "--model": model != "sandbox", "--harmful": harmful, "--benign": benign}
    named |= {"--prompt-format": prompt_format, "--harmful-role": harmful_role, "--refusal": refusal}
    named |= {"--harmful-format": harmful_format != "columns", "--benign-format": benign_format != "columns"}
    more = {"--price": price is not None, "--workers": workers is not None, "KEY=VALUE": overrides}
    refuse_unused(attack, grid, named, more)
    if attack is None and grid is None:  # without torch this is what says so
        exit_unless_zero(examine())
        return
    from holdfast.commands.estimates import show_estimates
    from holdfast.commands.jobs import grid_of
    from holdfast.config import data_options, grid_options

    if grid is not None:
        wanted = grid_of(grid, overrides or [])
    else:
        data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
        values = grid_options(model, prompt_format, data, defenses=[defense or "none"], attacks=[attack])
        wanted = grid_of({"name": "estimate", **values}, overrides or [])
    show_estimates(wanted, price=price, workers=workers)
