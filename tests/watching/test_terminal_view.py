"""The full-screen view, and plain lines where there is no terminal."""

import io
import os
import pty
import sys
import termios
import threading
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from holdfast import watching
from holdfast.cli import app
from holdfast.commands import display
from holdfast.records import Outcome
from holdfast.watching import terminal
from holdfast.watching.lines import Lines
from holdfast.watching.reading import Reader

STEP_BACK = watching.step_back


@pytest.fixture(autouse=True)
def _own_niceness(monkeypatch):
    """The process of the tests stays as urgent as it is."""
    monkeypatch.setattr(watching, "step_back", lambda: None)


def picture(run, width=80, height=24):
    """The lines of the screen."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    progress = Reader(runs=[run.folder]).read()
    console.print(terminal.view(progress, width=width, height=height))
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10), (80, 14)])
def test_the_view_fits_the_screen(invented, width, height):
    invented.begin().finish(0).fail(1, reason="no memory " * 40).measure(2, *[0.1] * 90).work(2, seconds_left=90)
    lines = picture(invented, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "leaves" in lines[-1]


def test_the_view_says_what_runs_what_failed_and_why_and_how_cells_ended(invented):
    invented.begin().finish(0).fail(1, reason="no memory").measure(2, 0.0, 0.5, 1.0).work(2, seconds_left=600)
    text = "\n".join(picture(invented))
    for part in (
        "unfinished: running",
        "about 10 min left",
        "1 of 4 cells done, 1 failed",
        "step 7 of 20",
        "4 s a step",
    ):
        assert part in text
    for part in ("no memory", "broke", "▁▅█", "harm 1.00", "harm 0.90", "rmu x grpo, seed 1"):
        assert part in text


def test_cells_without_room_are_counted_and_trouble_never_hides_how_to_leave(invented):
    invented.begin().work(0, 1, 2, 3)
    lines = picture(invented, height=11)
    assert [line.strip() for line in lines if " more" in line] == ["and 3 more"]
    assert sum("seed" in line for line in lines) == 1
    invented.finish(0).work(1, notes=["a long note of the run " * 20])
    for number in (2, 3):
        (invented.folder / "cells" / invented.keys[number]).mkdir()
        (invented.folder / "cells" / invented.keys[number] / "record.json").write_text("{" * 90)
    lines = picture(invented, width=40, height=8)
    assert len(lines) == 8
    assert "q or Ctrl-C" in lines[-1]


def test_escapes_of_others_do_not_reach_the_terminal(invented):
    invented.begin().fail(0, reason="\x1b]0;title\x07\x1b[2J[red]no\n\rmemory").work(1, notes=["\x1b[31mnote"])
    text = "\n".join(picture(invented))
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "[red]no" in text


def test_a_terminal_without_block_characters_gets_plain_ones():
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert terminal.bars_of(console) == terminal.ASCII_BARS


def test_the_full_screen_ends_with_the_run(invented):
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    for number in range(4):
        invented.begin().finish(number)
    invented.work()
    threading.Timer(0.3, invented.end).start()
    assert watching.on_screen([invented.folder], console, every=0.05).over


def test_q_leaves(invented, monkeypatch):
    monkeypatch.setattr(terminal, "_no_key", lambda seconds: "q")
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    assert not watching.on_screen([invented.begin().folder], console, every=0.05).over


@pytest.fixture
def typed(monkeypatch):
    """The other end of a terminal that is this process's input."""
    keyboard, screen = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as keys, os.fdopen(screen, "rb", buffering=0) as own:
        monkeypatch.setattr(terminal.sys, "stdin", own)
        yield keys


def test_a_key_is_read_without_its_echo_which_comes_back_afterwards(typed):
    def echoes():
        return bool(termios.tcgetattr(sys.stdin.fileno())[3] & termios.ECHO)

    with terminal.keys() as pressed:
        assert not echoes()
        assert pressed(0.0) == ""
        typed.write(b"x")
        assert pressed(5.0) == "x"
    assert echoes()


def test_a_terminal_that_is_gone_is_left(typed, invented, monkeypatch):
    monkeypatch.setattr(terminal, "FRAME", 0.01)
    reader, looks = Reader(runs=[invented.begin().work(0).folder]), []

    def read():
        looks.append(1)
        if len(looks) == 2:
            typed.close()
        assert len(looks) < 9, "it goes on looking"
        return reader.read()

    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    assert not terminal.show(read, console, every=0.0, stay=False).over
    assert len(looks) >= 2


@pytest.mark.parametrize("key", ["", "q"])
def test_a_screen_that_cannot_be_written_to_any_more_is_left(invented, monkeypatch, key):
    class Gone(io.StringIO):
        def write(self, text):
            if pressed:
                raise OSError(5, "Input/output error")
            return super().write(text)

    def press(seconds):
        pressed.append(seconds)
        assert len(pressed) < 9, "it goes on looking"
        time.sleep(0.002)  # progress at another time is shown again
        return key

    pressed = []
    monkeypatch.setattr(terminal, "_no_key", press)
    console = Console(width=80, height=24, file=Gone(), force_terminal=True)
    reader = Reader(runs=[invented.begin().work(0).folder])
    assert not terminal.show(reader.read, console, every=0.0, stay=False).over
    assert len(pressed) == 1


