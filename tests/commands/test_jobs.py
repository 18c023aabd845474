"""What the jobs behind the commands refuse, say and leave behind; the runs themselves are invented."""

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.commands import jobs
from holdfast.config import parse_grid
from holdfast.experiment import cache_folder, store
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import stage_key, tasks_of
from holdfast.records import Evaluation, HoldfastError, Outcome, Record
from invented_gates import failed, score

RUN = "runs/own"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The folder in which commands are given, with a cache of its own."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """`ran(change)`: grids are not run; a cell's record is this change of one that was measured and is harmless."""

    def ended(change=lambda record: record):
        def records(grid, runs, **_):
            return [change(harmless(cell)) for cell in cells(grid)]

        monkeypatch.setattr(jobs, "_records", records)

    return ended


def harmless(cell, helpful=0.9):
    scores = (score("harmfulness", 0.0), score("helpfulness", helpful))
    return Record(key=cell.key, cell=cell, outcome=Outcome.UNTESTED, evaluations=(Evaluation(step=0, scores=scores),))


def called(*words):
    return CliRunner().invoke(app, list(words))


def refused(*words):
    result = called(*words)
    assert isinstance(result.exception, HoldfastError), result.output
    return str(result.exception)


def model_of(stage):
    """A model in the folder of a stage, as a run keeps it."""
    (stage / "model").mkdir(parents=True)
    (stage / "model" / "config.json").write_text("{}")
    (stage / "record.json").write_text('{"seconds": 61.0}')


@pytest.fixture
def hardened():
    """The run's own copy of what `holdfast harden repnoise` hardens, with the sandbox's settings."""
    grid = jobs.grid_of({"name": "harden", "models": ["sandbox"], "defenses": ["none", "repnoise"]}, [])
    _, cell = cells(grid)
    model_of(store.stage_folder(jobs.Path(RUN), stage_key(cell, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["repnoise", "seeds=[0,1]"], "seeds: hardening writes one model, so give one seed, not 2"),
        (["repnoise", "attacks=[sft]"], "attacks: hardening does not attack; attack the folder that it writes"),
        (["none"], "only an offline defense hardens a model"),
        (["refusal_loss", "misfits=skip"], "only an offline defense hardens a model"),
        (["repnoise", "defenses=[none]"], "only an offline defense hardens a model"),
        (["repnoise", "defenses=[repnoise]"], "defenses: hardening writes one model and measures it before and after"),
        (["repnoise", "defenses=[none,rmu,repnoise]"], "give `none` first, then one defense or stack"),
        (["repnoise", "defenses=[rmu,none]"], "give `none` first, then one defense or stack"),
        (["repnoise", "--dtype", "bfloat16"], "--dtype: the sandbox's models are float32; give a folder with --model"),
    ],
)
def test_what_does_not_harden_one_model_is_refused_before_anything_runs(place, words, says):
    assert says in refused("harden", *words, "-o", "out")
    assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("hardened")
def test_a_hardening_that_failed_says_why_and_writes_nothing(ran, place):
    ran(lambda record: failed(record) if record.cell.stages else record)
    result = called("harden", "repnoise", "-o", "out", "--runs", RUN)
    assert (result.exit_code, result.stderr) == (1, "error: out of memory\n")
    assert not (place / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("hardened")
def test_a_hardened_model_that_helps_nobody_is_written_and_called_useless(ran, place):
    ran(lambda record: harmless(record.cell, helpful=0.1) if record.cell.stages else record)
    result = called("harden", "repnoise", "-o", "out", "--runs", RUN)
    assert result.exit_code == 0, result.output
    assert "useless: the model is of no use: helpfulness 0.10 of 0.90" in result.output
    assert {path.name for path in (place / "out").iterdir()} == {"config.json", "README.md", "holdfast.yaml"}
    assert "This model is useless" in (place / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "key"),
    [("defenses=[none,repnoise]", "defenses"), ("attacks=[sft]", "attacks"), ("seeds=[0,1]", "seeds")],
)
def test_evaluate_refuses_more_than_one_model_as_it_is(override, key):
    assert refused("evaluate", override).startswith(f"{key}: evaluate measures one model with one seed; write a grid")


def test_an_evaluation_that_failed_says_why(ran):
    ran(failed)
    result = called("evaluate")
    assert (result.exit_code, result.stderr) == (1, "error: out of memory\n")


@pytest.fixture
def built():
    """The sandbox's models in the cache."""
    both = [{"sandbox": {"part": part}} for part in ("base", "aligned")]
    grid = jobs.grid_of({"name": "sandbox", "models": both, "attacks": ["none"]}, [])
    for piece in tasks_of(cells(grid), jobs.Path("runs/sandbox").absolute(), cache_folder()):
        if piece.kind in ("base", "aligned"):
            model_of(piece.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("built")
def test_the_sandboxs_models_are_copied_where_they_are_asked_for_and_again(ran, place):
    ran()
    for _ in range(2):
        result = called("sandbox", "build", "--out", "models")
        assert result.exit_code == 0, result.output
        assert "(trained in 61 s)" in result.output
    assert {path.name for path in (place / "models").iterdir()} == {"base", "aligned"}
    assert (place / "models" / "base" / "config.json").exists()


@pytest.mark.slow
def test_a_sandbox_that_failed_says_why_and_copies_nothing(ran, place):
    ran(failed)
    result = called("sandbox", "build", "--out", "models")
    assert result.exit_code == 1
    assert "error: out of memory" in result.stderr
    assert not (place / "models").exists()


GRID = {"model": "sandbox", "defenses": ["refusal_loss"], "attacks": ["sft"]}


def test_controls_that_a_grid_leaves_out_are_counted(capsys):
    for more, said in (({}, "1 control omitted"), ({"seeds": [0, 1]}, "2 controls omitted")):
        jobs.announce(parse_grid({**GRID, **more, "control": False}, "grid.yaml"))
        assert f"{said} (`control: false`): cells that do not break are untested" in capsys.readouterr().out


def test_a_page_that_shows_the_records_already_is_not_written_again(monkeypatch, capsys, place):
    from holdfast import report

    monkeypatch.setattr(report, "write_report", lambda runs, out, title: out)
    for up_to_date, said in ((True, "report.html is up to date"), (False, "wrote report.html")):
        monkeypatch.setattr(report, "is_of", lambda runs, out, title, known=up_to_date: known)
        jobs._report(place, jobs.Path("report.html"), title="x")
        assert capsys.readouterr().out == f"{said}\n"
