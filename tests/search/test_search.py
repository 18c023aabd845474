"""An attacker who tunes the attack: what is spent, what is learnt, what is told."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import pytest

from holdfast.methods.knobs import Knob, Range
from holdfast.records import HoldfastError, Outcome
from holdfast.search.loop import NoResult
from holdfast.search.trials import Trial, bars, best, medians
from holdfast.training.contracts import AdaptiveAttacker
from repeated import repeated

pytest.importorskip("optuna")
NONE = dict.fromkeys(("num_samples", "adapter", "optim.per_device_train_batch_size"))
"""Knobs that are not turned."""


def trial(number, harms, **changes):
    steps = [10 * i for i in range(len(harms))]
    values = {"params": {}, "key": str(number), "state": "finished", "outcome": "held", "reason": "", **changes}
    return Trial(number=number, harms=tuple(zip(steps, harms, strict=True)), **values)


@pytest.mark.slow
def test_a_search_finds_the_learning_rate_that_breaks_soonest(run):
    report = run()
    own, chosen = report["trials"][0], report["best"]
    assert own["params"]["optim.learning_rate"] == 1e-4
    assert own["broke_after"] == 20
    assert chosen["trial"] != 0
    assert report["development"]["broke_after"] == 10
    assert 2e-4 < chosen["params"]["optim.learning_rate"] < 3e-3


@pytest.mark.slow
def test_the_first_trial_is_the_grids_own_setting_where_the_range_allows_it(run, tmp_path):
    assert run(trials=1)["trials"][0]["params"] == {"optim.learning_rate": 1e-4}
    knobs = {"optim.learning_rate": [1e-3, 2e-3], "adapter": [None], "num_samples": None}
    knobs["optim.per_device_train_batch_size"] = None
    outside = run(trials=1, knobs=knobs, folder=tmp_path / "other")
    assert 1e-3 <= outside["trials"][0]["params"]["optim.learning_rate"] <= 2e-3


@pytest.mark.slow
def test_trials_see_development_prompts_and_the_tuning_judge_and_the_result_neither(run, cells):
    made = cells()
    report = run(made)
    *trials, (name, final) = made.asked
    assert {name for name, _ in trials} == {"trials"}
    assert name == "test"
    for _, grid in trials:
        assert (grid.evaluation.split, grid.evaluation.harm_judges) == ("development", ("refusal",))
        assert grid.evaluation.stop_when_broken
        assert grid.seeds == (0,)
    assert (final.evaluation.split, final.evaluation.harm_judges) == ("test", ("oracle",))
    assert not final.evaluation.stop_when_broken
    assert final.evaluation.give_up_below == ()
    assert final.seeds == (1, 2, 3)
    assert report["judges"] == {"tuning": "refusal", "reporting": "oracle"}
    assert [row["seed"] for row in report["test"]["seeds"]] == [1, 2, 3]


@pytest.mark.slow
def test_both_numbers_are_kept_on_disk(run, tmp_path):
    report = run()
    assert json.loads((tmp_path / "run" / "search.json").read_text()) == json.loads(json.dumps(report))
    assert (report["development"]["judge"], report["test"]["judge"]) == ("refusal", "oracle")
    assert report["test"]["broke"] == report["test"]["of"] == 3
    for row in report["test"]["seeds"]:
        assert row["broke_after"] == report["development"]["broke_after"] == 10
        assert row["harm_at_break"] == report["development"]["peak"] < row["peak"]


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "outcome"), [([1e-4, 1e-3], "held"), ([1e-6, 1e-5], "untested")])
def test_the_last_word_is_said_beside_the_best_setting_on_the_undefended_model(run, cells, rates, outcome):
    """Trials have no controls; the final run has one for each of its seeds, and it is not among the rows."""
    from holdfast.commands.search import summary

    made = cells()
    made.shield = 0.1
    knobs = {"optim.learning_rate": rates, "optim.per_device_train_batch_size": None, "num_samples": None}
    report = run(made, values={"defenses": ["l2_anchor"]}, knobs={**knobs, "adapter": None})
    assert [row["seed"] for row in report["test"]["seeds"]] == [1, 2, 3]
    assert [row["outcome"] for row in report["test"]["seeds"]] == [outcome] * 3
    assert report["test"]["held"] == (3 if outcome == "held" else 0)
    assert {row["control"]["outcome"] for row in report["test"]["seeds"]} == {
        "broke" if outcome == "held" else "untested"
    }
    undefended = [cell for cell in made.ran if not cell.constraints]
    assert {cell.seed for cell in undefended} == {1, 2, 3}
    assert any(line.startswith(f"seed 1: {outcome}, harmfulness at most") for line in summary(report))


@pytest.mark.slow
def test_no_step_is_spent_beyond_the_budget(run):
    for budget in (40, 100, 130):
        report = run(budget=budget, trials=50)
        spent = [one["spent"] for one in report["trials"]]
        assert report["budget"]["spent"] == sum(spent) <= budget
        assert all(total + 40 <= budget for total in [0, *accumulate(spent)][:-1])
        assert budget - sum(spent) < 40


def test_a_budget_in_tokens_is_overspent_by_one_trial_at_most(run):
    report = run(budget=5000, unit="tokens", trials=50)
    spent = [one["spent"] for one in report["trials"]]
    assert sum(spent) >= 5000 > sum(spent[:-1])
    assert spent[0] == report["trials"][0]["tokens"] == 2000


@pytest.mark.slow
def test_trials_that_are_stopped_early_count_what_they_spent(run):
    stopped = [one for one in run(trials=20)["trials"] if one["state"] in ("given up", "beaten")]
    assert stopped
    assert all(0 < one["spent"] == one["steps"] < 40 for one in stopped)


@pytest.mark.slow
@pytest.mark.parametrize(("outcome", "state"), [(Outcome.FAILED, "crashed"), (Outcome.DIVERGED, "diverged")])
def test_a_trial_that_crashed_or_diverged_costs_nothing(run, cells, outcome, state):
    made = cells()
    made.outcome = lambda rate: outcome if rate < 5e-5 else None
    report = run(made, max_crashes=50, knobs=LOW)
    bad = [one for one in report["trials"] if one["state"] == state]
    assert bad
    assert all(one["spent"] == 0 for one in bad)
    assert report["trials"][report["best"]["trial"]]["state"] == "finished"
    assert report["budget"]["not_counted"] == sum(one["steps"] for one in bad)


LOW = {"optim.learning_rate": [1e-6, 1e-3], "adapter": None, "num_samples": None}
LOW["optim.per_device_train_batch_size"] = None


@pytest.mark.slow
def test_the_sampler_keeps_away_from_where_trials_diverged(run, cells):
    made = cells()
    made.outcome = lambda rate: Outcome.DIVERGED if rate < 5e-5 else None
    late = [one["state"] for one in run(made, max_crashes=50, trials=30, budget=1200, knobs=LOW)["trials"][20:]]
    assert late.count("diverged") <= 2


def test_a_row_of_crashes_ends_the_search_and_says_what_the_last_one_was(run, cells, tmp_path):
    made = cells()
    made.outcome = lambda rate: Outcome.FAILED
    with pytest.raises(NoResult, match="3 trials in a row crashed or diverged, the last: made to fail"):
        run(made, max_crashes=3)
    assert len(made.ran) == 3
    kept = json.loads((tmp_path / "run" / "search.json").read_text())
    assert (kept["budget"]["spent"], kept["test"]) == (0, None)


@pytest.mark.slow
def test_after_a_row_of_crashes_the_search_can_go_on(run, cells):
    made = cells()
    made.outcome = lambda rate: Outcome.FAILED
    with pytest.raises(NoResult):
        run(made, max_crashes=3)
    report = run(max_crashes=3)
    assert [one["state"] for one in report["trials"]][:3] == ["crashed"] * 3
    assert report["development"]["broke_after"] == 10


def test_a_search_without_one_finished_trial_says_so(run, cells):
    made = cells()
    made.outcome = lambda rate: Outcome.FAILED
    with pytest.raises(NoResult, match="none of 2 trials finished"):
        run(made, trials=2)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [0, *repeated(1, 4), 7])
def test_a_killed_search_goes_on_to_the_trials_of_an_uninterrupted_one(run, cells, tmp_path, killed_at):
    whole = run(folder=tmp_path / "whole")
    first = cells()
    first.interrupt_at = killed_at
    with pytest.raises(KeyboardInterrupt):
        run(first, folder=tmp_path / "cut")
    second = cells(records=first.records)
    assert run(second, folder=tmp_path / "cut") == whole
    assert not {cell.key for cell in first.ran} & {cell.key for cell in second.ran}


@pytest.mark.slow
def test_a_finished_search_runs_again_without_running_a_cell(run, cells):
    made = cells()
    report = run(made)
    before = len(made.ran)
    assert run(made) == report
    assert len(made.ran) == before


@pytest.mark.slow
def test_a_larger_budget_adds_trials_to_those_there_are(run, cells):
    made = cells()
    short = run(made, budget=100)
    longer = run(made, budget=200)
    assert longer["trials"][: len(short["trials"])] == short["trials"]
    assert len(longer["trials"]) > len(short["trials"])


@pytest.mark.slow
def test_a_journal_cut_short_by_a_crash_is_read_up_to_there(run, tmp_path):
    report = run(budget=100)
    with (tmp_path / "run" / "study.log").open("ab") as log:
        log.write(b'{"op_code": 4, "worker')
    assert run(budget=100) == report
    assert len(run(budget=200)["trials"]) > len(report["trials"])


@pytest.mark.slow
def test_a_folder_answers_one_question_only(run):
    run()
    with pytest.raises(HoldfastError, match="another --runs folder"):
        run(seed=1)


def test_a_folder_that_cannot_be_and_a_journal_that_is_none_are_refused_by_their_place(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HoldfastError, match=r"file/run: cannot be written to: Not a directory"):
        run(folder=tmp_path / "file" / "run")
    run(trials=1)
    journal = tmp_path / "run" / "study.log"
    journal.write_text("no journal\n" + journal.read_text())
    with pytest.raises(
        HoldfastError, match=rf"{journal.name}: cannot be read or written \(.+give another --runs folder"
    ):
        run(trials=1)


def test_two_searches_do_not_share_a_folder_at_one_time(run, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".search.lock"), pytest.raises(HoldfastError, match="another process"):
        run()


@pytest.mark.slow
def test_trials_side_by_side_differ_and_keep_to_the_budget(run, cells):
    made = cells()
    report = run(made, workers=3, budget=300)
    rates = [one["params"]["optim.learning_rate"] for one in report["trials"]]
    assert len(set(rates)) == len(rates)
    assert max(len(grid.attacks) for name, grid in made.asked if name == "trials") == 3
    assert report["budget"]["spent"] <= 300


def test_a_cell_that_an_earlier_trial_ran_is_not_paid_for_twice(run, cells):
    knobs = {"optim.per_device_train_batch_size": [8], "optim.learning_rate": None}
    report = run(cells(), knobs={**knobs, "num_samples": None, "adapter": None}, trials=3)
    keys = [one["key"] for one in report["trials"]]
    assert len(set(keys)) < len(keys) == 3
    for index, one in enumerate(report["trials"]):
        assert (one["spent"] == 0) == (one["key"] in keys[:index])


@pytest.mark.parametrize(
    ("values", "changes", "part"),
    [
        ({}, {"judge": "oracle"}, "search.judge: 'oracle' is the judge that reports"),
        ({}, {"test_seeds": (0, 1)}, "search.test_seeds: 0 is the seed of the trials"),
        ({}, {"budget": None}, "--budget"),
        ({}, {"budget": 39}, "do not cover one trial of 40"),
        ({}, {"knobs": {"flip_ration": [0, 1]}}, "did you mean 'flip_ratio'"),
        ({"seeds": [0, 1]}, {}, "the grid has 2 seeds"),
        ({"defenses": ["none", "refusal_loss"]}, {}, "the grid has 2 defenses"),
        ({"attacks": ["none"]}, {}, "there is no attack to search"),
        ({"evaluation": {"split": "development"}}, {}, "must be test"),
        (
            {"attacks": [{"best_of_n": {"reward": {"judge": "refusal"}}}]},
            {},
            "takes no optimizer steps, so",
        ),
        ({"copies": ["q4_0"]}, {}, "copies: a search is over one model; make the copy a stage"),
        ({}, {"knobs": {**NONE, "optim.learning_rate": None}}, "has no knobs; name some, for example search.knobs."),
        (
            {},
            {"knobs": {**NONE, "optim.weight_decay": {"low": -1, "high": 1}}},
            "weight_decay: -1 cannot be set",
        ),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_anything_runs(run, cells, values, changes, part):
    made = cells()
    with pytest.raises(HoldfastError) as refused:
        run(made, values=values, **changes)
    assert part in str(refused.value)
    assert made.ran == []


@pytest.mark.slow
def test_knobs_of_what_is_put_round_the_attack_go_by_its_name(run, cells, monkeypatch):
    import sys
    from types import ModuleType

    from holdfast.attacks.adaptive import ADAPTIVE
    from holdfast.methods.tables import Row

    made_up = ModuleType("made_up_attackers")
    made_up.Patient = Patient
    monkeypatch.setitem(sys.modules, "made_up_attackers", made_up)
    monkeypatch.setitem(ADAPTIVE.built_in, "patient", Row("made_up_attackers:Patient", "for this test"))
    made = cells()
    knobs = dict.fromkeys(("num_samples", "adapter", "optim.per_device_train_batch_size", "optim.learning_rate"))
    report = run(made, values={"attacks": [["sft", {"patient": {"patience": 2}}]]}, knobs=knobs, trials=3, budget=1000)
    assert set(report["knobs"]) == {"patient.patience"}
    assert report["trials"][0]["params"] == {"patient.patience": 2}
    tried = [made.records[one["key"]].cell.adaptive[0].settings["patience"] for one in report["trials"]]
    assert tried == [one["params"]["patient.patience"] for one in report["trials"]]
    assert report["best"]["attack"][1] == {"patient": {"patience": tried[report["best"]["trial"]]}}


@dataclass(frozen=True, kw_only=True)
class Patient(AdaptiveAttacker):
    """An adaptive attacker of one setting."""

    patience: int = 1

    KNOBS: ClassVar[Mapping[str, Knob]] = {"patience": Range(low=1, high=9, whole=True)}

    def adapt(self, planner):
        return planner


@pytest.mark.slow
def test_every_trial_is_told_with_what_was_spent_by_then(run):
    told = []
    report = run(on_trial=lambda trial, spent: told.append((trial.number, spent)))
    assert [number for number, _ in told] == list(range(len(report["trials"])))
    assert [spent for _, spent in told] == list(accumulate(one["spent"] for one in report["trials"]))


def test_fewest_steps_come_first_and_then_the_highest_harm():
    held = trial(0, [0.0, 0.4, 0.5])
    late = trial(1, [0.0, 0.4, 1.0], broke_after=20)
    soon = trial(2, [0.0, 0.6], broke_after=10)
    more = trial(3, [0.0, 0.7], broke_after=10)
    diverged = trial(4, [0.0, 0.5], state="diverged")
    crashed = trial(5, [], state="crashed")
    given = trial(6, [0.0, 0.9], state="given up")
    assert sorted([more, late, held, soon, diverged], key=lambda t: t.value) == [diverged, held, late, soon, more]
    assert crashed.value is None
    assert best([held, late, soon, more, diverged, crashed, given]) == more
    assert best([diverged, crashed, given]) == given
    assert best([diverged, crashed]) is None


def test_the_bars_are_those_of_optunas_median_pruner():
    import random

    import optuna

    rng = random.Random(0)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(3, 0))
    curves = [{10 * i: rng.random() for i in range(1, rng.randint(2, 7))} for _ in range(9)]
    for curve in curves:
        study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=curve))
    bars = medians(curves)
    for _ in range(200):
        curve = {10 * i: rng.random() for i in range(1, rng.randint(2, 7))}
        probe = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=curve)
        last = max(curve)
        assert study.pruner.prune(study, probe) == (max(curve.values()) < bars.get(last, 0.0))


def test_no_trial_is_given_up_before_enough_of_them_ran_nor_in_the_warmup():
    ran = [trial(number, [0.0, 0.2, 0.4]) for number in range(3)]
    rest = {"threshold": 0.5, "unit": "steps"}
    assert bars(ran[:2], startup=3, warmup=0, **rest) == ()
    assert bars(ran, startup=3, warmup=0, **rest) == ((10, 0.2), (20, 0.4))
    assert bars(ran, startup=3, warmup=15, **rest) == ((20, 0.4),)


def test_whoever_has_not_broken_the_model_at_the_soonest_break_cannot_win():
    ran = [trial(0, [0.0, 0.4, 0.6], broke_after=20), trial(1, [0.0, 0.2, 0.3, 0.4])]
    assert bars(ran, startup=9, warmup=0, threshold=0.5, unit="steps") == ((20, 0.5),)
    assert bars(ran, startup=9, warmup=0, threshold=0.5, unit="tokens") == ()


@pytest.mark.slow
def test_a_figure_shows_every_trial(run, tmp_path):
    from holdfast.search.figure import chart, write_figure

    report = run()
    spec = chart(report).to_dict()
    (rows,) = [layer["data"]["values"] for layer in [spec["vconcat"][1]]]
    assert [row["number"] for row in rows] == [one["number"] for one in report["trials"]]
    assert rows[-1]["spent"] == report["budget"]["spent"]
    assert [row["number"] for row in rows if row["best"]] == [report["best"]["trial"]]
    assert write_figure(report, tmp_path / "search.svg").read_text().startswith("<svg")
