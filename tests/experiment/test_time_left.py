"""What is said of the time that a run still needs."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest

from holdfast.experiment import tasks, time_left
from holdfast.experiment.time_left import TimeLeft

CELL = {"defense": "rmu", "attacker": "sft"}


class Piece(NamedTuple):
    key: str
    kind: str


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    return now


def left(kinds, *, workers=1):
    """A run of one piece of each kind, called 0, 1, ...; returns its pieces, its news and what the news said."""
    said = []
    pieces = [Piece(str(i), kind) for i, kind in enumerate(kinds)]
    news = TimeLeft(
        news=lambda piece, state, details: said.append(details),
        pieces=pieces,
        kinds=lambda piece: (piece.kind, piece.kind[0]),
        workers=workers,
    )
    return pieces, news, said


def do(piece, news, clock, seconds):
    news(piece, "started", {})
    clock[0] += seconds
    news(piece, "done", {})


def test_pieces_of_the_same_kind_take_as_long_as_the_finished_ones(clock):
    pieces, news, said = left(["ab", "ab", "ab", "ab"])
    do(pieces[0], news, clock, 10)
    assert said[-1] == {"ended": 1, "of": 4, "seconds_left": 30, "at_least": False}
    do(pieces[1], news, clock, 20)
    assert said[-1] == {"ended": 2, "of": 4, "seconds_left": 30, "at_least": False}


def test_the_narrowest_kind_counts_and_the_wider_one_where_there_is_none(clock):
    pieces, news, said = left(["ab", "ac", "ab", "ad"])
    do(pieces[0], news, clock, 10)
    do(pieces[1], news, clock, 40)
    assert said[-1]["seconds_left"] == 10 + 25


def test_a_kind_that_was_never_finished_makes_the_time_a_lower_bound(clock):
    pieces, news, said = left(["ab", "ab", "zz"])
    do(pieces[0], news, clock, 10)
    assert said[-1] == {"ended": 1, "of": 3, "seconds_left": 10, "at_least": True}


def test_what_runs_counts_with_what_it_still_needs(clock):
    pieces, news, said = left(["ab", "ab", "zz"], workers=3)
    for piece in pieces[1:]:
        news(piece, "started", {})
    news(pieces[2], "progress", {"step": 1, "max_steps": 4})
    do(pieces[0], news, clock, 10)
    # The second piece has used its ten seconds; the third has three steps to go, and its first took ten.
    assert said[-1] == {"ended": 1, "of": 3, "seconds_left": 30, "at_least": False}


def test_parallel_workers_share_the_time_but_not_that_of_one_piece(clock):
    pieces, news, said = left(["ab", "ab", "ab", "ab", "ab"], workers=2)
    do(pieces[0], news, clock, 10)
    assert said[-1]["seconds_left"] == 20
    pieces, news, said = left(["ab", "ab"], workers=2)
    do(pieces[0], news, clock, 10)
    assert said[-1]["seconds_left"] == 10


def test_earlier_runs_are_learnt_from(clock):
    pieces, news, said = left(["ab", "zz"])
    news.learn(Piece("earlier", "zz"), 50.0)
    do(pieces[0], news, clock, 10)
    assert said[-1] == {"ended": 1, "of": 2, "seconds_left": 50, "at_least": False}


def test_failures_end_but_teach_nothing(clock):
    pieces, news, said = left(["ab", "ab"])
    news(pieces[0], "started", {})
    news(pieces[0], "failed", {"reason": "no memory"})
    assert said[-1] == {"reason": "no memory", "ended": 1, "of": 2}


def test_other_news_is_passed_on_unchanged(clock):
    pieces, news, said = left(["ab"])
    news(pieces[0], "progress", {"note": "a warning"})
    news(Piece("looking", "none"), "looking", {})
    assert said == [{"note": "a warning"}, {}]


def test_steps_that_an_earlier_run_did_took_this_one_no_time(clock):
    pieces, news, said = left(["ab", "zz"], workers=2)
    for piece in pieces:
        news(piece, "started", {})
    news(pieces[1], "progress", {"step": 90, "max_steps": 100})
    clock[0] += 10
    news(pieces[1], "progress", {"step": 95, "max_steps": 100})
    news(pieces[0], "done", {})
    assert said[-1]["seconds_left"] == 10


def test_what_another_run_took_at_the_last_moment_is_not_timed(clock):
    pieces, news, said = left(["ab", "ab", "ab"])
    news(pieces[0], "started", {})
    news(pieces[0], "waiting", {})
    clock[0] += 100
    news(pieces[0], "done", {})
    do(pieces[1], news, clock, 10)
    assert said[-1] == {"ended": 2, "of": 3, "seconds_left": 10, "at_least": False}


def test_cells_of_another_model_are_another_kind():
    alike, other = (SimpleNamespace(kind="cell", cell=SimpleNamespace(**CELL, model_name=name)) for name in "ab")
    assert tasks.kinds(alike)[0] != tasks.kinds(other)[0]
    assert tasks.kinds(alike)[-1] == tasks.kinds(other)[-1]
