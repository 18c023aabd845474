"""`holdfast choose` of a search: its trials, and another one than the best measured as the best was."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands import display, jobs
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.grid import cells as expanded
from holdfast.records import HoldfastError
from invented_gates import written

pytest.importorskip("optuna")


@pytest.fixture
def searched(run, cells, tmp_path):
    """The folder of a search of made-up cells, with their records, and its report."""
    made = cells()
    report = run(made, folder=tmp_path / "search", trials=4, test_seeds=[7, 8], values={"name": "made-up"})
    records = list(made.records.values())
    for part, split in (("trials", "development"), ("test", "test")):
        of_part = [record for record in records if settings_of(record.cell).evaluation.split == split]
        written(of_part, tmp_path / "search" / part)
    return tmp_path / "search", report


def called(*words):
    return CliRunner().invoke(app, ["choose", *map(str, words)])


def refused(*words):
    result = called(*words)
    assert isinstance(result.exception, HoldfastError), result.output
    return str(result.exception)


@pytest.mark.slow
def test_the_trials_of_a_search_are_shown_with_what_they_were_ranked_by(searched):
    folder, report = searched
    result = called(folder)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    first = next(at for at, row in enumerate(rows) if row[0] == "0")
    shown = rows[first : first + len(report["trials"])]
    assert [row[0] for row in shown] == [str(n) for n in range(len(report["trials"]))]
    assert "ranked on development prompts" in result.output


def kept_otherwise(folder, key, *, kl=None, **changes):
    """The record of a trial with its last scores and some settings of its evaluation changed."""
    place = folder / "trials" / "cells" / key / "record.json"
    record = json.loads(place.read_text())
    last = record["evaluations"][-1]["scores"]
    last[1]["value"] = 0.25
    last.extend([{**last[1], "name": "kl", "value": kl}] * (kl is not None))
    record["cell"]["evaluation"].update(changes)
    place.write_text(json.dumps(record))


@pytest.fixture
def shown_of(monkeypatch):
    """The names of the table's columns, the row of the second trial, and what is printed."""
    monkeypatch.setattr(display.console, "_width", 200)

    def shown(folder):
        result = called(folder)
        assert result.exit_code == 0, result.output
        heads, *rows = result.output.splitlines()
        return heads.split("  "), rows[1].split(), result.output

    return shown


@pytest.mark.slow
def test_a_trial_is_shown_with_the_help_that_it_left(searched, shown_of):
    folder, report = searched
    kept_otherwise(folder, report["trials"][1]["key"])
    heads, row, output = shown_of(folder)
    assert "help after" in heads
    assert "KL after" not in heads
    assert row[4] == "0.25"
    assert "KL to the start was not measured: evaluation.kl_to_start=true" in output


@pytest.mark.slow
def test_a_trial_whose_record_is_gone_is_shown_by_what_it_was_ranked_by(searched, shown_of):
    folder, report = searched
    trial = report["trials"][1]
    shutil.rmtree(folder / "trials" / "cells" / trial["key"])
    _, row, _ = shown_of(folder)
    ranked_by = [f"{trial['params']['optim.learning_rate']:.3g}", trial["state"], f"{trial['peak']:.2f}"]
    assert row[:5] == ["1", *ranked_by, "-"]
    shutil.rmtree(folder / "trials")
    assert "was not measured" not in shown_of(folder)[2], "which nothing tells any more"


@pytest.mark.slow
def test_kl_of_a_search_that_measured_it_is_shown_with_the_trials(searched, shown_of):
    folder, report = searched
    kept_otherwise(folder, report["trials"][1]["key"], kl=3.5, kl_to_start=True)
    heads, row, output = shown_of(folder)
    assert "KL after" in heads
    assert row[4:6] == ["0.25", "3.50"]
    assert "was not measured" not in output


@pytest.mark.slow
def test_another_trial_is_measured_as_the_best_was(searched, monkeypatch):
    folder, report = searched
    asked = {}
    monkeypatch.setattr(jobs, "_run", lambda grid, runs, **_: asked.update(grid=grid, runs=runs) or 0)
    other = next(trial for trial in report["trials"] if trial["number"] != report["best"]["trial"])
    result = called(folder, "--measure", other["number"])
    assert result.exit_code == 0, result.output
    made = expanded(asked["grid"])
    rate = other["params"]["optim.learning_rate"]
    assert {cell.attack.settings["optim"]["learning_rate"] for cell in made} == {rate}
    assert sorted(cell.seed for cell in made) == [7, 8]
    assert {settings_of(cell).evaluation.split for cell in made} == {"test"}
    assert {settings_of(cell).evaluation.harm_judges for cell in made} == {("oracle",)}
    assert asked["runs"] == folder / f"measured-{other['number']}"
    assert "still optimistic" not in result.output, "it was ranked on development prompts"
    assert called(folder, "--measure", report["best"]["trial"]).exit_code == 0
    assert {cell.key for cell in expanded(asked["grid"])} == {row["key"] for row in report["test"]["seeds"]}


@pytest.mark.slow
def test_what_a_search_does_not_have_yet_or_never_has_is_refused(searched, tmp_path):
    folder, report = searched
    assert "whose weights are deleted" in refused(folder, "--save", "0", "-o", tmp_path / "out")
    assert "whose weights are deleted" in refused(folder, "--chat", "0")
    last = len(report["trials"]) - 1
    assert f"there is no trial 99; they are numbered 0 to {last}" in refused(folder, "--measure", "99")
    (folder / "search.json").write_text(json.dumps({**report, "best": None, "test": None}))
    assert "run the same `holdfast search` again to continue it" in refused(folder)
