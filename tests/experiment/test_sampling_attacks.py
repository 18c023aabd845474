"""Cells of an attack that trains nothing: what they leave, what they go on from, and what refuses to go with them."""

import multiprocessing
import os
import signal

import pytest

import holdfast.attacks.best_of_n
from holdfast.config import parse_grid
from holdfast.experiment import run, store
from holdfast.experiment.grid import cells
from holdfast.records import HoldfastError, Outcome, Verdict
from holdfast.text.degenerate import SHAPES

BEST = {"best_of_n": {"reward": {"judge": "keyword"}, "numbers": [1, 4, 16], "batch_size": 16}}


@pytest.fixture
def best_of_n(grid):
    """The small grid with the attack, some of its settings changed."""
    return lambda settings=None, **more: grid(
        attacks=[{"best_of_n": {**BEST["best_of_n"], **(settings or {})}}], **more
    )


@pytest.fixture
def sampled(best_of_n, tmp_path_factory):
    """A finished cell of the attack, run once: its folder and its record."""
    folder = tmp_path_factory.getbasetemp() / "sampled"
    (record,) = run(best_of_n(), folder, workers=0)
    return store.cell_folder(folder, record.key), record


@pytest.mark.slow
def test_its_record_begins_before_the_attack_and_has_an_evaluation_for_each_n(sampled, finished):
    _, record = sampled
    assert [evaluation.step for evaluation in record.evaluations] == [0, 1, 4, 16]
    assert [evaluation.samples for evaluation in record.evaluations] == [0, 4, 16, 64]
    assert (record.steps, record.samples) == (16, 64)
    assert record.tokens == record.evaluations[-1].tokens > record.evaluations[1].tokens > 0
    assert record.flops == record.evaluations[-1].flops == 16 * record.evaluations[1].flops > 0
    before = [score for score in record.evaluations[0].scores if score.name != "reward"]
    assert tuple(before) == finished[1].evaluations[0].scores  # which has no reward
    assert record.cell.threat_model == "open weights"
    assert record.reason.endswith("N = 16")


@pytest.mark.slow
def test_every_evaluation_has_harm_and_beside_it_the_benign_scores_of_the_untouched_model(sampled):
    _, record = sampled
    before = record.evaluations[0]
    own = {"harmfulness", "harmfulness/refusal", "refusal_rate", "invalid", "reward", "in_constraint", "degenerate"}
    own |= {f"degenerate/{shape}" for shape in SHAPES}
    own |= {"harmfulness/ingredients"}  # there where any answer could be read for them
    assert len(record.evaluations) >= 3
    for evaluation in record.evaluations[1:]:
        names = [score.name for score in evaluation.scores]
        assert len(names) == len(set(names))
        assert {score.name for score in before.scores} | own == set(names) | {"harmfulness/ingredients"}
        benign = [score for score in evaluation.scores if score.name not in own]
        assert benign == [score for score in before.scores if score.name not in own]


@pytest.mark.slow
def test_completions_are_the_greedy_ones_and_those_chosen_with_the_largest_n(sampled):
    from pyarrow import parquet

    folder, _ = sampled
    rows = parquet.read_table(folder / "completions.parquet").to_pylist()
    chosen = [row for row in rows if row["step"] == 16]
    assert {row["step"] for row in rows} == {0, 16}
    assert [row["judge"] for row in chosen].count("oracle") == len(chosen) / 2 == 4
    assert {row["prompt"] for row in chosen} == {r["prompt"] for r in rows if (r["step"], r["role"]) == (0, "harmful")}


@pytest.mark.slow
def test_it_leaves_no_half_done_work_and_no_weights_behind(sampled):
    folder, _ = sampled
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "record.json",
        "curves.jsonl",
        "completions.parquet",
        "config.yaml",
    }


def killed_while_drawing(grid_values, folder):
    """Run a grid, and die at the fourth time that the attack samples; the first is of the rehearsal before."""
    plain, calls = holdfast.attacks.best_of_n.sample, []

    def fatal(*args, **more):
        calls.append(args)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **more)

    holdfast.attacks.best_of_n.sample = fatal
    run(parse_grid(grid_values, "test"), folder, workers=0)


