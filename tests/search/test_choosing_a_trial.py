"""`holdfast choose` of a search: its trials, and another one than the best measured as the best was."""

import json

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands import jobs
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


def test_the_trials_of_a_search_are_shown_with_what_they_were_ranked_by(searched):
    folder, report = searched
    result = called(folder)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[0] for row in rows[1 : 1 + len(report["trials"])]] == [str(n) for n in range(len(report["trials"]))]
    assert "ranked on development prompts" in result.output


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


def test_what_a_search_does_not_have_yet_or_never_has_is_refused(searched, tmp_path):
    folder, report = searched
    assert "whose weights are deleted" in refused(folder, "--save", "0", "-o", tmp_path / "out")
    assert "whose weights are deleted" in refused(folder, "--chat", "0")
    last = len(report["trials"]) - 1
    assert f"there is no trial 99; there are 0 to {last}" in refused(folder, "--measure", "99")
    (folder / "search.json").write_text(json.dumps({**report, "best": None, "test": None}))
    assert "give the same `holdfast search` again to go on" in refused(folder)