def test_where_nobody_can_press_a_key_the_view_waits_for_the_next_frame(monkeypatch):
    waited = []
    monkeypatch.setattr(terminal.time, "sleep", waited.append)
    with terminal.keys() as pressed:
        assert pressed(0.25) == ""
    assert waited == [0.25]


def test_the_command_says_how_far_the_run_was_when_the_full_screen_is_left(invented, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(display, "console", console)
    monkeypatch.setattr(terminal, "_no_key", lambda seconds: "q")
    run = invented.begin().finish(0).work(1)
    result = CliRunner().invoke(app, ["watch", str(run.folder), "--terminal"])
    assert result.exit_code == 0
    last = console.file.getvalue().splitlines()[-1]
    assert "unfinished: running for " in last
    assert last.endswith("; 1 of 4 cells done, 1 running, 2 to go")


def test_notes_of_a_run_are_told_once(invented):
    said = []
    lines, reader = Lines(say=said.append), Reader(runs=[invented.begin().work(0, notes=["the disk is slow"]).folder])
    for _ in range(3):
        lines(reader.read())
    assert [line.split("  ", 1)[1] for line in said if "disk" in line] == ["warning  the disk is slow"]


@pytest.mark.parametrize(("niceness", "added"), [(0, 10), (7, 3), (15, 0)])
def test_watching_stands_ten_steps_behind_those_that_work_and_never_ahead(monkeypatch, niceness, added):
    asked = []
    monkeypatch.setattr(watching.os, "nice", lambda step: asked.append(step) or niceness)
    STEP_BACK()
    assert asked == [0, added]


def test_lines_tell_each_change_once(invented):
    said = []
    lines, reader = Lines(say=lambda line: said.append(line.split("  ", 1)[1])), Reader(runs=[invented.folder])
    lines(reader.read())
    assert "waiting" in said.pop()
    invented.begin().finish(0).work(1)
    for _ in range(3):
        lines(reader.read())
    assert said.pop(1).startswith("unfinished: running")
    done = "done     none x grpo, seed 0: broke"
    assert said == [done, "1 of 4 cells done, 1 running, 2 to go", "started  none x grpo, seed 1"]
    said.clear()
    invented.fail(1, reason="no memory").finish(2, outcome=Outcome.UNTESTED).work(3)
    lines(reader.read())
    lines(reader.read())
    assert said == [
        "failed   none x grpo, seed 1: no memory",
        "done     rmu x grpo, seed 0: untested",
        "2 of 4 cells done, 1 failed, 1 running; time left unknown until the first piece of work is done",
        "started  rmu x grpo, seed 1",
    ]


@pytest.mark.slow
def test_in_a_pipe_the_command_prints_lines_and_its_code_tells_of_failures(invented):
    invented.begin().finish(0).finish(1).finish(2).fail(3, reason="no memory")
    result = CliRunner().invoke(app, ["watch", str(invented.folder), "--terminal"])
    assert result.exit_code == 1
    assert "finished: 4 cells, of which 1 failed" in result.output
    assert "no memory" in result.output
    invented.finish(3)
    assert CliRunner().invoke(app, ["watch", str(invented.folder), "--terminal"]).exit_code == 0


def test_ctrl_c_leaves_the_run_alone(invented, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    result = CliRunner().invoke(app, ["watch", str(invented.begin().folder), "--terminal"])
    assert result.exit_code == 0
    assert "left; the run is not affected" in result.output


@pytest.mark.slow
def test_the_command_shows_the_view_that_was_asked_for(invented, monkeypatch):
    for number in range(4):
        invented.begin().finish(number)
    asked = []
    for name in ("in_file", "on_page"):

        def view(runs, *rest, every, stay, name=name, **more):
            asked.append((name, [str(each) for each in rest if not callable(each)], more))
            return Reader(runs=runs).read()

        monkeypatch.setattr(watching, name, view)
    for options in (["--out", "page.html"], ["--port", "8123"]):
        assert CliRunner().invoke(app, ["watch", str(invented.folder), *options]).exit_code == 0
    assert asked == [("in_file", ["page.html"], {}), ("on_page", [], {"port": 8123})]


def test_two_views_at_once_are_refused(invented, tmp_path):
    arguments = ["watch", str(invented.folder), "--terminal", "--out", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, arguments)
    assert "different views" in str(result.exception)


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_seconds_that_no_clock_waits_are_refused(invented, seconds):
    result = CliRunner().invoke(app, ["watch", str(invented.folder), "--out", "page.html", "--every", seconds])
    assert result.exit_code == 2


def test_a_minute_without_an_end_is_told(invented):
    said = []
    lines, reader = Lines(say=said.append), Reader(runs=[invented.begin().work(0).folder])
    lines(reader.read())
    lines._last = time.time() - 61
    lines(reader.read())
    assert "at       none x grpo, seed 0: step 7 of 20, 4 s a step" in said[-1]
