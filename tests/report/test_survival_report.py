"""Times to break as survival data in a report: which runs count how, and that it says no more than the verdict does."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from on_page import page_charts

from holdfast.evaluation.survival import runs_of
from holdfast.records import Outcome, Record
from holdfast.records.evidence import ControlRun
from holdfast.report import write_report
from holdfast.report.summarise import summarise
from holdfast.report.summarise.comparisons import Run, compare, corrected, order
from holdfast.report.summarise.labels import labels
from holdfast.report.summarise.power import pairs_for_delay
from holdfast.report.summarise.survival import Survival, survivals

pytestmark = pytest.mark.slow
BUDGET = 80
BROKE_AT = {0: (0.9,), 20: (0.0, 0.9), 40: (0.0, 0.1, 0.9), 60: (0.0, 0.1, 0.2, 0.9), 80: (0.0, 0.1, 0.2, 0.3, 0.9)}
HELD, NEVER = Outcome.HELD, None


@pytest.fixture
def runs(make_record: Callable[..., Record]) -> Callable[..., list[Record]]:
    """Records of runs given as the step at which each seed broke, or its outcome."""

    def one(end: int | Outcome, **cell) -> Record:
        if isinstance(end, Outcome):
            return make_record(outcome=end, **cell)
        return make_record(BROKE_AT[end], outcome=Outcome.BROKE, **cell)

    def made(ends: Sequence[int | Outcome], defense: str = "d", controls: Sequence[int | None] = ()) -> list[Record]:
        records = [one(end, defense=defense, seed=seed) for seed, end in enumerate(ends)]
        if not controls:
            return records
        return [replace(record, control=control(at)) for record, at in zip(records, controls, strict=True)]

    return made


def control(at: int | None) -> ControlRun:
    return ControlRun(key="c", outcome="broke" if at is not None else "untested", broke_at=at, steps=BUDGET)


def survival_of(records: list[Record], defense: str = "d") -> Survival:
    survival_rows = survivals(records, labels(records), summarise(records))
    return next(each for each in survival_rows if each.label.defense == defense)


def test_runs_that_held_are_unbroken_to_the_end_and_broken_ones_until_they_broke(runs) -> None:
    survival = survival_of(runs([20, 60, HELD, HELD]))
    assert (survival.n, survival.without, survival.horizon) == (4, 0, BUDGET)
    assert dict(zip(survival.curve.times, [share.value for share in survival.curve.shares], strict=True)) == {
        0: 1.0,
        20: 0.75,
        60: 0.5,
        80: 0.5,
    }
    assert survival.mean.value == (20 + 60 + 80 + 80) / 4
    assert survival.ratio is not None
    assert survival.ratio.value == survival.mean.value / 20


def test_runs_that_neither_broke_nor_held_show_no_protection(runs) -> None:
    """Without them 3 of 3 would have held."""
    survival = survival_of(runs([HELD] * 3 + [Outcome.COLLAPSED, Outcome.UNTESTED, Outcome.USELESS]))
    assert (survival.n, survival.without) == (6, 3)
    assert survival.unbroken.value == 0.5
    assert survival.mean.value == BUDGET / 2
    assert survival.comparison is not None
    assert survival.comparison.verdict == "cannot tell"


def test_an_undefended_model_that_did_not_break_lasts_as_long_as_a_defense(runs) -> None:
    """If it were left out, the ratio would be 4."""
    held = survival_of(runs([HELD] * 4, controls=[20, 20, 20, 20]))
    some = survival_of(runs([HELD] * 4, controls=[20, 20, NEVER, NEVER]))
    assert held.ratio is not None
    assert some.ratio is not None
    assert held.ratio.value == 4
    assert some.ratio.value == 80 / 50
    missing = [replace(record, control=None) for record in runs([HELD] * 4)]
    survival = survival_of(missing)
    assert survival.ratio is not None
    assert survival.ratio.value == 1


def test_an_undefended_run_that_ended_early_does_not_shorten_the_horizon(runs) -> None:
    early = ControlRun(key="c", outcome="diverged", steps=20)
    records = [replace(record, control=early) for record in runs([HELD, HELD, 60])]
    assert survival_of(records).horizon == BUDGET
    assert survival_of(records).ratio.value < 1


def test_rows_of_one_attack_have_one_horizon(runs, make_record) -> None:
    short = make_record((0.0, 0.1, 0.2), defense="e", seed=3)
    records = runs([HELD] * 3) + runs([HELD] * 3, "e") + [short]
    survival_rows = survivals(records, labels(records), summarise(records))
    assert [each.horizon for each in survival_rows] == [40, 40]
    assert [each.mean.value for each in survival_rows] == [40, 40]


def test_few_runs_have_no_curve_nor_do_many_of_which_few_broke_or_held(runs) -> None:
    for ends in ([HELD] * 2, [HELD, HELD, Outcome.FAILED, Outcome.UNTESTED, Outcome.COLLAPSED]):
        records = runs(ends)
        assert survivals(records, labels(records), summarise(records)) == []
    undefended = runs([20, 20, Outcome.COLLAPSED], "")
    assert survivals(undefended, labels(undefended), summarise(undefended)) == []


def test_undefended_runs_that_did_not_break_are_unbroken(runs) -> None:
    survival = survival_of(runs([20, 40, Outcome.UNTESTED, Outcome.COLLAPSED], ""), "none")
    assert survival.unbroken.value == 0.5
    assert (survival.ratio, survival.logrank, survival.comparison, survival.needed) == (None, None, None, None)


def test_three_that_held_are_inconclusive_and_nine_are_not(runs) -> None:
    few, many = survival_of(runs([HELD] * 3)), survival_of(runs([HELD] * 9))
    assert few.unbroken.low == pytest.approx(0.025 ** (1 / 3), abs=0.01)
    assert few.comparison.verdict == "cannot tell"
    assert few.too_few
    assert few.needed == 6
    assert many.comparison.verdict == "better"
    assert not many.too_few
    assert many.logrank < 0.01
    assert few.logrank == pytest.approx(0.1)


def test_log_rank_tests_are_corrected_for_the_rows(runs) -> None:
    one = survival_of(runs([HELD] * 3))
    two = survival_of(runs([HELD] * 3) + runs([20] * 3, "e"))
    assert two.logrank == pytest.approx(2 * one.logrank)


@pytest.mark.parametrize("comparisons", [1, 8])
def test_the_number_of_pairs_is_that_of_simulated_tables(comparisons: int) -> None:
    """Pairs of runs drawn from those at hand, one of them delayed, through the comparison itself."""
    times = [10.0, 15.0, 20.0, 20.0, 30.0, 60.0]
    needed = pairs_for_delay([runs_of(times, [True] * 6)], BUDGET, comparisons=comparisons)
    assert needed is not None
    rng = np.random.default_rng(0)

    def ended(time: float) -> Run:
        held = time > BUDGET
        return Run(outcome=HELD if held else Outcome.BROKE, steps=min(time, BUDGET))

    def better(n: int) -> bool:
        pairs = [rng.choice(times, 2, replace=False).tolist() for _ in range(n)]
        orders = [order(ended(2 * one), ended(other)) for one, other in pairs]
        others = [compare({"m": [0]})] * (comparisons - 1)
        return corrected([compare({"m": orders}), *others])[0].verdict == "better"

    power = np.mean([better(needed) for _ in range(600)])
    assert power == pytest.approx(0.82, abs=0.06)
    assert np.mean([better(needed - 4) for _ in range(600)]) < power


def test_where_the_undefended_model_breaks_at_once_or_never_no_number_of_runs_shows_a_delay() -> None:
    assert pairs_for_delay([runs_of([0.0] * 5, [True] * 5)], BUDGET) is None
    assert pairs_for_delay([runs_of([80.0] * 5, [False] * 5)], BUDGET) is None


def test_the_page_and_the_table_show_the_curve_and_what_it_takes(runs, write_run, tmp_path) -> None:
    run = write_run(runs([HELD] * 3) + runs([20, 40, Outcome.COLLAPSED, 40], "e"))
    html = write_report([run], tmp_path / "r.html").read_text()
    page = " ".join(html.split())
    assert "How long defenses hold" in page
    assert 'held 3 of 3 <span class="interval">[0.29, 1.00]</span>' in page
    assert '<td class="num" data-field="unbroken">1.00 <span class="interval">[0.29, 1.00]</span>' in page
    assert "<b>cannot tell</b><small>inconclusive: 3 pairs, a twofold delay takes 7</small>" in page
    assert "<small>1 neither broke nor held</small>" in page
    shares = [chart for chart in page_charts(html).values() if "share of runs not broken" in str(chart)]
    (chart,) = shares
    points = chart["data"]["values"] if "data" in chart else chart["layer"][0]["data"]["values"]
    assert [(p["step"], p["value"]) for p in points if p["defense"] == "d"] == [(0, 1), (20, 1), (40, 1), (80, 1)][::3]
    rows = {row["defense"]: row for row in csv.DictReader((tmp_path / "r.rows.csv").read_text().splitlines())}
    assert float(rows["d"]["ratio_to_none"]) == 4
    assert float(rows["d"]["ratio_to_none_low"]) < 1 < float(rows["d"]["ratio_to_none_high"])
    assert (rows["e"]["horizon"], rows["e"]["unbroken"], rows["e"]["pairs_for_twofold"]) == ("80.0", "0.0", "7")
