"""Text that a model, a file or a folder name brought in shows as text: it colours, hides, moves and runs nothing."""

import json

import pytest
from rich.console import Console

from holdfast.commands import display
from holdfast.records import Completion

ESCAPE = "\x1b[31mred"
MARKUP = "[bold]loud[/bold] [/] :bomb:"
SCRIPT = "<script>alert('x')</script>"
ALL = f"{ESCAPE} {MARKUP} {SCRIPT}"


def test_completions_show_as_text(capsys):
    row = {"prompt": MARKUP, "completion": ALL, "score": None, "judge": "[red]judge[/red]"}
    display.completions([row])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for part in ("␛[31mred", MARKUP, SCRIPT, "[red]judge[/red]"):
        assert part in out


def test_an_error_is_one_line_of_text(capsys):
    display.error(f"{ALL}\nsecond\r\nline")
    err = capsys.readouterr().err
    assert err == f"error: ␛[31mred {MARKUP} {SCRIPT} second line\n"


@pytest.mark.slow
def test_a_file_name_in_an_error_shows_as_text(holdfast, error_line):
    message = error_line(holdfast("run", f"{MARKUP}{ESCAPE}.yaml"))
    assert f"{MARKUP}␛[31mred.yaml: no such file" in message


def test_a_reason_in_the_results_shows_as_text(values, monkeypatch, capsys):
    from holdfast.config import parse_grid
    from holdfast.experiment.grid import cells
    from holdfast.records import Outcome, Record

    attack = {**values()["attacks"][0], "label": "[bold]mine[/bold] :bomb:"}
    (cell,) = cells(parse_grid(values(attacks=[attack]), "x"))
    monkeypatch.setenv("COLUMNS", "200")
    display.results([Record(key=cell.key, cell=cell, outcome=Outcome.FAILED, reason=ALL)])
    out = capsys.readouterr().out
    assert "[bold]mine[/bold] :bomb:" in out
    assert f"␛[31mred {MARKUP} {SCRIPT}" in out
    assert "\x1b" not in out


def test_a_label_in_the_summary_shows_as_text(values, monkeypatch, capsys):
    from holdfast.config import parse_grid
    from holdfast.experiment.grid import cells
    from holdfast.records import Outcome, Record

    labelled = {**values()["attacks"][0], "label": f"[bold]mine[/bold] {ESCAPE}"}
    grid = parse_grid(values(attacks=[labelled], defenses=["refusal_loss"], seeds=[0, 1]), "x")
    monkeypatch.setattr(display, "console", Console(emoji=False, width=250))
    display.summary([Record(key=cell.key, cell=cell, outcome=Outcome.FAILED, reason="no") for cell in cells(grid)])
    out = capsys.readouterr().out
    assert "[bold]mine[/bold] ␛[31mred" in out
    assert "0 of 2" in out
    assert "\x1b" not in out


@pytest.mark.slow
def test_from_sampling_to_terminal_and_page_a_models_text_stays_text(holdfast, grid_file, monkeypatch, tmp_path):
    """The whole way: what a model says is judged, kept and put into the report."""
    from pyarrow import parquet

    def said(model, example, answer):
        return Completion(example=example, text=ALL, num_tokens=len(answer.tokens))

    monkeypatch.setattr("holdfast.network.generate.as_completion", said)
    assert holdfast("run", grid_file(attacks=["none"]), "--workers", "0", "--runs", "r")[0] == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "␛[31mred" in page
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert(" not in page
    assert "\x1b" not in page
    assert "\x1b" not in (tmp_path / "r" / "report.csv").read_text()

    (place,) = (tmp_path / "r" / "cells").iterdir()
    assert json.loads((place / "record.json").read_text())["outcome"] != "failed"
    rows = parquet.read_table(place / "completions.parquet").to_pylist()
    assert {row["completion"] for row in rows} == {ALL}
