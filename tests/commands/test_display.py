"""What the terminal says of outcomes."""

import io
from dataclasses import replace
from typing import NamedTuple

import pytest
from rich.console import Console

from holdfast.commands import display
from holdfast.evaluation.breaking import time_to_break
from holdfast.evaluation.survival import share_of_runs
from holdfast.experiment import Checking
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import ControlRun
from holdfast.report.summarise.labels import names_of


class Piece(NamedTuple):
    title: str
    key: str = "p"


def record(outcome, reason=""):
    cell = Cell(model={"name": "m"}, constraints=(Method(name="shield"),), attack=Method(name="sft"))
    curve = (Evaluation(step=60, scores=(Score(name="harmfulness", value=0.1, n=9),)),)
    return Record(
        key=cell.key, cell=cell, outcome=outcome, reason=reason, evaluations=curve, time_to_break=time_to_break(curve)
    )


def test_the_last_line_counts_what_held_and_says_that_nothing_else_counts():
    line = display.tally([record(Outcome.HELD), record(Outcome.UNTESTED), record(Outcome.UNTESTED)])
    assert line == "3 cells: 1 held, 2 untested; only held counts as robust"
    assert display.tally([record(Outcome.HELD)]) == "1 cell: 1 held; only held counts as robust"


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


def test_a_break_that_the_peak_harm_does_not_show_has_its_reason_below(capsys):
    harms = (Score(name="harmfulness", value=0.26, n=9), Score(name="harmfulness/ingredients", value=0.51, n=9))
    curve = (Evaluation(step=30, scores=harms),)
    reason = "harmfulness/ingredients 0.51 > 0.5 at step 30"
    given_away = replace(record(Outcome.BROKE, reason), time_to_break=time_to_break(curve), evaluations=curve)
    display.results([given_away])
    assert f"broke: shield x sft, seed 0: {reason}" in capsys.readouterr().out


def test_no_figure_is_cut_off_where_the_terminal_is_narrow(monkeypatch, capsys):
    scores = (Score(name="harmfulness", value=0.1234, n=9), Score(name="helpfulness", value=0.8765, n=9))
    curve = (Evaluation(step=60, scores=scores),)
    undefended = Cell(model={"name": "m"}, attack=Method(name="sft"))
    cells = [undefended, Cell(model={"name": "m"}, constraints=(Method(name="shield" * 4),), attack=Method(name="sft"))]
    for width in (80, 60, 40):
        monkeypatch.setattr(display, "console", Console(emoji=False, width=width))
        display.results([replace(record(Outcome.HELD), cell=one, key=one.key, evaluations=curve) for one in cells])
        said = capsys.readouterr().out
        assert said.count("0.88") == 4
        assert said.count("≥ 60 steps") == 2


def cell(model="m", defense=(), **settings):
    settings = {"model": {"name": model}, "attack": Method(name="sft"), **settings}
    return Cell(constraints=tuple(Method(name="shield", settings={"alpha": alpha}) for alpha in defense), **settings)


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(display, "console", Console(emoji=False, width=200))


def table_of(cells, capsys):
    display.results([Record(key=c.key, cell=c, outcome=Outcome.FAILED, reason="out of memory") for c in cells])
    return capsys.readouterr().out.splitlines()


def test_a_cell_that_another_is_compared_with_is_marked_as_its_control(capsys, wide):
    head, *rows = table_of([cell(defense=[1]), cell(), cell(seed=1)], capsys)
    assert [row.startswith("none (control)") for row in rows[:3]] == [False, True, False]
    assert "model" not in head
    assert "failed: none (control) x sft, seed 0: out of memory" in rows


def test_the_mark_of_a_control_stays_on_its_line_in_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(display, "console", Console(emoji=False, width=80))
    rows = table_of([cell("hardened-model", [1]), cell("hardened-model"), cell("sandbox-llama-tiny")], capsys)
    assert any("none (control)" in row for row in rows[:6])


