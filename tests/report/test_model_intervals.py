"""Rows over several models that differ only by their seed: pooled, counted, and with intervals over models."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from holdfast.evaluation.intervals import clustered, t_half_width
from holdfast.evaluation.survival import share_of_runs
from holdfast.records import Outcome, Record, Score
from holdfast.report import write_report
from holdfast.report.summarise import summarise
from holdfast.report.summarise.intervals import estimate

pytestmark = pytest.mark.slow
MakeRecord = Callable[..., Record]
BREAKS = {20: (0.0, 0.9), 60: (0.0, 0.1, 0.2, 0.9)}


def of_model(record: Record, seed: int, **more: Any) -> Record:
    """The record with the sandbox's model of that seed."""
    settings = {"seed": seed, "base": {"max_steps": 450}, **more}
    cell = replace(record.cell, model={"kind": "sandbox", "name": "tiny", "settings": settings})
    return replace(record, cell=cell, key=cell.key)


def pooled(make_record: MakeRecord, ends: Sequence[Sequence[int]], **more: Any) -> list[Record]:
    """Records of a defense by model and seed: the step at which each broke, 0 if it held."""
    return [
        of_model(
            make_record(BREAKS[end], seed=seed, defense="d", outcome=Outcome.BROKE, **more)
            if end
            else make_record(seed=seed, defense="d", **more),
            model,
        )
        for model, own in enumerate(ends)
        for seed, end in enumerate(own)
    ]


def scores(values: Sequence[float]) -> list[Score]:
    return [Score(name="harmfulness", value=value, n=10, low=value, high=value) for value in values]


def test_models_that_differ_by_their_seed_are_one_row_that_says_how_many(make_record) -> None:
    (row,) = summarise(pooled(make_record, [[0, 20], [0, 0], [20, 20]]))
    assert (row.runs, row.label.model) == ("3 models x 2 seeds", "tiny")
    (uneven,) = summarise(pooled(make_record, [[0, 20], [0]]))
    assert uneven.runs == "3 runs of 2 models"
    (one,) = summarise(pooled(make_record, [[0, 20]]))
    assert one.runs == "2 seeds"


def test_the_csv_of_rows_has_what_the_table_has(make_record, tmp_path, write_run) -> None:
    run = write_run(
        [*pooled(make_record, [[0, 0, 20], [0, 0, 0]]), of_model(make_record(BREAKS[20], outcome=Outcome.BROKE), 0)]
    )
    out = write_report([run], tmp_path / "r.html")
    with out.with_suffix(".rows.csv").open(newline="") as file:
        (undefended, defended) = csv.DictReader(file)
    assert (undefended["defense"], undefended["against_none"], undefended["held_low"]) == ("none", "", "")
    low, high = share_of_runs([[True, True, False], [True, True, True]])[1:]
    assert (defended["runs"], defended["cells"], defended["models"]) == ("2 models x 3 seeds", "6", "2")
    assert (defended["held"], defended["broke"]) == ("5", "1")
    assert (float(defended["held_low"]), float(defended["held_high"])) == (pytest.approx(low), pytest.approx(high))
    assert (defended["against_none"], defended["longer"], defended["alike"]) == ("cannot tell", "5", "1")
    assert defended["harmfulness_after_basis"] == "models"
    with out.with_suffix(".csv").open(newline="") as file:
        assert [row["model_seed"] for row in csv.DictReader(file)] == ["0"] * 4 + ["1"] * 3


def test_models_that_differ_in_more_are_rows_of_their_own(make_record) -> None:
    records = [of_model(make_record(), seed, num_base=seed) for seed in (0, 1)]
    assert len(summarise(records)) == 2


def test_the_share_that_held_has_that_of_survival_curves(make_record) -> None:
    (row,) = summarise(pooled(make_record, [[0, 0, 0, 20], [0, 0, 20, 20], [20, 20, 20, 20]]))
    assert row.held is not None
    assert (row.held.held, row.held.n, row.held.by_model) == (5, 12, ((3, 4), (2, 4), (0, 4)))
    by_model = [[True] * 3 + [False], [True] * 2 + [False] * 2, [False] * 4]
    assert (row.held.low, row.held.high) == share_of_runs(by_model)[1:]
    (one,) = summarise(pooled(make_record, [[0, 0, 0, 20]]))
    assert one.held is not None
    assert (one.held.low, one.held.high) == pytest.approx((0.194, 0.994), abs=0.006)  # Clopper and Pearson's


