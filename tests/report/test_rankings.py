"""Defenses beside each other: which pairs can be told apart, and whether runs rank them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from holdfast.records import Outcome, Record
from holdfast.report import write_report
from holdfast.report.summarise import summarise
from holdfast.report.summarise.labels import labels
from holdfast.report.summarise.rankings import agreements, pairs_of_defenses

pytestmark = pytest.mark.slow
BROKE_AT = {20: (0.0, 0.9), 40: (0.0, 0.1, 0.9), 60: (0.0, 0.1, 0.2, 0.9), 80: (0.0, 0.1, 0.2, 0.3, 0.9)}

MakeRecord = Callable[..., Record]


@pytest.fixture
def runs(make_record: MakeRecord) -> Callable[..., list[Record]]:
    """Records of runs given as defense -> steps at which each seed broke: 0 for held, an outcome for others."""

    def made(ends: Mapping[str, Sequence[int | Outcome]], model_seed: int | None = None) -> list[Record]:
        settings = {} if model_seed is None else {"series": {"name": "m", "key": "", "seed": model_seed}}
        return [
            _in_series(_ended(make_record, defense, seed, end), settings)
            for defense, own in ends.items()
            for seed, end in enumerate(own)
        ]

    return made


def _ended(make_record: MakeRecord, defense: str, seed: int, end: int | Outcome) -> Record:
    if isinstance(end, Outcome):
        return make_record(defense=defense, seed=seed, outcome=end)
    if not end:
        return make_record(defense=defense, seed=seed)
    return make_record(BROKE_AT[end], defense=defense, seed=seed, outcome=Outcome.BROKE)


def _in_series(record: Record, settings: Mapping[str, object]) -> Record:
    from dataclasses import replace

    if not settings:
        return record
    model = {"kind": "pretrained", "name": f"m{settings['series']}", "settings": {"path": "x"}, **settings}
    cell = replace(record.cell, model=model)
    return replace(record, cell=cell, key=cell.key)


def test_defenses_that_differ_in_every_pair_can_be_told_apart_and_others_not(runs) -> None:
    records = runs({"a": [0] * 9, "b": [20] * 9, "c": [20, 40, 20, 40, 20, 40, 20, 40, 20], "d": [0] * 9})
    comparisons = {(pair.one, pair.other): pair.comparison for pair in pairs_of_defenses(records, labels(records))}
    verdicts = {pair: comparison.verdict for pair, comparison in comparisons.items()}
    assert verdicts == {
        ("a", "b"): "better",
        ("a", "c"): "better",
        ("a", "d"): "cannot tell",
        ("b", "c"): "cannot tell",
        ("b", "d"): "worse",
        ("c", "d"): "worse",
    }
    assert comparisons["a", "b"].chance == pytest.approx(6 * 2 / 2**9)
    assert comparisons["a", "d"].ties == 9


def test_defenses_of_two_threat_models_are_not_compared(make_record: MakeRecord) -> None:
    records = [make_record(defense="a"), make_record(constraints=("b",))]
    assert pairs_of_defenses(records, labels(records)) == []


def test_runs_of_one_seed_on_other_data_are_pairs_of_their_own(make_record: MakeRecord) -> None:
    records = [make_record(defense=d, data={"seed": seed}) for d in ("a", "b") for seed in (0, 1)]
    (pair,) = pairs_of_defenses(records, labels(records))
    assert pair.comparison.pairs == 2
    assert {row.runs for row in summarise(records)} == {"2 runs of 1 model"}


def test_runs_that_rank_alike_agree_and_runs_that_rank_the_other_way_round_do_not(runs) -> None:
    alike = runs({"a": [20, 20, 20], "b": [40, 60, 80], "c": [0, 0, 0]})
    (agreement,) = agreements(alike, labels(alike))
    assert (agreement.same_model, agreement.other_models) == ((1.0, 3), (None, 0))
    assert (agreement.defenses, agreement.runs) == (3, 3)
    turned = runs({"a": [20, 60, 20], "b": [40, 40, 40], "c": [60, 20, 60]})
    (agreement,) = agreements(turned, labels(turned))
    assert agreement.same_model[0] == pytest.approx((1 - 1 - 1) / 3)


def test_a_run_that_ended_useless_ranks_below_one_that_broke_and_one_untested_has_no_rank(runs) -> None:
    records = runs({"a": [Outcome.USELESS] * 3, "b": [20] * 3, "c": [0] * 3, "d": [Outcome.UNTESTED, 40, 40]})
    (agreement,) = agreements(records, labels(records))
    assert agreement.same_model == (1.0, 3)
    assert agreement.defenses == 4


def test_too_few_runs_or_defenses_have_no_agreement(runs) -> None:
    for few in ({"a": [20, 20], "b": [40, 40], "c": [0, 0]}, {"a": [20] * 3, "b": [40] * 3}):
        records = runs(few)
        assert agreements(records, labels(records)) == []


def test_runs_in_which_all_rank_alike_are_counted_apart(runs) -> None:
    records = runs({"a": [20, 20, 0], "b": [20, 40, 0], "c": [20, 60, 0]})
    (agreement,) = agreements(records, labels(records))
    assert (agreement.same_model, agreement.tied) == ((None, 0), 3)


def test_pairs_of_runs_of_two_models_are_apart_from_those_of_one(runs) -> None:
    ends = {"a": [20, 20], "b": [40, 40], "c": [60, 60]}
    turned = {"a": [60, 60], "b": [40, 40], "c": [20, 20]}
    records = runs(ends, model_seed=0) + runs(turned, model_seed=1)
    (agreement,) = agreements(records, labels(records))
    assert agreement.same_model == (pytest.approx(1.0), 2)
    assert agreement.other_models == (pytest.approx(-1.0), 4)


def test_the_page_says_which_defenses_differ_and_how_far_runs_agree(runs, write_run, tmp_path) -> None:
    ends = {"a": [0] * 4, "b": [20] * 4, "c": [40] * 4}
    run = write_run(runs(ends, model_seed=0) + runs(ends, model_seed=1))
    page = write_report([run], tmp_path / "r.html").read_text()
    assert "1 model trained with 2 seeds, 3 defense settings" in " ".join(page.split())
    assert "2 models x 4 seeds: held 8 of 8 (4, 4 by model)" in " ".join(page.split())
    assert "3 of 3 can be told apart:" in page
    assert '<th scope="row" data-field="longer">a</th><td>b</td>' in page
    assert "Do runs rank the defenses alike?" in page
    assert '<th scope="col" class="num">Two models</th>' in page


def test_the_page_of_few_seeds_says_that_it_cannot_tell(runs, write_run, tmp_path) -> None:
    run = write_run(runs({"a": [0] * 3, "b": [20] * 3}))
    page = " ".join(write_report([run], tmp_path / "r.html").read_text().split())
    assert "0 of 1 can be told apart; of the others the runs cannot tell." in page
    assert "<b>cannot tell</b><small>3 pairs: 3 longer, 0 shorter</small><small>p = .5</small>" in page
    assert "it takes 7 pairs without exception" in page


def test_two_runs_with_fewer_than_three_defenses_in_common_are_not_compared(runs) -> None:
    gone = Outcome.UNTESTED
    records = runs({"a": [20, gone, 20], "b": [40, 40, 40], "c": [0, 0, 0], "d": [gone, 60, 60]})
    (agreement,) = agreements(records, labels(records))
    assert (agreement.runs, agreement.same_model) == (3, (1.0, 2))
