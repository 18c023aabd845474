"""Judges that a run trains before it needs them: which ones a cell calls, their folders, and their data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.experiment import store
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.unchanged import refuse_changed
from holdfast.judges import TRAINED
from holdfast.methods.tables import judge_names
from holdfast.records import Cell, HoldfastError, Method, digest, unlabelled

if TYPE_CHECKING:
    from holdfast.judge_training.fitting import Trained
    from holdfast.judge_training.recipes import Classifier, RewardModel
    from holdfast.records import Judge
    from holdfast.training.plan import Fit


def trained_judges(cell: Cell, names: Iterable[str] | None = None) -> dict[str, Method]:
    """The judges among `names` (by default all that the cell calls) that have to be trained, by their keys."""
    called = cell.judges if names is None else names
    wanted = [cell.judges[name] for name in called if cell.judges[name].name in TRAINED]
    return {judge_key(judge, cell): judge for judge in wanted}


def judge_key(judge: Method, cell: Cell) -> str:
    """Hash of everything that a trained judge depends on: its settings and the cell's data, not its seed or model."""
    return digest(unlabelled({"judge": asdict(judge), "data": cell.data}))


def refuse_foreign_data(cell: Cell) -> None:
    """Refuse a trained judge that was trained on rows of another party, or that cannot read the data.

    Raises:
        HoldfastError: an attacker's reward is a judge of another split than `attack`, a defense calls one of another
            split than `defense`, or the sandbox's small network would have to read the user's own data.
    """
    sides = {
        "attack": [*filter(None, [cell.attack]), *cell.adaptive],
        "defense": [*cell.stages, *cell.constraints],
    }
    for side, methods in sides.items():
        for name in {name for method in methods for name in judge_names(method.settings)}:
            judge = cell.judges[name]
            if judge.name in TRAINED and (split := judge_settings(judge).split) != side:
                raise HoldfastError(
                    f"judge {name!r} is trained on the {split} split and called from the {side} "
                    f"side: set its `split` to {side}"
                )
    for judge in trained_judges(cell).values():
        if judge_settings(judge).backbone == "sandbox" and settings_of(cell).data.harmful is not None:
            raise HoldfastError(
                f"{judge.title}: the backbone `sandbox` only reads the sandbox's language, and the data is your own; "
                "name a pretrained model by folder or id"
            )


def trained_judge(judge: Method, cell: Cell, run: Path) -> Judge:
    """The judge trained on the cell's data by the run in folder `run`."""
    folder = store.judge_folder(run, judge_key(judge, cell)) / "model"
    return judge_settings(judge).judge_in(folder)


def train_judge(judge: Method, cell: Cell, folder: Path, fit: Fit) -> Trained:
    """Train a judge on its own split of the cell's data, and save it with its scores and card."""
    from holdfast.experiment.methods import at_commit
    from holdfast.judge_training.fitting import train
    from holdfast.judge_training.saving import save_judge

    settings = settings_of(cell)
    splits = load_splits(settings.data_at_commit)
    refuse_changed(cell, model=False)
    trained = train(judge_settings(at_commit(judge)), splits, fit)
    store.discard(folder / "model")
    save_judge(trained, folder / "model", settings.data, settings.data_fingerprints)
    return trained


def judge_settings(judge: Method) -> RewardModel | Classifier:
    """A trained judge's settings."""
    from holdfast.experiment.methods import configured

    return configured(judge, "judge")
