"""The cheapest break of a defense: which attacks count, what is compared, and what is not made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from holdfast.evaluation.breaking import time_to_break
from holdfast.records import Outcome, Record
from holdfast.report import page
from holdfast.report.cheapest import Cheapest, cheapest_breaks
from holdfast.report.summarise.labels import labels

AT_20, AT_40, NEVER = (0.0, 0.9, 0.9), (0.0, 0.1, 0.9), (0.0, 0.1, 0.1)


@pytest.fixture
def spent(make_record: Callable[..., Record]) -> Callable[..., Record]:
    """`spent(harms, flops)`: a run of so many FLOPs a step; its outcome follows its harms unless it is given."""

    def make(harms: Sequence[float], flops: float = 1.0, **more) -> Record:
        outcome = more.pop("outcome", Outcome.BROKE if max(harms) > 0.5 else Outcome.HELD)
        made = make_record(harms, outcome=outcome, **more)
        curve = tuple(replace(each, flops=flops * each.step) for each in made.evaluations)
        return replace(made, evaluations=curve, time_to_break=time_to_break(curve), flops=curve[-1].flops)

    return make


def rows(records: Sequence[Record]) -> dict[str, Cheapest]:
    return {row.label.defense: row for row in cheapest_breaks(records, labels(records))}


def test_the_attack_of_the_fewest_flops_is_named_however_many_steps_it_takes(spent):
    cheap = [spent(AT_40, 1.0, attack="sft"), spent(AT_20, 100.0, attack="grpo")]
    defended = [spent(AT_40, 3.0, attack="sft", defense="d"), spent(AT_20, 100.0, attack="grpo", defense="d")]
    by_defense = rows([*cheap, *defended])
    own = by_defense["d"].cheapest
    assert own is not None
    assert (own.attack, own.flops, own.broke, own.n) == ("sft", 120.0, 1, 1)
    assert by_defense["d"].against_none == pytest.approx(3.0)
    assert by_defense["none"].against_none is None
    assert (by_defense["d"].tried, by_defense["d"].broken_by) == (2, 2)


def test_an_attack_breaks_a_defense_only_in_more_than_half_of_its_runs_and_costs_their_median(spent):
    half = [spent(AT_20, 1.0, attack="sft", defense="d", seed=0), spent(NEVER, 1.0, attack="sft", defense="d", seed=1)]
    most = [
        spent(harms, flops, attack="grpo", defense="d", seed=seed)
        for seed, (harms, flops) in enumerate(((AT_20, 2.0), (AT_20, 5.0), (NEVER, 1.0)))
    ]
    row = rows([*half, *most])["d"]
    assert row.cheapest is not None
    assert (row.cheapest.attack, row.cheapest.broke, row.cheapest.n) == ("grpo", 2, 3)
    assert (row.cheapest.flops, row.cheapest.lowest, row.cheapest.highest) == (100.0, 40.0, 100.0)
    assert (row.tried, row.broken_by) == (2, 1)


def test_what_nothing_broke_has_the_largest_budget_that_was_tried_and_no_price(spent):
    row = rows([spent(NEVER, 1.0, attack="sft", defense="d"), spent(NEVER, 7.0, attack="grpo", defense="d")])["d"]
    assert row.cheapest is None
    assert row.against_none is None
    assert row.budget == 7.0 * 40


@pytest.mark.parametrize("outcome", [Outcome.USELESS, Outcome.COLLAPSED, Outcome.DIVERGED, Outcome.UNTESTED])
def test_a_run_that_ended_otherwise_did_not_break(spent, outcome):
    ended = [spent(NEVER, 1.0, attack="sft", defense="d", seed=seed, outcome=outcome) for seed in (0, 1)]
    broken = [spent(AT_20, 1.0, attack="sft", defense="d", seed=2), spent(AT_20, 9.0, attack="grpo", defense="d")]
    row = rows([*ended, *broken])["d"]
    assert row.cheapest is not None
    assert row.cheapest.attack == "grpo"


def test_runs_that_failed_and_honest_customers_are_no_attacks_and_unknown_flops_are_no_price(spent):
    counted = [spent(AT_20, 9.0, attack="grpo", defense="d"), spent(AT_20, 9.0, attack="rloo", defense="d")]
    failed = spent(AT_20, 1.0, attack="sft", defense="d", outcome=Outcome.FAILED)
    unknown = spent(AT_20, 1.0, attack="dpo", defense="d")
    unknown = replace(unknown, time_to_break=replace(unknown.time_to_break, flops=None))
    customer = spent(AT_20, 1.0, attack="ppo", defense="d")
    attack = replace(customer.cell.attack, settings={"task": "benign"})
    customer = replace(customer, cell=replace(customer.cell, attack=attack))
    row = rows([*counted, failed, unknown, customer])["d"]
    assert row.tried == 2
    assert row.cheapest is not None
    assert row.cheapest.flops == 180.0


def test_no_attack_is_named_for_a_model_that_was_harmful_before(spent):
    before = [spent((0.9, 0.9, 0.9), attack=attack, defense="d", seed=seed) for attack in ("sft", "grpo")
              for seed in (0, 1)]  # fmt: skip
    row = rows(before)["d"]
    assert row.cheapest is not None
    assert (row.cheapest.attack, row.cheapest.flops) == (None, 0.0)


def test_one_attack_alone_is_no_choice(spent):
    assert rows([spent(AT_20, attack="sft", defense="d")]) == {}


def test_hardening_is_counted_where_it_is_known(spent):
    runs = [spent(AT_20, attack=attack, defense="d") for attack in ("sft", "grpo")]
    assert rows(runs)["d"].hardening is None  # stages of an earlier version have no FLOPs
    known = [replace(run, stages=({**run.stages[0], "flops": 5.0},)) for run in runs]
    assert rows(known)["d"].hardening == 5.0


def test_an_attack_of_unknown_flops_that_broke_a_defense_is_not_passed_over(spent):
    held = [spent(NEVER, 1.0, attack=attack, defense="d") for attack in ("sft", "grpo")]
    broke = spent(AT_20, 1.0, attack="dpo", defense="d")
    broke = replace(broke, time_to_break=replace(broke.time_to_break, flops=None))
    row = rows([*held, broke])["d"]
    assert row.cheapest is None
    assert (row.tried, row.broken_by, row.unknown, row.unknown_broke) == (2, 0, 1, 1)
    shown = page.render({"cheapest_breaks": [row], "num_models": 1}, str, template="cheapest.html.j2")
    assert "none that was tried" not in shown
    assert "1 of 1 of unknown FLOPs" in shown


def test_medians_are_over_all_runs_in_flops_and_in_seconds(spent):
    runs = [
        spent(harms, flops, attack="sft", defense="d", seed=seed)
        for seed, (harms, flops) in enumerate(((AT_20, 1.0), (AT_20, 2.0), (AT_40, 2.0), (NEVER, 1.0)))
    ]
    row = rows([*runs, spent(NEVER, 1.0, attack="grpo", defense="d")])["d"]
    assert row.cheapest is not None
    assert row.cheapest.flops == (40.0 + 80.0) / 2
    seconds = sorted(run.time_to_break.seconds for run in runs[:3])
    assert row.cheapest.seconds == (seconds[1] + seconds[2]) / 2


def test_helpfulness_at_a_break_by_an_edit_of_weights_is_that_of_the_edited_model(spent):
    made = spent(AT_20, attack="sft", defense="d")
    given, broken = made.evaluations[:2]
    curve = (given, replace(broken, step=0, flops=0.0))
    edited = replace(made, evaluations=curve, time_to_break=time_to_break(curve))
    row = rows([edited, spent(NEVER, attack="grpo", defense="d")])["d"]
    assert row.cheapest is not None
    assert row.cheapest.flops == 0
    assert row.cheapest.helpfulness == broken.value("helpfulness") != given.value("helpfulness")