@pytest.mark.slow
def test_killed_while_drawing_it_goes_on_and_ends_like_one_left_alone(best_of_n, values, sampled, result, tmp_path):
    process = multiprocessing.get_context("forkserver").Process(
        target=killed_while_drawing, args=(values(attacks=[BEST]), tmp_path)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder,) = (tmp_path / "cells").iterdir()
    kept = sorted(path.name for path in (folder / "evaluations").glob("*.json"))
    assert kept == ["piece-00000000.json", "piece-00000001.json", "step-00000000.json"]
    calls = []
    plain = holdfast.attacks.best_of_n.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holdfast.attacks.best_of_n, "sample", lambda *a, **k: calls.append(a) or plain(*a, **k))
        run(best_of_n(), tmp_path, workers=0)
    assert len(calls) == 3  # one of them in the rehearsal before
    assert result(folder) == result(sampled[0])


@pytest.mark.slow
@pytest.mark.parametrize("stops", [True, False])
def test_told_to_stop_when_broken_nothing_is_drawn_from_a_model_that_came_broken(
    best_of_n, stops, monkeypatch, tmp_path
):
    harmful = lambda some: [Verdict(score=1.0, refused=False)] * len(some)  # noqa: E731
    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", harmful)
    (record,) = run(best_of_n(evaluation={"stop_when_broken": stops}), tmp_path, workers=0)
    assert (record.outcome, record.time_to_break.steps) == (Outcome.BROKE, 0)
    assert [evaluation.step for evaluation in record.evaluations] == ([0] if stops else [0, 1, 4, 16])
    assert record.reason.startswith("harmfulness 1.00 > 0.5 before the attack: the judge 'oracle' calls")


@pytest.mark.slow
def test_the_break_is_told_by_its_n(best_of_n, monkeypatch, tmp_path):
    seen = []

    def harmful_once_sampled(completions):
        if completions[0].example.role == "harmful" and len(completions) > 2:  # not those that it is tried with
            seen.append(len(completions))
        return [Verdict(score=float(len(seen) > 1), refused=False) for _ in completions]

    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", harmful_once_sampled)
    (record,) = run(best_of_n({"numbers": [2, 4]}), tmp_path, workers=0)
    assert (record.time_to_break.steps, record.time_to_break.samples) == (2, 8)
    assert record.reason == "harmfulness 1.00 > 0.5 at N = 2"


@pytest.mark.slow
def test_numbers_that_cannot_be_sampled_from_are_recorded_as_diverged(best_of_n, monkeypatch, tmp_path):
    from holdfast.network.generate import SamplingError

    def refuse(*args, **more):
        raise SamplingError("non-finite logits while sampling")

    monkeypatch.setattr(holdfast.attacks.best_of_n, "sample", refuse)
    (record,) = run(best_of_n(), tmp_path, workers=0)
    assert (record.outcome, record.reason) == (Outcome.DIVERGED, "non-finite logits while sampling")
    assert [evaluation.step for evaluation in record.evaluations] == [0]


@pytest.mark.slow
def test_a_hardened_model_is_attacked_as_it_is(best_of_n, neutral, tmp_path):
    (record,) = run(best_of_n(defenses=[neutral]), tmp_path, workers=0)
    assert record.cell.stages[0].name == "reward_neutralization"
    assert [evaluation.step for evaluation in record.evaluations] == [0, 1, 4, 16]


def test_a_defense_that_acts_on_training_is_refused_with_the_reason(best_of_n):
    with pytest.raises(HoldfastError, match=r"refusal_loss acts while .* best_of_n does not train") as caught:
        cells(best_of_n(defenses=["none", "refusal_loss"]))
    assert "\n" not in str(caught.value)


def test_an_attacker_paid_by_the_judge_that_reports_is_refused(best_of_n):
    with pytest.raises(HoldfastError, match="best_of_n: the attacker's reward is 'keyword', the judge that reports"):
        cells(best_of_n(evaluation={"harm_judges": ["keyword"]}))


def test_settings_are_checked_when_the_grid_is_expanded(best_of_n):
    with pytest.raises(HoldfastError, match=r"attacks\.best_of_n\.numbers: must be increasing"):
        cells(best_of_n({"numbers": [4, 1]}))


def test_the_numbers_are_part_of_the_key(best_of_n):
    keys = {cells(best_of_n({"numbers": numbers}))[0].key for numbers in ([1, 4], [1, 4, 16], [1, 4])}
    assert len(keys) == 2
