"""`holdfast choose`: who is in front, what the figures are worth, and the model of the one that is picked."""

import io
import json
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands import jobs, talking
from holdfast.commands.choose import choose
from holdfast.config import load_grid, parse_grid
from holdfast.evaluation.intervals import wilson
from holdfast.experiment import store
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.grid import cells
from holdfast.experiment.outcomes import settled_by_controls
from holdfast.experiment.tasks import stage_key
from holdfast.records import HoldfastError, Outcome
from holdfast.report.candidates import candidates
from invented_gates import BROKE, HELD, N, failed, run, runs, written

pytestmark = pytest.mark.slow
SOME = (0.0, 0.2, 0.3)
DEVELOPMENT = {"split": "development"}
STAGE = {"name": "x", "seconds": 60.0}


def called(*words):
    return CliRunner().invoke(app, ["choose", *map(str, words)])


def refused(*words):
    result = called(*words)
    assert isinstance(result.exception, HoldfastError), result.output
    return str(result.exception)


def costing(records, seconds):
    return [replace(record, stages=({**STAGE, "seconds": seconds},)) for record in records]


@pytest.fixture
def several():
    """None; one that holds at a price, one that is as good and dearer, a cheap one that is worse, and garbage."""
    good = [*costing(runs("tar", HELD, 3), 60), *costing(runs("rmu", HELD, 3), 90)]
    rest = [*costing(runs("repnoise", SOME, 3), 10), *costing(runs("vaccine_alignment", HELD, 3), 1)]
    settled = settled_by_controls([*runs(None, BROKE, 3), *good, *rest])
    return [replace(each, outcome=Outcome.COLLAPSED) if "vaccine" in each.cell.defense else each for each in settled]


@pytest.fixture
def real(tmp_path):
    """Runs of a grid's own cells, whose hardened model can be made again by the same key."""
    values = {"model": "sandbox", "defenses": ["none", {"repnoise": {"preset": "sandbox"}}], "attacks": ["sft"]}
    grid = parse_grid({**values, "seeds": [0, 1], "evaluation": {"max_new_tokens": 32, **DEVELOPMENT}}, "test")
    made = []
    for cell in cells(grid):
        like = run("repnoise" if cell.stages else None, HELD if cell.stages else BROKE, seed=cell.seed)
        made.append(replace(like, cell=cell, key=cell.key))
    return written(made, tmp_path / "real")


def kept(folder):
    """The hardened model of the first seed, as a run keeps it."""
    cell = next(cell for cell in records_of(folder) if cell.stages and cell.seed == 0)
    place = store.stage_folder(folder, stage_key(cell, 1))
    (place / "model").mkdir(parents=True)
    (place / "model" / "config.json").write_text("{}")
    (place / "record.json").write_text(json.dumps({"name": "repnoise", "seconds": 1.0}))
    return place / "model"


def records_of(folder):
    return [store.read_record(place).cell for place in sorted((folder / "cells").iterdir())]


def number_of(output, defense):
    return next(line.split()[0] for line in output.splitlines() if f" {defense} " in line)


def test_those_that_nobody_is_better_than_are_marked(several):
    by_defense = {each.defense: each for each in candidates(several)}
    assert {name for name, each in by_defense.items() if each.front} == {"none", "tar", "repnoise"}
    assert by_defense["tar"].harm.value == pytest.approx(0.0)
    assert by_defense["repnoise"].harm.value == pytest.approx(0.3)


def test_a_candidate_with_a_cell_that_shows_nothing_is_never_in_front(several):
    (garbled,) = [each for each in candidates(several) if each.defense == "vaccine_alignment"]
    assert (garbled.harm.value, garbled.cost, garbled.front) == (0.0, 1.0, False)


def test_harm_is_that_under_the_attack_that_got_most():
    records = [*runs(None, BROKE, 2), *runs("tar", HELD, 2), *runs("tar", SOME, 2, attack="dpo")]
    (tar,) = [each for each in candidates(records) if each.defense == "tar"]
    assert (tar.attack, tar.harm.value) == ("dpo", pytest.approx(0.3))


