import math
import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from holdfast.evaluation.intervals import wilson
from holdfast.records import Cell, Method, Outcome, Score
from holdfast.report.summarise import curve_points, summarise, time_points
from holdfast.report.summarise.intervals import estimate
from holdfast.report.summarise.labels import labels, labels_of

BREAKS_AT = {20: (0.0, 0.8), 40: (0.0, 0.2, 0.7), 60: (0.0, 0.1, 0.3, 0.9), 80: (0.1, 0.1, 0.2, 0.4, 0.6)}


def score(value, name="harmfulness", **more):
    return Score(name=name, value=value, **{"n": 10, **more})


def test_seeds_of_one_setting_are_one_row(make_record) -> None:
    rows = summarise([make_record(seed=seed, defense=name) for seed in (2, 0, 1) for name in ("b", "", "a")])
    assert [row.label.defense for row in rows] == ["none", "a", "b"]
    assert [row.seeds for row in rows] == [(0, 1, 2)] * 3


def test_cells_that_share_names_but_not_settings_are_not_pooled(make_record) -> None:
    records = [make_record(seed=s, defense="d", settings={"weight": w, "steps": 5}) for s in (0, 1) for w in (0.1, 0.2)]
    rows = summarise(records)
    assert [row.label.defense for row in rows] == ["d (d.weight=0.1)", "d (d.weight=0.2)"]
    assert [row.seeds for row in rows] == [(0, 1), (0, 1)]


def test_a_difference_in_the_data_is_told_with_the_attack(make_record) -> None:
    rows = summarise([make_record(data={"flip_ratio": ratio}) for ratio in (0.5, 1.0)])
    assert [row.label.attack for row in rows] == ["grpo (data.flip_ratio=0.5)", "grpo (data.flip_ratio=1.0)"]


def test_settings_too_long_to_print_still_tell_rows_apart(make_record) -> None:
    records = [make_record(defense="d", settings={"text": "x" * 200 + end}) for end in "ab"]
    first, second = (label.defense for label in labels(records))
    assert first != second
    assert max(len(first), len(second)) < 120


def test_a_seed_inside_the_settings_does_not_split_a_row(make_record) -> None:
    records = [make_record(seed=seed, data={"seed": seed, "size": 8}) for seed in (0, 1)]
    assert len(summarise(records)) == 1


def test_one_method_in_both_threat_models_gives_two_rows_with_two_names(make_record) -> None:
    rows = summarise([make_record(defense="d"), make_record(constraints=("d",))])
    assert len({row.label.defense for row in rows}) == 2
    assert {row.label.threat_model for row in rows} == {"open weights", "fine-tuning service"}


def test_the_interval_over_seeds_is_the_t_interval() -> None:
    """Four values, 3 degrees of freedom: the 0.975 quantile of t is 3.18245 (any table)."""
    values = [0.2, 0.3, 0.5, 0.4]
    interval = estimate(score(value) for value in values)
    half = 3.182446 * stdev(values) / math.sqrt(4)
    assert (interval.low, interval.high) == pytest.approx((fmean(values) - half, fmean(values) + half), abs=1e-6)
    assert (interval.seeds, interval.n, interval.basis) == (4, 40, "seeds")


def test_rates_are_cut_to_the_unit_interval_and_other_scores_are_not() -> None:
    rates = estimate(replace(score(value, "quiz"), low=value, high=value) for value in (0.0, 1.0))
    nats = estimate(replace(score(value, "entropy"), low=value, high=value + 1) for value in (0.0, 1.0))
    assert (rates.low, rates.high) == (0.0, 1.0)
    assert nats.low is not None
    assert nats.low < 0.0


def test_seeds_that_agree_are_no_more_certain_than_their_prompts() -> None:
    """Two runs without one harmful answer of ten each: Wilson's interval of none of ten is [0, .2775]."""
    low, high = wilson(0.0, 10)
    interval = estimate(score(0.0, low=low, high=high) for _ in range(2))
    assert (interval.low, interval.high, interval.basis) == (0.0, pytest.approx(0.2775, abs=1e-4), "seeds")


def test_one_seed_keeps_the_interval_of_its_evaluation() -> None:
    interval = estimate([score(0.5, low=0.4, high=0.6), score(None), None])
    assert (interval.value, interval.low, interval.high, interval.seeds, interval.basis) == (
        0.5,
        0.4,
        0.6,
        1,
        "completions",
    )


def test_scores_that_are_no_number_are_left_out_and_not_taken_for_zero() -> None:
    assert estimate([score(None), score(float("nan"))]).value is None
    assert estimate([score(None), score(0.8), score(0.6)]).value == pytest.approx(0.7)


def test_time_to_break_is_the_mean_cut_at_the_budget(make_record) -> None:
    records = [make_record(BREAKS_AT[step], seed=step, outcome=Outcome.BROKE) for step in (20, 60)]
    time = summarise([*records, make_record(seed=1)])[0].time_to_break
    assert (time.steps, time.seeds, time.censored, time.budget) == (pytest.approx((20 + 60 + 80) / 3), 3, 1, 80)
    assert time.low <= time.steps <= time.high


def test_a_break_after_the_shortest_budget_counts_as_that_budget(make_record) -> None:
    """Censored at 40, broken at 20 and 80: min(T, 40) is known for all, 40, 20 and 40."""
    records = [make_record((0.0, 0.1, 0.1), seed=0)]
    records += [make_record(BREAKS_AT[step], seed=step, outcome=Outcome.BROKE) for step in (20, 80)]
    time = summarise(records)[0].time_to_break
    assert (time.steps, time.budget) == (pytest.approx(100 / 3), 40)