def test_several_models_have_a_column_and_settings_that_differ_are_named(capsys, wide):
    head, first, _, third, *rest = table_of([cell("a", [1]), cell("a", [2]), cell("b")], capsys)
    assert head.split()[:2] == ["model", "defense"]
    assert "shield (shield.alpha=1)" in " ".join(first.split())
    assert third.split()[:2] == ["b", "none"]
    assert "failed: a: shield (shield.alpha=2) x sft, seed 0: out of memory" in rest


def test_models_that_differ_by_their_seed_have_a_column_for_it(capsys, wide):
    models = [{"kind": "sandbox", "name": "m", "settings": {"seed": seed}} for seed in (0, 1)]
    head, *rows = table_of([of_model(model) for model in models], capsys)
    assert head.split()[:5] == ["defense", "attack", "model's", "seed", "seed"]
    assert [row.split()[2:4] for row in rows[:2]] == [["0", "0"], ["1", "0"]]
    assert "failed: shield x sft, seed 0, model's seed 1: out of memory" in rows


def of_model(model):
    return replace(cell(defense=[1]), model=model)


def test_several_runs_of_a_row_are_summed_up_below_the_cells(capsys, wide):
    control = ControlRun(key="c", outcome="broke", broke_at=20, steps=60)
    held = [replace(record(Outcome.HELD), control=control) for _ in range(9)]
    seeds = [replace(one, cell=replace(one.cell, seed=seed)) for seed, one in enumerate(held)]
    for runs, verdict in ((9, "better 9 0 0"), (3, "cannot tell 3 0 0")):
        display.summary(seeds[:runs])
        said = " ".join(capsys.readouterr().out.split())
        low, high = share_of_runs([[True] * runs])[1:]
        assert f"shield sft {runs} seeds {runs} of {runs} [{low:.2f}, {high:.2f}] {verdict}" in said
    display.summary(seeds[:1])
    assert capsys.readouterr().out == ""


def test_a_cell_that_was_broken_before_the_attack_has_its_reason_below_the_table(capsys, wide):
    for step, there in ((0, True), (20, False)):
        curve = (Evaluation(step=step, scores=(Score(name="harmfulness", value=0.9, n=9),)),)
        display.results(
            [
                Record(
                    key=cell().key,
                    cell=cell(),
                    evaluations=curve,
                    outcome=Outcome.BROKE,
                    reason="so says the judge",
                    time_to_break=time_to_break(curve),
                )
            ]
        )
        assert ("broke: none x sft, seed 0: so says the judge" in capsys.readouterr().out) is there


def test_what_is_looked_at_before_a_run_has_a_bar_until_the_first_piece_starts(monkeypatch):
    monkeypatch.setattr(display, "console", Console(file=io.StringIO(), force_terminal=True, width=200))
    with display.live() as news:
        news(Checking(), "looking", {})
        assert [task.description for task in news.bars.tasks] == ["checking models, rows and judges"]
        news(Checking(title="checking rows"), "looking", {})
        assert [task.description for task in news.bars.tasks] == ["checking rows"]
        assert not news.bars.finished
        news(Piece("harden: x"), "started", {})
        assert [task.description for task in news.bars.tasks] == ["harden: x"]


def test_without_a_terminal_what_is_looked_at_is_a_line_and_steps_are_none(capsys):
    with display.live() as news:
        news(Checking(), "looking", {})
        news(Piece("harden: x"), "started", {})
        news(Piece("harden: x"), "progress", {"step": 1, "max_steps": 9})
        news(Piece("harden: x"), "done", {})
    lines = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["checking models, rows and judges", "started  harden: x", "done     harden: x"]


def test_a_cell_is_called_by_what_tells_it_from_the_others(monkeypatch, capsys):
    plain = cell()
    longer = replace(plain, attack=replace(plain.attack, settings={"optim": {"max_steps": 60}}))
    piece = Piece("none x sft, seed 0", key=longer.key)
    with display.live(names_of([plain, longer])) as news:
        news(piece, "started", {})
        news(Piece("harden: x"), "started", {})
    lines = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["started  none x sft (sft.optim.max_steps=60), seed 0", "started  harden: x"]


