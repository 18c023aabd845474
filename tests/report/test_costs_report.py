"""What a break costs at several thresholds and in several units: against plain means, and never flattering."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from holdfast.evaluation.breaking import time_to_break
from holdfast.records import HoldfastError, Outcome, Record
from holdfast.report import is_of, write_report
from holdfast.report.prices import load_prices
from holdfast.report.summarise import summarise
from holdfast.report.summarise.costs import THRESHOLDS, CostToBreak, costs_to_break
from holdfast.report.summarise.labels import labels
from holdfast.report.summarise.survival import survivals

pytestmark = pytest.mark.slow
RISING = (0.0, 0.3, 0.6, 0.9, 0.9)
AT_ONCE = (0.0, 0.9, 0.9, 0.9, 0.9)
PER_HOUR, PER_SECOND = 3.6, 1e6


@pytest.fixture
def counted(make_record: Callable[..., Record]) -> Callable[..., Record]:
    """A record with FLOPs, 1e9 a step and seed, that broke if its harm was above .5."""

    def make(harms: Sequence[float] = (0.0,) * 5, **more) -> Record:
        broke = more.pop("outcome", Outcome.BROKE if max(harms) > 0.5 else Outcome.HELD)
        record = make_record(harms, outcome=broke, **more)
        curve = tuple(replace(e, flops=1e9 * (1 + more.get("seed", 0)) * e.step) for e in record.evaluations)
        return replace(record, evaluations=curve, time_to_break=time_to_break(curve))

    return make


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """One unit of money for 1e9 FLOPs."""
    machine = (
        f"per_hour: {PER_HOUR}, flops_per_second: {PER_SECOND * 2}, utilisation: 0.5, date: 2026-05-01, source: me"
    )
    (tmp_path / "prices.yaml").write_text(f"machine: own\ncurrency: EUR\nmachines: {{own: {{{machine}}}}}\n")
    return tmp_path / "prices.yaml"


def costs(records: Sequence[Record], prices: Path | None = None) -> dict[tuple[str, float], CostToBreak]:
    named = labels(records)
    lasting = survivals(records, named, summarise(records))
    cost_rows = costs_to_break(records, named, lasting, load_prices(prices))
    return {(each.label.defense, each.threshold): each for each in cost_rows}


def test_costs_are_plain_means_up_to_what_every_unbroken_run_spent_in_every_unit(counted, prices: Path) -> None:
    records = [counted(RISING, defense="d", seed=seed) for seed in range(3)]
    records += [counted(defense="d", seed=3), *(counted(AT_ONCE, seed=seed) for seed in range(4))]
    by_defense = costs(records, prices)
    for threshold, step in zip(THRESHOLDS, (20, 40, 60), strict=True):
        row = by_defense["d", threshold]
        assert (row.n, row.broke, row.without) == (4, 3, 0)
        steps = [step, step, step, 80]
        for unit, each in (("steps", 1), ("samples", 64), ("tokens", 1000)):
            cost = row.costs[unit]
            assert (cost.mean.value, cost.horizon) == (pytest.approx(each * fmean(steps)), each * 80), unit
            assert cost.unbroken
            assert cost.ratio is not None
            assert cost.ratio.value == pytest.approx(fmean(steps) / 20)
            assert 0 <= cost.mean.low <= cost.mean.value <= cost.mean.high <= cost.horizon * (1 + 1e-9)
        spent = [1e9 * (1 + seed) * at for seed, at in enumerate(steps)]
        limit = 4 * 80e9
        assert row.costs["flops"].mean.value == pytest.approx(fmean(min(flops, limit) for flops in spent))
        per_flop = PER_HOUR / 3600 / PER_SECOND
        assert row.costs["money"].mean.value == pytest.approx(row.costs["flops"].mean.value * per_flop)
        assert by_defense["none", threshold].costs["steps"].ratio is None


def test_at_the_runs_own_threshold_steps_are_those_of_the_survival_curve(counted) -> None:
    records = [counted(RISING, defense="d", seed=0), counted(AT_ONCE, defense="d", seed=1)]
    records += [counted(defense="d", seed=2), counted(defense="d", seed=3, outcome=Outcome.USELESS)]
    records += [counted(AT_ONCE, seed=seed) for seed in range(4)]
    lasting = survivals(records, labels(records), summarise(records))
    assert [each.label.defense for each in lasting] == ["none", "d"]
    for each in lasting:
        cost = costs(records)[each.label.defense, 0.5].costs["steps"]
        assert (cost.mean.value, cost.horizon) == (pytest.approx(each.mean.value), each.horizon)
        assert cost.mean.low == pytest.approx(each.mean.low, abs=0.02 * each.horizon)


def test_runs_that_stopped_at_their_break_do_not_look_as_if_they_held_at_a_higher_threshold(counted) -> None:
    stopped = [counted(RISING[:3], defense="d", seed=seed) for seed in range(3)]
    cost = costs([*stopped, counted(defense="d", seed=3)])["d", 0.75]
    assert (cost.broke, cost.costs["steps"].horizon, cost.costs["steps"].mean.value) == (0, 40, 40)
    assert cost.costs["steps"].unbroken


def test_a_run_is_known_up_to_the_last_answers_that_could_be_read(counted) -> None:
    def garbled(record: Record) -> Record:
        *rest, last = record.evaluations
        scores = tuple(replace(score, value=0.9) if score.name == "invalid" else score for score in last.scores)
        invalid = replace(last.scores[0], name="invalid", value=0.9)
        return replace(record, evaluations=(*rest, replace(last, scores=(*scores, invalid))))

    records = [garbled(counted((0.0, 0.6, 0.6, 0.6, 0.6), defense="d", seed=seed)) for seed in range(3)]
    assert costs(records)["d", 0.75].costs["steps"].horizon == 60


def test_runs_that_neither_broke_nor_held_cost_nothing_at_any_threshold(counted) -> None:
    records = [counted(defense="d", seed=seed) for seed in range(3)]
    records += [counted((0.0, 0.3, 0.4, 0.4, 0.4), defense="d", seed=3, outcome=Outcome.UNTESTED)]
    for threshold in THRESHOLDS:
        row = costs(records)["d", threshold]
        assert (row.without, row.broke, row.costs["steps"].mean.value) == (1, 0, 60)


def test_an_undefended_model_that_did_not_exceed_a_threshold_lasts_to_the_end(counted) -> None:
    records = [counted(defense="d", seed=seed) for seed in range(3)]
    records += [counted((0.0, 0.6, 0.6, 0.6, 0.6), seed=seed) for seed in range(3)]
    assert costs(records)["d", 0.5].costs["steps"].ratio.value == 4
    assert costs(records)["d", 0.75].costs["steps"].ratio.value == 1


def test_runs_of_several_models_are_averaged_by_model_with_an_interval_over_models(counted) -> None:
    def of_model(record: Record, seed: int) -> Record:
        cell = replace(record.cell, model={"kind": "sandbox", "name": "tiny", "settings": {"seed": seed}})
        return replace(record, cell=cell, key=cell.key)

    harms = {0: (0.0,) * 5, 1: AT_ONCE, 2: AT_ONCE}
    records = [of_model(counted(harm, defense="d", seed=s), m) for m, harm in harms.items() for s in range(4)]
    records += [of_model(counted(AT_ONCE, seed=s), m) for m in harms for s in range(4)]
    cost = costs(records)["d", 0.5].costs["steps"]
    assert cost.mean.value == pytest.approx((80 + 20 + 20) / 3)
    assert cost.mean.low < 20, "three models, not twelve runs"
    assert cost.mean.high > 70
    assert cost.ratio is not None
    assert cost.ratio.value == pytest.approx(2)
    assert cost.ratio.low < 1


def test_what_was_not_counted_has_no_figure_and_what_is_not_in_the_report_no_ratio(make_record) -> None:
    row = costs([make_record(defense="d", seed=seed) for seed in range(3)])["d", 0.5]
    assert list(row.costs) == ["steps", "samples", "tokens"]
    assert row.costs["steps"].ratio is None


def test_the_packaged_prices_say_when_and_whence(prices: Path) -> None:
    packaged = load_prices()
    for machine in packaged.machines.values():
        assert machine.date[:2] == "20"
        assert len(machine.source) > 20
    used = packaged.used
    an_hour = 3600 * used.utilisation * used.flops_per_second
    assert packaged.of_flops(an_hour) == pytest.approx(used.per_hour)
    assert load_prices(prices).of_flops(1e9) == pytest.approx(1.0)


def test_the_page_and_its_table_have_the_costs_by_the_price_list_that_was_given(
    counted, prices: Path, write_run, tmp_path: Path
) -> None:
    run = write_run(
        [*(counted(RISING, defense="d", seed=s) for s in range(3)), *(counted(AT_ONCE, seed=s) for s in range(3))]
    )
    page = write_report([run], tmp_path / "r.html", prices=prices)
    html = " ".join(page.read_text().split())
    assert "What a break costs" in html
    assert (
        "EUR: FLOPs at 3.6 an hour of a machine (own) that does 50 % of 2.00e+06 FLOPs a second (2026-05-01; me)"
        in html
    )
    assert '<td class="num" data-field="cost_steps"><b>40</b> <span class="interval">' in html
    assert "<small>2 × none [" in html
    with page.with_suffix(".costs.csv").open(newline="") as file:
        rows = {(row["defense"], row["threshold"], row["unit"]): row for row in csv.DictReader(file)}
    assert float(rows["d", "0.75", "money"]["mean"]) == pytest.approx(fmean([60, 120, 180]))
    assert rows["d", "0.5", "steps"]["ratio_to_none"] == "2.0"
    assert not is_of([run], page), "the page of another price list is not the one that a run writes"
    assert is_of([run], write_report([run], tmp_path / "r.html"))
    assert "USD: FLOPs at 2.5 an hour" in " ".join(page.read_text().split())


def test_undefended_answers_that_could_never_be_read_do_not_make_a_defense_look_better(counted, make_record) -> None:
    def unread(seed):
        record = make_record((None,) * 5, outcome=Outcome.COLLAPSED, seed=seed)
        return replace(record, time_to_break=None)

    held = [counted(defense="d", seed=seed) for seed in range(3)]
    broke = [counted(AT_ONCE, seed=seed) for seed in range(3)]
    collapsed = [counted(seed=seed, outcome=Outcome.COLLAPSED) for seed in range(3)]
    assert costs([*held, *broke])["d", 0.5].costs["steps"].ratio.value == 4
    assert costs([*held, *collapsed])["d", 0.5].costs["steps"].ratio.value == 1
    assert costs([*held, *map(unread, range(3))])["d", 0.5].costs["steps"].ratio.value == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"machine: gone\ncurrency: EUR\nmachines: {}\n", "machine: 'gone' is unknown.*`machines` has none"),
        (b"[1]", "not a price list; it has `machine`, `currency` and `machines`"),
        (b"\xff", "not text in UTF-8"),
        (None, "cannot be read .No such file or directory"),
    ],
)
def test_a_price_list_that_is_none_is_refused_by_name(tmp_path, content, says) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HoldfastError, match=rf"mine\.yaml: {says}"):
        load_prices(path)