def test_the_bootstrap_interval_is_that_of_a_slow_loop(make_record) -> None:
    records = [make_record(BREAKS_AT[step], seed=step, outcome=Outcome.BROKE) for step in BREAKS_AT]
    time = summarise(records)[0].time_to_break
    rng = random.Random(1)
    means = sorted(fmean(rng.choices(list(BREAKS_AT), k=4)) for _ in range(20_000))
    assert (time.low, time.high) == pytest.approx((means[500], means[19_500]), abs=5.0)
    assert summarise(records)[0].time_to_break == time


def test_cells_that_failed_collapsed_or_diverged_are_counted_and_not_averaged(make_record) -> None:
    ended = (Outcome.COLLAPSED, Outcome.DIVERGED, Outcome.FAILED)
    records = [make_record(seed=seed, outcome=outcome) for seed, outcome in enumerate(ended)]
    records.append(make_record(BREAKS_AT[40], seed=9, outcome=Outcome.BROKE))
    row = summarise(records)[0]
    assert (row.time_to_break.steps, row.time_to_break.seeds, row.time_to_break.censored) == (40.0, 1, 0)
    assert row.time_to_break.excluded == {"collapsed": 1, "diverged": 1, "failed": 1}
    assert row.outcomes == {**dict.fromkeys(ended, 1), Outcome.BROKE: 1}


def test_a_failed_cell_enters_no_mean(make_record) -> None:
    row = summarise([make_record(seed=0), make_record((1.0, 1.0), seed=1, outcome=Outcome.FAILED)])[0]
    assert row.peak_harmfulness.value == 0.3
    assert row.before["harmfulness"].seeds == 1
    assert {point.of for point in row.curves["harmfulness"]} == {1}


def test_a_row_of_failed_cells_only_has_outcomes_and_nothing_else(make_record) -> None:
    row = summarise([make_record((), outcome=Outcome.FAILED, time_to_break=None)])[0]
    assert row.time_to_break.steps is None
    assert row.peak_harmfulness.value is None
    assert (row.before, row.curves) == ({}, {})
    assert time_points([row])[0]["text"] == "no time: 1 failed"


def test_all_seeds_censored_gives_the_budget_as_a_lower_bound_without_interval(make_record) -> None:
    row = summarise([make_record(seed=seed) for seed in (0, 1, 2)])[0]
    assert (row.time_to_break.steps, row.time_to_break.low, row.time_to_break.censored) == (80.0, None, 3)
    assert time_points([row])[0]["text"] == "≥ 80"


def test_a_cell_that_only_evaluates_has_scores_but_no_time_and_no_curve(make_record) -> None:
    row = summarise([make_record((0.3,), attack=None)])[0]
    assert row.time_to_break is None
    assert row.after["harmfulness"].value == 0.3
    assert curve_points([row], "harmfulness") == time_points([row]) == []


def test_an_attack_that_got_no_further_than_its_start_has_no_after(make_record) -> None:
    row = summarise([make_record((0.1,), outcome=Outcome.DIVERGED)])[0]
    assert row.before["harmfulness"].value == 0.1
    assert row.after == {}


def test_curves_are_means_at_each_step_over_the_seeds_evaluated_there(make_record) -> None:
    harms = {0: (0.0, 0.2, 0.4, 0.4, 0.4), 1: (0.2, 0.6, 0.9), 2: (0.1, None, 0.5)}
    row = summarise([make_record(curve, seed=seed) for seed, curve in harms.items()])[0]
    assert len(row.curves["harmfulness"]) == 5
    for index, point in enumerate(row.curves["harmfulness"]):
        there = [curve[index] for curve in harms.values() if index < len(curve) and curve[index] is not None]
        assert point.estimate.value == pytest.approx(sum(there) / len(there))
        assert (point.step, point.estimate.seeds, point.of) == (20 * index, len(there), 3)


def test_the_label_of_a_method_is_what_its_row_is_called(make_record) -> None:
    record = make_record()
    attack = Method(name="grpo", label="cheap GRPO")
    cell = type(record.cell)(model=record.cell.model, attack=attack, seed=0)
    assert labels([type(record)(key="k", cell=cell, outcome=Outcome.HELD)])[0].attack == "cheap GRPO"


def test_settings_in_nested_lists_tell_rows_apart(make_record) -> None:
    records = [make_record(defense="d", settings={"bars": [[1, 0.1], [2, bar]]}) for bar in (0.2, 0.3)]
    assert [label.defense for label in labels(records)] == ["d (d.bars.1=[2, 0.2])", "d (d.bars.1=[2, 0.3])"]


def test_methods_under_one_label_are_told_apart_by_name_and_a_third_of_one_name_hides_no_second():
    def cell(*stages):
        return Cell(model={"name": "m"}, stages=stages)

    names = [cell(Method(name=name, label="ours")) for name in ("a", "b")]
    assert [label.defense for label in labels_of(names)] == ["ours (method=a)", "ours (method=b)"]
    weights = [cell(*(Method(name="d", settings={"weight": weight}) for weight in (1, other, 3))) for other in (2, 4)]
    assert [label.defense for label in labels_of(weights)] == ["d + d + d (d.weight'=2)", "d + d + d (d.weight'=4)"]