def test_a_candidate_that_fewer_attacks_were_tried_on_puts_none_behind():
    tried = [*runs("rmu", HELD, 2), *runs("rmu", SOME, 2, attack="dpo")]
    controls = [*runs(None, BROKE, 2), *runs(None, BROKE, 2, attack="dpo")]
    ranked = candidates(settled_by_controls([*controls, *runs("tar", HELD, 2), *tried]))
    assert next(each for each in ranked if each.defense == "rmu").front


def test_an_interval_is_not_of_no_width_because_seeds_agree(several):
    (tar,) = [each for each in candidates(several) if each.defense == "tar"]
    assert tar.harm.low == pytest.approx(0.0)
    assert tar.harm.high == pytest.approx(wilson(0.0, N)[1])


def test_an_honest_customer_is_no_attack():
    honest = runs("tar", BROKE, 2, settings={"task": "benign"})
    (tar,) = [each for each in candidates([*runs("tar", HELD, 2), *honest]) if each.defense == "tar"]
    assert tar.harm.value == pytest.approx(0.0)


def test_figures_of_test_prompts_are_called_optimistic(several, tmp_path):
    result = called(written(several, tmp_path / "run"))
    assert result.exit_code == 0
    assert "looks better than it is" in result.output
    assert "never marked: candidates with cells that show nothing" in result.output


def test_that_kl_was_not_measured_is_said_where_it_was_not(several, tmp_path):
    missing = "KL to the start was not measured: evaluation.kl_to_start=true"
    assert missing in called(written(several, tmp_path / "run")).output
    asked, curve = {"kl_to_start": True}, {"kl": (0.0, 0.15, 0.25)}
    measured = runs("tar", HELD, 2, measured=asked, scores=curve)
    output = called(written([*runs(None, BROKE, 2), *measured], tmp_path / "some")).output
    assert "KL" in output.splitlines()[0].split()
    assert "0.25" in next(line for line in output.splitlines() if " tar " in line)
    assert missing not in output
    nothing = [failed(record) for record in measured]
    assert missing not in called(written(nothing, tmp_path / "none")).output, "it was to be"


def test_development_prompts_lead_to_a_measurement_on_test_prompts(real):
    output = called(real).output
    assert "too good" not in output
    assert "measured on development prompts; report the one picked on test prompts: --measure N" in output


def test_the_hardened_model_is_copied_with_what_it_was_made_from(real, tmp_path):
    kept(real)
    number = number_of(called(real).output, "repnoise")
    result = called(real, "--save", number, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "README.md", "holdfast.yaml"}
    assert "picked among several" in (tmp_path / "out" / "README.md").read_text()
    assert "seed 0" in result.output


def test_weights_that_were_not_kept_are_made_by_the_command_that_is_named(real, tmp_path):
    number = number_of(called(real).output, "repnoise")
    message = refused(real, "--save", number, "-o", tmp_path / "out", "--seed", "1")
    file = real / f"candidate-{number}.yaml"
    assert f"`holdfast run {file} --runs {real}`" in message
    (cell,) = cells(load_grid(file))
    same = next(each for each in records_of(real) if each.stages and each.seed == 1)
    assert stage_key(cell, 1) == stage_key(same, 1)


def test_without_a_terminal_the_lines_for_transformers_are_printed(real):
    kept(real)
    output = called(real, "--chat", number_of(called(real).output, "repnoise")).output
    assert "pipeline('text-generation'" in output


def test_in_a_terminal_the_hardened_model_answers(real, monkeypatch, capsys, tiny_model):
    from holdfast.network.releasing import save

    (placeholder,) = kept(real).iterdir()
    placeholder.unlink()
    save(tiny_model(small=True), placeholder.parent)
    number = int(number_of(called(real).output, "repnoise"))
    typed = io.StringIO("how ?\n")
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(talking, "LONGEST", 4)
    choose([str(real)], chat=number)
    first, *_ = capsys.readouterr().out.partition("an empty line ends it\n")[2].splitlines()
    assert first.startswith("you: ")
    assert len(first.split()) > 1, "an answer"


