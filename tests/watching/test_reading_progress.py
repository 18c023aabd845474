"""What a run's own files say of its progress."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast import watching
from holdfast.experiment import record_text
from holdfast.experiment.record_text import parse_record
from holdfast.records import Method, Outcome
from holdfast.watching import reading
from holdfast.watching.reading import Piece, Reader
from holdfast.watching.wording import clock, doing, headline, sparkline, tally, time_left


def read(run):
    return Reader(runs=[run.folder]).read()


def test_a_run_that_has_not_begun_is_waited_for(invented, tmp_path):
    progress = read(invented)
    assert progress.phase == "absent"
    assert "no such folder yet; waiting" in headline(progress)
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "grid.json").write_text("{}")
    assert str(tmp_path / "runs" / "other") in headline(read(invented))  # the name may be misspelt
    invented.folder.mkdir()
    assert read(invented).phase == "waiting"


def test_cells_are_done_running_failed_or_to_go(invented):
    invented.begin().finish(0).fail(1).measure(2, 0.0, 0.2, 0.4).work(2, seconds_left=200.0, at_least=True)
    progress = read(invented)
    assert [cell.state for cell in progress.cells] == ["ended", "failed", "running", "open"]
    assert tally(progress) == "1 of 4 cells done, 1 failed, 1 running, 1 to go"
    assert headline(progress) == "unfinished: running for 1 min 35 s; at least 3 min left"
    running = progress.cells[2]
    assert (running.step, running.max_steps, running.harms) == (7, 20, (0.0, 0.2, 0.4))
    assert running.pace == pytest.approx(4.0)  # six steps in 24 seconds
    assert running.name == "rmu x grpo, seed 0"


def test_a_run_whose_requirements_are_checked_says_so(invented):
    invented.begin().work(checking=True)
    assert headline(read(invented)) == "unfinished: models, rows and judges are being checked before the first cell"


def test_a_folder_without_cells_is_waited_for_by_name(invented):
    invented.folder.mkdir(parents=True)
    assert headline(read(invented)) == f"{invented.folder}: no run has begun here yet; waiting"


@pytest.mark.parametrize(
    ("seconds", "at_least", "told"),
    [
        (59.0, False, "under a minute left"),
        (59.0, True, "time left unknown yet"),
        (90.0, True, "at least 2 min left"),
        (3600.0, False, "about 1 h 0 min left"),
    ],
)
def test_time_left_is_told_in_minutes_and_no_bound_is_called_a_minute(invented, seconds, at_least, told):
    progress = read(invented.begin().work(0))
    assert time_left(replace(progress, seconds_left=seconds, at_least=at_least)) == told


def test_a_piece_of_work_without_steps_says_for_how_long_it_goes_on():
    piece = Piece(key="k", name="a judge", state="running", since=100.0, harms=(0.1, 0.25))
    assert doing(piece, 190.0) == "for 1 min 30 s, harm 0.25"
    assert doing(replace(piece, since=None, harms=()), 190.0) == ""


def test_a_time_of_another_day_has_its_date_and_an_unknown_one_says_so():
    now = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
    assert clock(now - 60, now) == "11:59:00"
    assert clock(now - 86400, now) == "2026-03-03 12:00:00"
    assert clock(None, now) == "an unknown time"


def test_a_name_that_no_folder_can_have_is_a_folder_that_is_not_there():
    progress = Reader(runs=[Path("x" * 300, "run")]).read()
    assert progress.phase == "absent"
    assert "no such folder yet" in headline(progress)


@pytest.mark.parametrize("content", ["{", "[]", '"grid"', "null"])
def test_a_damaged_list_of_cells_is_told(invented, content):
    invented.begin().finish(0)
    (invented.folder / "grid.json").write_text(content)
    (told,) = read(invented).trouble
    assert told.startswith(f"{invented.folder / 'grid.json'}: cannot be read (")


def test_a_record_that_vanishes_while_it_is_read_is_none_yet(invented, monkeypatch):
    monkeypatch.setattr(reading, "_stamp", lambda path: (1, 1))  # there when it was looked for
    progress = read(invented.begin())
    assert [cell.state for cell in progress.cells] == ["open"] * 4
    assert progress.trouble == ()


def test_a_process_that_does_not_say_when_it_began_runs_for_an_unknown_time(invented):
    told = headline(read(invented.begin().work(0, began=None)))
    assert told == "unfinished: running; time left unknown until the first piece of work is done"


def test_a_failed_cell_that_is_tried_again_is_to_go(invented):
    invented.begin().fail(0).work(1, to_do=invented.keys)
    assert [cell.state for cell in read(invented).cells] == ["open", "running", "open", "open"]


def test_models_that_are_made_first_are_told_beside_the_cells(invented):
    made = {"kind": "stage", "title": "harden: rmu, seed 0", "started": time.time(), "step": 3, "max_steps": 9}
    invented.begin().work(running={"a model": made})
    progress = read(invented)
    assert [piece.name for piece in progress.making] == ["harden: rmu, seed 0"]
    assert "a model" not in [cell.key for cell in progress.cells]


def test_a_killed_run_says_since_when_no_process_writes(invented):
    invented.begin().finish(0).work(1, pid=2**22 + 1)
    progress = read(invented)
    assert progress.phase == "stopped"
    assert headline(progress).startswith("unfinished: no process is writing since ")
    assert [cell.state for cell in progress.cells] == ["ended", "open", "open", "open"]
    invented.work(1, ended="interrupted")
    assert "interrupted" in headline(read(invented))


def test_a_process_on_another_machine_is_alive_while_it_writes(invented):
    invented.begin().work(1, host="elsewhere")
    assert read(invented).phase == "running"
    invented.work(1, host="elsewhere", updated=time.time() - 300)
    assert read(invented).phase == "stopped"


def test_a_run_has_finished_only_if_every_cell_has_a_record_and_no_process_works(invented):
    invented.begin().finish(0).finish(1).finish(2)
    assert read(invented).phase == "stopped"
    invented.finish(3).work()
    assert read(invented).phase == "running"
    progress = read(invented.end())
    assert progress.phase == "finished"
    assert (headline(progress), watching.exit_code(progress)) == ("finished: 4 cells", 0)
    failed = read(invented.fail(3))
    assert headline(failed) == "finished: 4 cells, of which 1 failed"
    assert watching.exit_code(failed) == 1
    assert watching.exit_code(read(invented.work(3))) == 0  # not over


def test_a_cell_is_not_called_held_before_its_control_has_broken(invented):
    invented.begin().finish(2, harms=(0.0, 0.1, 0.1), outcome=Outcome.HELD, reason="never above").work(0)
    assert read(invented).cells[2].outcome == "untested"
    invented.fail(0)
    assert read(invented).cells[2].outcome == "untested"


@pytest.mark.parametrize("half", ["", '{"key": "a", "cell"', "[]", '{"key": 3}', "\\x00"])
def test_a_half_written_record_is_named_and_its_cell_not_done(invented, half):
    invented.begin().finish(0).finish(1).finish(2).finish(3)
    place = invented.folder / "cells" / invented.keys[3] / "record.json"
    place.write_text(half)
    progress = read(invented)
    assert progress.phase == "stopped"
    assert str(place) in progress.trouble[0]


def test_a_record_with_odd_values_is_named_and_stops_nothing(invented):
    odd = replace(invented.cells[0], attack=Method(name="best_of_n", settings={"numbers": 3}))
    invented.cells[0] = odd
    invented.begin().finish(0).finish(1)
    progress = read(invented)
    (told,) = progress.trouble
    place = invented.folder / "cells" / odd.key / "record.json"
    assert told.startswith(f"{place}: cannot be computed (TypeError(")
    assert [cell.outcome for cell in progress.cells] == ["", "broke", "", ""]


@pytest.mark.parametrize(
    "odd", ["{", "[]", "{}", '{"running": [1], "to_do": 3, "names": "x", "pid": "y", "updated": "z", "notes": {}}']
)
def test_an_odd_status_file_stops_nothing(invented, odd):
    invented.begin().finish(0).work(1)
    (invented.folder / "status" / "own.json").write_text(odd)
    assert read(invented).phase == "stopped"
    invented.work(1, running={"k": {"step": "x", "first_step": None, "started": None, "max_steps": []}, "l": 3})
    assert read(invented).phase == "running"


@pytest.mark.parametrize("odd", [float("inf"), float("nan"), 10**400, "x"], ids=["inf", "nan", "large", "text"])
def test_a_number_that_is_none_in_a_file_of_a_run_stops_nothing(invented, odd):
    invented.begin().finish(0).measure(2, 0.1, odd).work(2, seconds_left=odd, updated=odd)
    progress = read(invented)
    assert progress.having("running")[0].harms == (0.1,)
    assert headline(progress).endswith("time left unknown until the first piece of work is done")
    invented.work(2, pid=odd)
    assert read(invented).phase == "stopped"


def test_folders_that_vanish_are_waited_for_again(invented):
    reader = Reader(runs=[invented.begin().finish(0).finish(1).folder])
    assert len(reader.read().cells) == 4
    shutil.rmtree(invented.folder / "cells" / invented.keys[0])
    assert [cell.state for cell in reader.read().cells] == ["open", "ended", "open", "open"]
    shutil.rmtree(invented.folder)
    assert reader.read().phase == "absent"


def test_records_are_read_once_and_again_when_they_change(invented, monkeypatch):
    reader, parsed = Reader(runs=[invented.begin().finish(0).folder]), []
    monkeypatch.setattr(record_text, "parse_record", lambda text: parsed.append(text) or parse_record(text))
    before = reader.read()
    assert reader.read().stamp == before.stamp
    assert len(parsed) == 1
    invented.finish(0, reason="judged again, given its control")
    assert reader.read().stamp != before.stamp
    assert len(parsed) == 2


def test_several_runs_are_over_when_all_are(invented, tmp_path):
    for number in range(4):
        invented.begin().finish(number)
    other = type(invented)(tmp_path / "runs" / "other")
    other.cells = [replace(invented.cells[0], model={"name": "another"})]
    reader = Reader(runs=[invented.folder, other.folder])
    assert reader.read().phase == "absent"
    other.begin()
    assert reader.read().phase == "stopped"
    other.finish(0)
    assert reader.read().phase == "finished"
    assert len(reader.read().cells) == 5


def test_a_sparkline_goes_from_0_to_1_and_has_a_place_for_each_value():
    assert sparkline([0.0, 0.5, 1.0, 2.0, -1.0], 9) == "▁▅██▁"
    assert sparkline([0.0] * 50, 9) == "▁" * 9
