"""What the terminal says of outcomes."""

import io

from rich.console import Console

from holdfast import display
from holdfast.breaking import time_to_break
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score


def record(outcome, reason=""):
    cell = Cell(model={"name": "m"}, constraints=(Method(name="shield"),), attack=Method(name="sft"))
    curve = (Evaluation(step=60, scores=(Score(name="harmfulness", value=0.1, n=9),)),)
    made = {"outcome": outcome, "reason": reason, "evaluations": curve, "time_to_break": time_to_break(curve)}
    return Record(key=cell.key, cell=cell, **made)


def test_the_last_line_counts_what_held_and_says_that_nothing_else_counts():
    found = display.tally([record(Outcome.HELD), record(Outcome.UNTESTED), record(Outcome.UNTESTED)])
    assert found == "3 cells: 1 held, 2 untested; only what held counts as robust"
    assert display.tally([record(Outcome.HELD)]) == "1 cell: 1 held; only what held counts as robust"


def test_a_cell_that_is_untested_has_no_time_in_the_table_and_its_reason_below(capsys):
    display.results([record(Outcome.UNTESTED, "the attack did not break the undefended model either")])
    said = capsys.readouterr().out
    assert "60 steps" not in said
    assert "untested: shield x sft, seed 0: the attack did not break the undefended model either" in said
    display.results([record(Outcome.HELD)])
    assert "≥ 60 steps" in capsys.readouterr().out  # as the report has it


def test_where_the_terminal_has_no_such_sign_a_time_that_did_not_end_is_spelled_in_others(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(display, "console", Console(file=narrow))
    display.results([record(Outcome.HELD)])
    narrow.flush()
    assert b">= 60 steps" in narrow.buffer.getvalue()


def test_every_outcome_has_a_style_of_its_own_kind():
    assert set(display.STYLES) == set(Outcome)
    assert [outcome for outcome in Outcome if display.STYLES[outcome] == "green"] == [Outcome.HELD]