def test_one_is_measured_on_test_prompts_with_new_seeds(real, monkeypatch):
    asked = {}
    monkeypatch.setattr(jobs, "_run", lambda grid, folder, **_: asked.update(grid=grid, folder=folder) or 0)
    number = number_of(called(real).output, "repnoise")
    result = called(real, "--measure", number, "evaluation.num_prompts=7")
    assert result.exit_code == 0, result.output
    made = cells(asked["grid"])
    assert {settings_of(cell).evaluation.split for cell in made} == {"test"}
    assert {settings_of(cell).evaluation.num_prompts for cell in made} == {7}
    assert {cell.seed for cell in made} == {2, 3}
    assert {cell.defense for cell in made} == {"none", "repnoise"}
    assert asked["folder"] == real / f"measured-{number}"
    assert "by which it was picked" not in result.output
    again = called(real, "--measure", number, "evaluation.split=development")
    assert "the development prompts by which it was picked: still optimistic" in again.output


def test_what_cannot_be_done_is_refused(several, tmp_path):
    folder = written([*several, *runs("lisa", HELD, 2, online=True)], tmp_path / "run")
    output = called(folder).output
    assert "acts during training" in refused(folder, "--save", number_of(output, "lisa"), "-o", tmp_path / "out")
    assert "is the undefended model itself" in refused(folder, "--chat", number_of(output, "none"))
    assert "there is no candidate 99; they are numbered 1 to 6" in refused(folder, "--chat", "99")
    assert "give one of them" in refused(folder, "--chat", "1", "--measure", "1")
    assert "-o FOLDER" in refused(folder, "--save", "1")
    assert "settings are for --measure" in refused(folder, "seeds=[1]")
    assert "no seed 9" in refused(folder, "--chat", number_of(output, "tar"), "--seed", "9")
    assert "no run folder was given" in refused("seeds=[1]", "--measure", "1")
    assert "-o: is the folder of --save" in refused(folder, "-o", tmp_path / "out")
    for more in ([], ["--measure", "1"]):
        assert "--seed: is for --save N or --chat N" in refused(folder, "--seed", "1", *more)


def test_a_folder_with_something_in_it_is_not_written_into(real, tmp_path):
    kept(real)
    (tmp_path / "mine").write_text("mine")
    number = number_of(called(real).output, "repnoise")
    for place in (tmp_path, tmp_path / "mine"):
        assert "exists and is not an empty folder" in refused(real, "--save", number, "-o", place)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_record_that_cannot_be_read_is_said_with_the_candidates(real):
    file = next((real / "cells").glob("*/record.json"))
    file.write_text("{")
    assert f"warning: {file}: not what `holdfast run` writes (Expecting" in called(real).output


def test_a_run_without_attacks_has_nothing_to_choose_by(tmp_path):
    folder = written(runs("tar", HELD, 2, attack=None), tmp_path / "run")
    assert "no cell has an attack" in refused(folder)


def test_a_defense_whose_cells_failed_has_no_figures_and_no_mark(tmp_path):
    broken = [failed(record) for record in runs("tar", HELD, 2)]
    output = called(written([*runs(None, BROKE, 2), *broken], tmp_path / "run")).output
    (row,) = [line.split() for line in output.splitlines() if " tar " in line]
    assert row[1:] == ["tar", "-", "sft", "-", "-", "2", "failed"]


def test_candidates_picked_by_test_prompts_stay_optimistic_when_they_are_measured_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "_run", lambda grid, folder, **_: asked.append(grid) or 3)
    folder = written([*runs(None, BROKE, 2), *runs("tar", HELD, 2)], tmp_path / "run")
    result = called(folder, "--measure", number_of(called(folder).output, "tar"))
    assert result.exit_code == 3, "as the run that it starts"
    assert "the test prompts by which it was picked: still optimistic" in result.output
    assert len(asked) == 1
    again = called(folder, "--measure", number_of(called(folder).output, "tar"), "evaluation.split=development")
    assert asked[1].evaluation.split == "development"
    assert "prompts by which it was picked" not in again.output
