"""`holdfast judge`: train judges, which reward attacks or measure defenses, and compare several on the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.commands import completing
from holdfast.commands.options import Format, Harmful, HarmfulRole, Refusal
from holdfast.records import HoldfastError, Judge

if TYPE_CHECKING:
    from holdfast.commands import comparing
    from holdfast.data.dataset import Data
    from holdfast.data.splits import Splits
    from holdfast.judge_training.recipes import Classifier, RewardModel

app = typer.Typer(no_args_is_help=True, help="Train reward models and harm classifiers, and compare judges.")


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
    from holdfast.files import require_unused

    require_unused(out)
    chosen = preset or ("sandbox" if harmful is None else None)
    data = data_options(harmful, harmful_format, benign, benign_format, role=harmful_role, refusal=refusal)
    flips = {} if flip_ratio is None else {"flip_ratio": flip_ratio}
    raise typer.Exit(_train(kind, chosen, flips, {"data": data, "overrides": overrides or [], "out": out}))


@app.command()
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, or a file of labelled answers; then judges, as `judges.NAME.JUDGE.SETTING=VALUE` or "
            "`judges.NAME=JUDGE`.",
            autocompletion=completing.judged,
        ),
    ],
    rows: Annotated[str, typer.Option("--format", help="The file's schema (`holdfast list formats`).")] = "columns",
    examples: Annotated[int, typer.Option(min=0, help="Answers to print that the judges differ on.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write all figures and disagreements as JSON.")
    ] = None,
) -> None:
    """Say how far judges agree on the same answers, and what depends on the choice of one.

    Of runs: the judges that scored their answers to harmful prompts, and those named here, which judge the kept answers
    without a new run; also the cells that break or end otherwise by another judge. Of labelled answers (`prompt`,
    `response`, and `role: harmful` or `benign` as the label): how often each named judge is wrong, and how far its
    scores are probabilities. Needs the extra `judges`.

    Examples: `holdfast judge compare runs/quickstart`,
    `holdfast judge compare runs/kitchen judges.words.terms.path=terms.txt`,
    `holdfast judge compare labelled.jsonl judges.form=refusal judges.words.terms.path=terms.txt -o compared.json`.
    """
    from holdfast.commands import comparing, comparing_shown
    from holdfast.evaluation.agreement import require_libraries
    from holdfast.training.contracts import usage_of

    require_libraries()
    given = [Path(source) for source in sources if not source.startswith("judges.")]
    judges = _named_judges([source for source in sources if source.startswith("judges.")])
    if not given:
        raise HoldfastError("no run folder or file was given: name one, as in `holdfast judge compare runs/NAME`")
    if any(place.is_file() for place in given):
        cells, answers = [], _labelled(given, rows, judges)
    else:
        cells = comparing.of_runs(given, judges)
        answers = comparing.distinct(cells)
    by_cell = comparing.verdicts(cells)
    comparing_shown.show_agreement(answers, examples)
    for name, judge in judges.items():
        if usage := usage_of(judge):
            comparing_shown.show_usage(name, usage)
    if by_cell:
        comparing_shown.show_verdicts(by_cell)
    if out is not None:
        comparing.write(out, answers, by_cell)


def _named_judges(settings: Sequence[str]) -> dict[str, Judge]:
    """The judges that `judges.NAME...=...` settings name."""
    from holdfast.config import overridden, parse_method
    from holdfast.experiment.world import make_judge
    from holdfast.judges import TRAINED

    values: dict[str, Any] = {"judges": {}}
    for setting in settings:
        if "=" not in setting:
            raise HoldfastError(f"{setting!r}: expected judges.NAME=JUDGE or judges.NAME.JUDGE.SETTING=VALUE")
        values = overridden(values, setting)
    methods = {name: parse_method(value, f"judges.{name}") for name, value in values["judges"].items()}
    trained = next((name for name, method in methods.items() if method.name in TRAINED), None)
    if trained is not None:
        raise HoldfastError(
            f"judges.{trained}: is trained by a run; give the folder of one that `holdfast judge train` wrote"
        )
    return {name: make_judge(method) for name, method in methods.items()}


def _labelled(files: Sequence[Path], schema: str, judges: dict[str, Judge]) -> comparing.Answers:
    from holdfast.commands import comparing
    from holdfast.data.columns import Source
    from holdfast.data.read import read

    if len(files) > 1:
        raise HoldfastError(f"{files[1]}: labelled answers are compared one file at a time, and without runs")
    if not judges:
        raise HoldfastError(f"{files[0]}: name at least one judge of these answers, for example `judges.form=refusal`")
    return comparing.labelled(read(Source(path=str(files[0]), format=schema)), judges, str(files[0]))


def _train(kind: str, preset: str | None, flips: dict[str, float], rest: dict[str, Any]) -> int:
    """Train from settings and write the folder; returns the exit code."""
    from holdfast.commands import display
    from holdfast.commands.training_progress import shown_fit
    from holdfast.experiment.grid import data_fingerprints
    from holdfast.files.required import require_model
    from holdfast.judge_training.fitting import train as train_judge
    from holdfast.judge_training.recipes import SANDBOX
    from holdfast.judge_training.saving import save_judge
    from holdfast.training.plan import Diverged

    settings, data = _settings(kind, preset, flips, rest["data"], rest["overrides"])
    fingerprints = data_fingerprints(data)
    splits = _splits(data)
    if settings.backbone != SANDBOX:
        require_model(settings.backbone, settings.revision)
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
    from holdfast.judge_training.recipes import Classifier, RewardModel
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
