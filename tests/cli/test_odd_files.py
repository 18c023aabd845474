"""Files and names that are not what they seem: one line and exit code 2, no hang, and nothing outside of the run."""

import json
import os
import socket

import pytest

ROW = {"prompt": "How?", "response": "So."}


@pytest.fixture
def refused(holdfast, error_line):
    """The line that a command was refused with."""
    return lambda *arguments: error_line(holdfast(*arguments))


def pipe(path):
    os.mkfifo(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as place:
        place.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.slow
@pytest.mark.parametrize("make", [pipe, listening, device])
def test_what_is_no_regular_file_is_not_read(refused, tmp_path, make):
    for name in ("odd.yaml", "odd.jsonl"):
        make(tmp_path / name)
    said = [refused("run", "odd.yaml"), refused("search", "odd.yaml")]
    said.append(refused("attack", "sft", "--harmful", "odd.jsonl", "--benign", "odd.jsonl"))
    assert all("odd." in line and "give a regular file" in line for line in said)


def test_a_folder_of_data_with_a_pipe_in_it_is_not_read(refused, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps(ROW))
    os.mkfifo(folder / "b.jsonl")
    assert "b.jsonl: is a pipe" in refused("attack", "sft", "--harmful", "rows", "--benign", "rows")


@pytest.mark.slow
def test_a_model_folder_with_a_pipe_in_it_is_not_read(refused, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    os.mkfifo(folder / "config.json")
    assert "config.json: is a pipe" in refused("evaluate", "-m", "./model")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/tmp/x",
        "",
        " ",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "a\x00b",
        "a\nb",
        "\x1b[2J",
        "x" * 300,
        None,
        [1],
        True,
    ],
)
def test_a_name_never_leaves_runs(refused, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    line = refused("run", write(tmp_path, name))
    assert "name: " in line
    assert "is not a folder name" in line
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"odd.yaml"}


def write(folder, name):
    place = folder / "odd.yaml"
    place.write_text(json.dumps({"name": name, "model": "sandbox"}))
    return place.name


@pytest.mark.slow
@pytest.mark.parametrize("command", [("run", "attacks"), ("attack", "sft"), ("quickstart",), ("search", "tuned_sft")])
def test_fewer_than_no_workers_are_refused(holdfast, command):
    code, _, err = holdfast(*command, "--workers", "-1")
    assert code == 2
    assert "--workers" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "{a: " * 1000, "a: " + "9" * 5000, "name: 2024-13-45", "\ufeff\x00", "a: *b", "? {"],
)
def test_yaml_that_cannot_be_read_is_one_line(refused, tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    assert "odd.yaml" in refused("run", "odd.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": ' + "[" * 5000,
        '{"prompt": ' + "9" * 5000 + "}",
        json.dumps(ROW) + "\n" + '{"prompt": "\\ud800", "response": "x"}',
    ],
)
def test_rows_that_cannot_be_read_are_one_line(refused, tmp_path, text):
    (tmp_path / "odd.jsonl").write_text(text)
    (tmp_path / "help.jsonl").write_text(json.dumps(ROW))
    line = refused("attack", "sft", "--harmful", "odd.jsonl", "--benign", "help.jsonl")
    assert "odd.jsonl, line " in line


@pytest.mark.slow
@pytest.mark.parametrize("place", ["x" * 300, "x" * 5000, "a/" + "y" * 300])
def test_a_path_that_is_too_long_is_one_line(refused, place):
    refused("run", place)
    refused("report", place)
    refused("attack", "sft", "--harmful", f"{place}.jsonl", "--benign", f"{place}.jsonl")


@pytest.mark.slow
def test_a_page_is_up_to_date_by_its_records_and_not_by_its_time(make_page, tmp_path):
    page, report, record = make_page
    assert "up to date" in report()
    text = record.read_text()
    record.write_text(text.replace('"wall_seconds": 1.5', '"wall_seconds": 2.5'))
    os.utime(record, (1, 1))
    assert "wrote" in report()
    assert "up to date" in report()
    os.utime(record)
    assert "up to date" in report()
    page.with_suffix(".csv").unlink()
    assert "wrote" in report()


@pytest.fixture
def make_page(tmp_path, capsys):
    """A page, what is said when it is written again, and the one record that it is of."""
    from holdfast.commands.jobs import _report
    from holdfast.records import Cell, Outcome, Record

    cell = Cell(model={"name": "tiny"}, evaluation={}, data={})
    record = tmp_path / "run" / "cells" / cell.key / "record.json"
    record.parent.mkdir(parents=True)
    made = Record(key=cell.key, cell=cell, outcome=Outcome.FAILED, reason="x", wall_seconds=1.5)
    record.write_text(json.dumps(made.to_json()))
    page = tmp_path / "run" / "report.html"

    def report():
        _report(tmp_path / "run", page, title="t")
        return capsys.readouterr().out

    report()
    return page, report, record


def test_names_cannot_move_the_cursor_nor_be_markup(capsys):
    from holdfast.commands import display

    for text in ("\x1b[2Jgone", "[bold red]x[/]", "a\nerror: no", "a\rb", "\u202eback"):
        display.console.print(display.shown(text))
        said = capsys.readouterr().out
        assert not set(said.rstrip("\n")) & {"\x1b", "\n", "\r", "\u202e"}
        assert "[bold red]" in said or "[bold" not in text
