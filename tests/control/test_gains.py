"""Gains of hand-made curves, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.control.tasks_and_arms import Task


def test_the_height_of_a_curve_is_its_area_by_its_width():
    from holdfast.control.scale import height

    curve = [(0, 0.0), (10, 10.0), (30, 10.0)]
    assert height(curve, 0, 30) == pytest.approx((50 + 200) / 30)
    assert height(curve, 5, 15) == pytest.approx((5 * 7.5 + 5 * 10) / 10)
    assert height(curve, 0, 30, floor=-2.0) == pytest.approx((50 + 200) / 30 + 2)
    assert height(curve, 20, 40) == pytest.approx(10.0)


def test_returns_are_measured_from_chance_only_where_chance_is_negative():
    from holdfast.control.scale import floor_of

    assert floor_of(20.0) == 0.0
    assert floor_of(-43.0) == -43.0


def test_a_gain_over_a_plain_run_below_the_floor_is_left_open():
    from holdfast.control.scale import gain

    assert gain(3.0, 2.0) == pytest.approx(0.5)
    assert gain(-1.0, 2.0) == pytest.approx(-1.5)
    assert gain(3.0, 0.0) is None
    assert gain(3.0, -1.0) is None


def test_a_pair_without_a_ratio_leaves_the_mean_open_and_is_counted():
    from holdfast.control.scale import mean_gain

    gain = mean_gain([0.5, None, 0.7])
    assert (gain.value, gain.low, gain.pairs, gain.undefined) == (None, None, 3, 1)


def test_intervals_hold_the_mean_and_are_the_same_every_time():
    from holdfast.control.scale import mean_gain

    gain = mean_gain([0.1, 0.5, 0.9, 0.2, 0.4])
    assert gain == mean_gain([0.1, 0.5, 0.9, 0.2, 0.4])
    assert gain.value == pytest.approx(0.42)
    assert 0.1 < gain.low < 0.42 < gain.high < 0.9
    assert mean_gain([0.3]).low is None


def test_a_run_is_compared_early_late_and_with_a_plain_one_that_had_the_experts_steps(cell_of):
    from holdfast.control.tables import compared

    cell = cell_of("dai", steps=100)  # early: up to 25; final: from 90
    ours = [(0, 0.0), (25, 20.0), (90, 40.0), (100, 40.0)]
    plain = [(0, 0.0), (25, 10.0), (90, 20.0), (150, 20.0)]
    expert = {"random": {"return": 5.0}, "qualities": {"good": {"return": 55.0}}, "trained_steps": 50}
    ratios = compared(cell, ours, plain, expert)
    assert ratios["gain_early"] == pytest.approx(10 / 5 - 1)
    assert ratios["gain_final"] == pytest.approx(40 / 20 - 1)
    assert ratios["lead_early"] == pytest.approx((10 - 5) / 50)
    assert ratios["lead_final"] == pytest.approx((40 - 20) / 50)
    # The plain run between 50 and 75, and between 140 and 150.
    middle = 10 + 10 * (62.5 - 25) / 65
    assert ratios["gain_early_equal_steps"] == pytest.approx(10 / middle - 1)
    assert ratios["gain_final_equal_steps"] == pytest.approx(40 / 20 - 1)


def test_penalties_are_measured_from_the_random_policys(cell_of):
    from holdfast.control.tables import compared

    expert = {"random": {"return": -40.0}, "qualities": {"good": {"return": -5.0}}, "trained_steps": 0}
    ratios = compared(cell_of("dai", steps=100), [(0, -10.0)], [(0, -20.0)], expert)
    assert ratios["gain_early"] == pytest.approx(30 / 20 - 1)
    assert ratios["lead_final"] == pytest.approx(10 / 35)
    assert "gain_early_equal_steps" not in ratios


def test_qualities_are_the_best_checkpoint_and_the_first_with_a_half_and_a_quarter_of_it():
    from holdfast.control.experts import choose

    checkpoints = [{"step": step, "return": value} for step, value in ((1, -40), (2, -33), (3, -20), (4, -5), (5, -5))]
    chosen = choose(checkpoints, -45.0)
    assert {name: row["step"] for name, row in chosen.items()} == {"good": 4, "medium": 3, "poor": 2}


def test_the_mean_over_tasks_pairs_them_by_seed_and_leaves_out_what_one_task_lacks(make_control, monkeypatch):
    from holdfast.control import tables
    from holdfast.control.running import ControlResults

    pairs = {
        ("A", "gain_early"): {0: 1.0, 1: 3.0, 2: 5.0},
        ("B", "gain_early"): {0: 2.0, 1: 0.0},
        ("A", "gain_early_equal_steps"): {0: 1.0},
        ("A", "gain_final"): {0: None, 1: 1.0},
        ("B", "gain_final"): {0: 1.0, 1: 1.0},
    }
    rows = [
        {"task": task, "algorithm": "td3", "arm": "dai", "seed": seed, "quantity": quantity, "value": value}
        for (task, quantity), each in pairs.items()
        for seed, value in each.items()
    ]
    monkeypatch.setattr(tables, "pair_rows", lambda gains: rows)
    control = replace(make_control(), tasks=dict.fromkeys("AB", Task()))
    gains = tables.gain_rows(ControlResults(control=control, cells=[], experts={}))
    means = {row["quantity"]: row for row in gains if row["task"] == tables.MEAN}
    assert set(means) == {"gain_early", "gain_final"}
    assert (means["gain_early"]["value"], means["gain_early"]["pairs"]) == (1.5, 2)
    assert (means["gain_final"]["value"], means["gain_final"]["undefined"]) == (None, 1)
