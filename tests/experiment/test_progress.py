"""What an attack's evaluations leave on disk, measured by a stand-in."""

import json
from types import SimpleNamespace

import pytest

from holdfast.evaluation.measurement import Measurement
from holdfast.experiment import progress
from holdfast.experiment.progress import ProgressRecorder
from holdfast.records import Score
from holdfast.training.plan import Progress


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """A recorder whose evaluations find the harm that its list `harms` says next."""
    harms, told = [], []
    monkeypatch.setattr(progress, "evaluate", lambda *_: ((Score(name="harmfulness", value=harms.pop(0), n=4),), []))
    monkeypatch.setattr(progress, "hacking", lambda *_, **__: ())
    monkeypatch.setattr(progress, "diversity", lambda *_: (Score(name="entropy", value=1.5, n=4),))
    suite = SimpleNamespace(group_size=2, harmful=[], harm_bound=0.5)
    made = ProgressRecorder(folder=tmp_path, suite=suite, settings=Measurement(every=2), report=told.append)
    return SimpleNamespace(made=made, harms=harms, told=told)


def saved(recorder):
    """Harm by the name of the file that it is saved in."""
    files = sorted((recorder.made.folder / "evaluations").glob("step-*.json"))
    return {path.stem: json.loads(path.read_text())["evaluation"]["scores"][0]["value"] for path in files}


def step(phase, number, **more):
    return Progress(phase=phase, step=number, max_steps=4, model=None, **more)


def test_weights_that_an_early_stop_restores_are_measured_in_place_of_those_of_the_last_step(recorder):
    recorder.harms += [0.0, 0.9, 0.2]
    recorder.made(step("start", 0))
    recorder.made(step("step", 2))
    recorder.made(step("end", 2, stopped=True))
    assert saved(recorder) == {"step-00000000": 0.0, "step-00000002": 0.2}
    assert [one.value("harmfulness") for one in recorder.made.evaluations] == [0.0, 0.2]
    assert [path.exists() for path in recorder.made.files] == [True, True]


def test_a_run_that_this_recorder_stopped_itself_keeps_its_last_evaluation(recorder):
    recorder.harms += [0.0, 0.9]
    recorder.made.settings = Measurement(every=2, stop_when_broken=True)
    assert not recorder.made(step("start", 0))
    assert recorder.made(step("step", 2))
    recorder.made(step("end", 2, stopped=True))
    assert saved(recorder) == {"step-00000000": 0.0, "step-00000002": 0.9}


def test_the_diversity_of_answers_is_measured_before_the_attack_alone(recorder):
    recorder.harms += [0.0, 0.1]
    recorder.made(step("start", 0))
    recorder.made(step("end", 4))
    assert [one.value("entropy") for one in recorder.made.evaluations] == [1.5, None]


def test_a_piece_of_work_is_kept_unless_it_is_damaged(recorder, caplog):
    made = []

    def make():
        made.append(1)
        return {"answer": len(made)}

    assert [recorder.made.keep(0, 3, make) for _ in range(2)] == [{"answer": 1}] * 2
    piece = recorder.made.folder / "evaluations" / "piece-00000000.json"
    piece.write_text('{"answer": ')
    assert recorder.made.keep(0, 3, make) == {"answer": 2}
    assert "piece-00000000.json: is damaged" in caplog.text
    assert piece.with_name(".damaged-piece-00000000.json").read_text() == '{"answer": '
    assert recorder.told == [{"step": 1, "max_steps": 3, "harmfulness": None}] * 3


@pytest.mark.parametrize("completions", ["3", "[3]", "null"])
def test_an_evaluation_whose_answers_are_no_rows_cannot_be_resumed_from(recorder, completions, caplog):
    recorder.harms.append(0.25)
    recorder.made(step("start", 0))
    assert recorder.made.whole()
    file = recorder.made.folder / "evaluations" / "step-00000000.json"
    file.write_text(file.read_text().replace('"completions": []', f'"completions": {completions}'))
    assert not recorder.made.whole()
    assert not file.exists()
    assert "step-00000000.json: is damaged (completions are not rows)" in caplog.text
