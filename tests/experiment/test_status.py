"""The file in which a running process says what it does."""

import contextlib
import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from holdfast import experiment
from holdfast.experiment import status as status_module
from holdfast.experiment import store
from holdfast.experiment.status import Status, lives, own_process, statuses
from holdfast.experiment.time_left import TimeLeft


class Piece(NamedTuple):
    key: str
    kind: str = "cell"
    title: str = "none x sft, seed 0"


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(status_module.time, "time", lambda: now[0])
    return now


def follow(run, pieces, said=None):
    """A status of a run of these pieces."""
    heard = [] if said is None else said

    def news(piece, state, details):
        heard.append((piece.key, state, dict(details)))

    status = Status(run=run, grid="small", pieces=pieces, names={pieces[0].key: "the first"}, news=news)
    left = TimeLeft(news=news, pieces=pieces, kinds=lambda piece: (piece.kind,), workers=1)
    return status, left


def test_it_says_what_runs_what_is_to_do_and_how_long_a_step_takes(clock, tmp_path):
    status, left = follow(tmp_path, [Piece("a"), Piece("b")])
    with status:
        status.begin([Piece("a"), Piece("b")], left)
        status(Piece("a"), "started", {})
        for step in (1, 2, 3):
            clock[0] += 5
            status(Piece("a"), "progress", {"step": step, "max_steps": 9, "harmfulness": 0.25})
        status(Piece("a"), "progress", {"note": "a warning"})
        clock[0] += 1
        status.tick()
        (told,) = statuses(tmp_path)
    assert told["names"] == {"a": "the first", "b": "none x sft, seed 0"}
    assert told["to_do"] == ["a", "b"]
    assert told["notes"] == ["a warning"]
    running = told["running"]["a"]
    assert (running["step"], running["max_steps"], running["harmfulness"]) == (3, 9, 0.25)
    assert (running["at"] - running["first_at"]) / (running["step"] - running["first_step"]) == 5
    assert told["checking"] is False
    assert told["ended"] is None


def test_all_news_is_passed_on(clock, tmp_path):
    said = []
    status, left = follow(tmp_path, [Piece("a")], said)
    with status:
        status(Piece("looking", "check"), "looking", {})
        assert statuses(tmp_path)[0]["checking"] is True
        status.begin([Piece("a")], left)
        status(Piece("a"), "started", {})
        status(Piece("a"), "failed", {"reason": "no memory"})
    assert [(key, state) for key, state, _ in said] == [("looking", "looking"), ("a", "started"), ("a", "failed")]
    assert said[-1][2]["reason"] == "no memory"


def test_it_is_written_once_a_second_and_without_news_every_ten(clock, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(status_module, "write_text", lambda path, text: written.append(clock[0]))
    status, left = follow(tmp_path, [Piece("a")])
    with status:
        status.begin([Piece("a")], left)
        assert written == []  # what takes less than a second leaves no file
        for step in range(1, 41):
            clock[0] += 0.1
            status(Piece("a"), "progress", {"step": step, "max_steps": 99})
        assert len(written) in (3, 4)
        before = len(written)
        for _ in range(400):
            clock[0] += 0.1
            status.tick()
        assert len(written) - before in (3, 4)


def test_a_process_that_ends_leaves_nothing_and_an_interrupted_one_says_so(clock, tmp_path):
    status, left = follow(tmp_path, [Piece("a")])
    with status:
        clock[0] += 2
        status.begin([Piece("a")], left)
        assert len(statuses(tmp_path)) == 1
    assert not (tmp_path / "status").exists()
    status, left = follow(tmp_path, [Piece("a")])
    with contextlib.suppress(KeyboardInterrupt), status:
        clock[0] += 2
        status.begin([Piece("a")], left)
        raise KeyboardInterrupt
    assert statuses(tmp_path)[0]["ended"] == "interrupted"


def test_a_place_that_cannot_be_written_to_stops_nothing(clock, tmp_path):
    (tmp_path / "status").write_text("a file where the folder would be")
    status, left = follow(tmp_path, [Piece("a")])
    with status:
        clock[0] += 2
        status.begin([Piece("a")], left)
    gone, left = follow(tmp_path / "removed", [Piece("a")])
    with gone:
        clock[0] += 2
        gone.begin([Piece("a")], left)
    assert not (tmp_path / "removed").exists()


def test_a_killed_process_is_told_from_a_living_one_and_from_one_on_another_machine():
    own = own_process()
    assert lives(own) is True
    assert lives({**own, "started": own["started"] - 60}) is False  # its number was used again
    assert lives({**own, "host": "elsewhere"}) is None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert lives({**own, "pid": ended.pid}) is False
    assert lives({"host": own["host"]}) is False


def test_the_next_run_clears_what_killed_ones_left(clock, tmp_path):
    (tmp_path / "status").mkdir()
    for name, changed in {"killed": {"started": 1.0}, "other": {"host": "elsewhere"}}.items():
        (tmp_path / "status" / f"{name}.json").write_text(json.dumps({**own_process(), **changed}))
    (tmp_path / "status" / "half.json").write_text('{"host": ')
    status, left = follow(tmp_path, [Piece("a")])
    with status:
        clock[0] += 2
        status.begin([Piece("a")], left)
        assert {told["path"].stem for told in statuses(tmp_path)} == {"other", status._path.stem}


@pytest.mark.slow
def test_a_run_that_says_what_it_does_has_the_results_of_one_that_does_not(
    finished, grid, result, tmp_path, monkeypatch
):
    told, write, (folder, before) = [], status_module.write_text, finished
    monkeypatch.setattr(status_module, "CHANGED", 0.0)
    monkeypatch.setattr(
        status_module, "write_text", lambda path, text: told.append(json.loads(text)) or write(path, text)
    )
    (record,) = experiment.run(grid(), tmp_path, workers=0)
    assert result(store.cell_folder(tmp_path, record.key)) == result(store.cell_folder(folder, before.key))
    assert any(one["running"].get(record.key, {}).get("step") == 4 for one in told)
    assert all(one["names"] == {record.key: "none x sft, seed 0"} for one in told)
    assert not (tmp_path / "status").exists()