def test_scores_of_several_models_have_the_t_interval_over_their_means() -> None:
    """Means .2, .4, .6: 4.30265 (t, 2 degrees of freedom) times the standard error."""
    values, models = [0.1, 0.3, 0.3, 0.5, 0.5, 0.7], ["a", "a", "b", "b", "c", "c"]
    interval = estimate(scores(values), models)
    half = 4.302653 * stdev([0.2, 0.4, 0.6]) / math.sqrt(3)
    assert interval.value == pytest.approx(0.4)
    assert (interval.low, interval.high) == (pytest.approx(max(0.0, 0.4 - half)), pytest.approx(0.4 + half, abs=1e-6))
    assert (interval.basis, interval.seeds) == ("models", 6)


def test_models_whose_means_agree_by_chance_do_not_make_the_interval_narrower_than_their_seeds_do() -> None:
    values, models = [0.2, 0.6, 0.2, 0.6, 0.2, 0.6], ["a", "a", "b", "b", "c", "c"]
    mean, half = clustered(values, models)
    assert mean == pytest.approx(fmean(values))
    assert half == pytest.approx(t_half_width(np.array(values)))


def test_a_model_with_more_runs_does_not_weigh_more() -> None:
    mean, _ = clustered([0.0, 0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "a", "b"])
    assert mean == 0.5


def test_the_time_to_break_of_several_models_is_as_uncertain_as_they_differ(make_record) -> None:
    (differ,) = summarise(pooled(make_record, [[20] * 6, [20] * 6, [60] * 6]))
    (alike,) = summarise(pooled(make_record, [[20, 20, 20, 20, 60, 60]] * 3))
    assert differ.time_to_break is not None
    assert alike.time_to_break is not None
    assert differ.time_to_break.steps == alike.time_to_break.steps == pytest.approx(100 / 3)
    assert differ.time_to_break.high - differ.time_to_break.low > alike.time_to_break.high - alike.time_to_break.low
    half = 4.302653 * stdev([20, 20, 60]) / math.sqrt(3)
    assert differ.time_to_break.high == pytest.approx(100 / 3 + half, abs=1e-3)
    assert differ.time_to_break.low == 0.0


def test_intervals_over_three_models_cover_the_truth_and_those_over_all_runs_do_not() -> None:
    """Harm varies by model as much as by seed: 30 runs of 3 models are not 30 independent runs."""
    rng = np.random.default_rng(0)
    inside = {"models": 0, "runs": 0}
    for _ in range(1000):
        values = 0.5 + rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.1, (3, 10))
        models = [model for model in range(3) for _ in range(10)]
        mean, half = clustered(values.ravel().tolist(), models)
        inside["models"] += abs(mean - 0.5) <= half
        inside["runs"] += abs(mean - 0.5) <= t_half_width(values.ravel())
    assert inside["models"] / 1000 > 0.93
    assert inside["runs"] / 1000 < 0.7


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.6])
def test_the_interval_of_the_share_that_held_covers_it_however_alike_a_model_s_runs_are(alike: float) -> None:
    """`alike` is the intraclass correlation: each model has a chance of its own, drawn from a beta distribution."""
    rng = np.random.default_rng(0)
    for truth in (0.1, 0.3, 0.5, 0.8):
        rest = (1 / alike - 1) if alike else 0.0
        chances = rng.beta(truth * rest, (1 - truth) * rest, (1000, 3)) if alike else np.full((1000, 3), truth)
        held_counts = [tuple(sorted(counts)) for counts in rng.binomial(10, chances).tolist()]
        ends = {
            held: share_of_runs([[i < k for i in range(10)] for k in held], draws=2000) for held in set(held_counts)
        }
        assert sum(ends[held].low <= truth <= ends[held].high for held in held_counts) / 1000 >= 0.95