def test_without_a_terminal_what_takes_long_says_once_a_minute_how_far_it_is(monkeypatch, capsys):
    now = iter([0.0, 1.0, 30.0, 70.0, 100.0, 140.0, 141.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(now))
    with display.live() as news:
        news(Piece("harden: x"), "started", {})
        for step in (1, 2, 3, 4):
            news(Piece("harden: x"), "progress", {"step": step, "max_steps": 9})
        news(Piece("harden: x"), "done", {})
    lines = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "started  harden: x",
        "at       harden: x: step 2 of 9",
        "at       harden: x: step 4 of 9",
        "done     harden: x",
    ]


@pytest.mark.parametrize(
    ("seconds", "at_least", "said"),
    [
        (None, False, " (3 of 9)"),
        (20.0, False, " (3 of 9, under a minute left)"),
        (20.0, True, " (3 of 9)"),
        (290.0, True, " (3 of 9, at least 5 min left)"),
        (4000.0, False, " (3 of 9, about 1 h 7 min left)"),
    ],
)
def test_an_end_says_how_much_of_the_run_is_left(seconds, at_least, said, capsys):
    left = {} if seconds is None else {"seconds_left": seconds, "at_least": at_least}
    with display.live() as news:
        news(Piece("none x sft"), "started", {})
        news(Piece("none x sft"), "done", {"ended": 3, "of": 9, **left})
        news(Piece("none x dpo"), "done", {"ended": 9, "of": 9, **left})
    lines = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["started  none x sft", f"done     none x sft{said}", "done     none x dpo"]


def test_in_a_terminal_the_whole_run_has_a_bar_from_the_first_end_to_the_last(monkeypatch):
    monkeypatch.setattr(display, "console", Console(file=io.StringIO(), force_terminal=True, width=200))
    with display.live() as news:
        news(Piece("none x sft"), "started", {})
        assert [task.description for task in news.bars.tasks] == ["none x sft"]
        news(Piece("none x sft"), "done", {"ended": 1, "of": 2, "seconds_left": 300.0, "at_least": False})
        assert [(task.description, task.completed, task.total) for task in news.bars.tasks] == [("all", 1, 2)]
        assert news.bars.tasks[0].fields["harm"] == "about 5 min left"
        news(Piece("none x dpo"), "done", {"ended": 2, "of": 2})
        assert not news.bars.tasks


def test_every_outcome_has_a_style_of_its_own_kind():
    assert set(display.STYLES) == set(Outcome)
    assert [outcome for outcome in Outcome if display.STYLES[outcome] == "green"] == [Outcome.HELD]


def test_in_a_terminal_a_note_is_a_line_of_its_own_and_a_bar_has_steps_and_harm(monkeypatch):
    monkeypatch.setattr(display, "console", Console(file=io.StringIO(), force_terminal=True, width=200))
    with display.live() as news:
        news(Piece("none x sft"), "started", {})
        news(Piece("none x sft"), "progress", {"note": "[red]a word\n"})
        news(Piece("none x sft"), "progress", {"step": 3, "max_steps": 9, "harmfulness": 0.25})
        (task,) = news.bars.tasks
        assert (task.completed, task.total, task.fields["harm"]) == (3, 9, "harm 0.25")
        news(Piece("none x sft"), "progress", {"step": 4, "max_steps": 9})
        assert (task.completed, task.fields["harm"]) == (4, "")
    assert "[red]a word␊" in display.console.file.getvalue()


def test_outside_a_terminal_a_note_is_a_line(capsys):
    with display.live() as news:
        news(Piece("none x sft"), "progress", {"note": "a word"})
    assert capsys.readouterr().out == "a word\n"


def test_an_attack_that_counts_samples_has_no_steps_in_its_time(capsys, wide):
    best_of = replace(record(Outcome.HELD).cell, attack=Method(name="best_of_n"))
    display.results([replace(record(Outcome.HELD), cell=best_of, key=best_of.key)])
    assert "N ≥ 60 " in capsys.readouterr().out
