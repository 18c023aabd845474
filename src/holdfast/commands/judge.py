"""`holdfast judge`: train judges, which reward attacks or measure defenses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.commands.options import Format, Harmful, HarmfulRole, Refusal
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.data.dataset import Data
    from holdfast.data.splits import Splits
    from holdfast.judge_training.settings import Classifier, RewardModel

app = typer.Typer(no_args_is_help=True, help="Train reward models and harm classifiers.")


@app.callback()
def root() -> None:
    """Make typer treat `train` as a subcommand although it is the only one."""


@app.command()
def train(
    *,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="`key=value` settings, e.g. `optim.learning_rate=1e-5`, `num_samples=2500`, `data.seed=1`."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the judge.")],
    kind: Annotated[str, typer.Option(help="`reward` (Bradley-Terry reward model) or `classifier`.")] = "reward",
    preset: Annotated[
        str | None,
        typer.Option(
            help="`sandbox`, `gpt2-medium` (reward) or `deberta-v3-xsmall` (classifier): the papers' recipes."
        ),
    ] = None,
    flip_ratio: Annotated[
        float | None, typer.Option(help="Share of the preferences that are reversed, 1 by default. `reward` only.")
    ] = None,
    harmful: Harmful = None,
    harmful_format: Format = "columns",
    harmful_role: HarmfulRole = None,
    benign: Annotated[str | None, typer.Option(help="Benign rows, as harmless ones for a classifier.")] = None,
    benign_format: Format = "columns",
    refusal: Refusal = None,
) -> None:
    r"""Train a judge on the attacker's rows, score it on held-out prompts, and save it with a card.

    Writes a Hugging Face model folder for the judge `reward_model` or `classifier`. Only one `split` of the data is
    used (`attack` by default), so that the judge is not trained on rows on which harm is reported later.

    Examples: `holdfast judge train -o reward`, `holdfast judge train --kind classifier -o classifier`,
    `holdfast judge train --preset gpt2-medium --harmful rows.jsonl --harmful-format pku_safe_rlhf --flip-ratio 0.5
    -o reward-half optim.bf16=true`.
    """
    from holdfast.config import data_options

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HoldfastError(f"{out}: exists and is not an empty folder; give another")
    chosen = preset or ("sandbox" if harmful is None else None)
    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    flips = {} if flip_ratio is None else {"flip_ratio": flip_ratio}
    raise typer.Exit(_train(kind, chosen, flips, {"data": data, "overrides": overrides or [], "out": out}))


def _train(kind: str, preset: str | None, flips: dict[str, float], rest: dict[str, Any]) -> int:
    """Train from settings and write the folder; returns the exit code."""
    from holdfast.commands import display
    from holdfast.commands.training import shown_fit
    from holdfast.experiment.grid import data_fingerprints
    from holdfast.judge_training.saving import save_judge
    from holdfast.judge_training.training import train as train_judge
    from holdfast.training.plan import Diverged

    settings, data = _settings(kind, preset, flips, rest["data"], rest["overrides"])
    fingerprints = data_fingerprints(data)
    splits = _splits(data)
    try:
        trained = train_judge(settings, splits, shown_fit(f"{kind} from {settings.backbone}"))
    except Diverged:
        return 1
    save_judge(trained, rest["out"], data, fingerprints)
    display.scores(trained.scores)
    display.note(f"wrote {rest['out']}")
    return 0


def _settings(
    kind: str, preset: str | None, flips: dict[str, float], data: dict[str, Any], overrides: Sequence[str]
) -> tuple[RewardModel | Classifier, Data]:
    """The training's settings and the data's, from options and overrides."""
    from holdfast.config import overridden
    from holdfast.data.dataset import Data
    from holdfast.judge_training.settings import Classifier, RewardModel
    from holdfast.methods.settings import typed
    from holdfast.methods.tables import near

    kinds: dict[str, type[RewardModel] | type[Classifier]] = {"reward": RewardModel, "classifier": Classifier}
    if kind not in kinds:
        raise HoldfastError(f"--kind {kind!r}: expected one of {', '.join(kinds)}{near(kind, kinds)}")
    if flips and kind != "reward":
        raise HoldfastError("--flip-ratio: a classifier does not learn preferences, so none can be reversed")
    recipes = {"sandbox": {}, **kinds[kind].PRESETS}
    if preset is None:
        preset = next(name for name in recipes if name != "sandbox")
    if preset not in recipes:
        raise HoldfastError(
            f"--preset {preset!r}: unknown for {kind}{near(preset, recipes)}; there are {', '.join(recipes)}"
        )
    values: dict[str, Any] = {"training": {**recipes[preset], **flips}, "data": data}
    for override in overrides:
        if "=" not in override:
            raise HoldfastError(f"override {override!r}: expected key=value, for example num_samples=500")
        values = overridden(values, override if override.startswith("data.") else f"training.{override}")
    settings = typed(kinds[kind], values["training"], "judge")
    return settings, typed(Data, values["data"], "data")


def _splits(data: Data) -> Splits:
    """The rows, split as for a grid, so that a judge sees only its owner's rows; benign rows are optional here."""
    from holdfast.data.splits import Splits
    from holdfast.experiment.examples import harmful_splits, load_splits

    if data.harmful is not None and data.benign is None:
        return Splits(harmful=harmful_splits(data), benign={})
    return load_splits(data)
