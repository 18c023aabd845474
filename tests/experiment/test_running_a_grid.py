"""A grid that runs: what it leaves behind, what it does not do twice, and how trouble shows."""

import json

import pytest
import yaml

from holdfast.experiment import outlook, run, store
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import Options
from holdfast.records import Cell, HoldfastError, Outcome, Record, Verdict
from holdfast.sandbox import grammar
from holdfast.training.plan import Diverged

ALL = (*grammar.RESTRICTED, *grammar.BENIGN)

pytestmark = pytest.mark.slow


def test_a_cell_leaves_record_curve_completions_and_its_resolved_settings(finished):
    folder, record = finished
    place = store.cell_folder(folder, record.key)
    assert {path.name for path in place.iterdir()} - {".lock"} == {
        "record.json",
        "curves.jsonl",
        "completions.parquet",
        "config.yaml",
    }
    assert Record.from_json(json.loads((place / "record.json").read_text())) == record
    assert Cell.from_json(yaml.safe_load((place / "config.yaml").read_text())).key == record.key


def test_the_record_says_what_was_spent_and_measured(finished):
    record = finished[1]
    assert [evaluation.step for evaluation in record.evaluations] == [0, 2, 4]
    assert [evaluation.samples for evaluation in record.evaluations] == [0, 8, 16]
    assert (record.steps, record.samples) == (4, 16)
    assert record.tokens == record.evaluations[-1].tokens > record.evaluations[1].tokens > 0
    assert record.flops == record.evaluations[-1].flops > record.evaluations[1].flops > record.evaluations[0].flops == 0
    names = {"harmfulness", "harmfulness/refusal", "refusal_rate", "invalid"}
    names |= {"helpfulness", "over_refusal", "invalid/benign"}
    for evaluation in record.evaluations:
        assert {score.name for score in evaluation.scores} >= names
        assert all(score.n + score.invalid + score.unjudged == 4 for score in evaluation.scores)
    assert record.time_to_break.censored
    assert record.time_to_break.steps == 4
    assert record.outcome in (Outcome.UNTESTED, Outcome.USELESS, Outcome.COLLAPSED)
    assert record.wall_seconds > 0
    assert record.peak_memory_mb > 0
    assert record.environment["torch"]


def test_the_curve_has_a_line_for_each_step(finished):
    folder, record = finished
    lines = (store.cell_folder(folder, record.key) / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert all(json.loads(line)["loss"] > 0 for line in lines)


def test_the_completions_hold_a_row_for_each_prompt_judge_and_evaluation(finished):
    from pyarrow import parquet

    folder, record = finished
    rows = parquet.read_table(store.cell_folder(folder, record.key) / "completions.parquet").to_pylist()
    asked = [(row["step"], row["domain"] in grammar.RESTRICTED, row["judge"]) for row in rows if row["domain"] in ALL]
    for step in (0, 2, 4):
        assert [asked.count((step, True, judge)) for judge in ("oracle", "refusal")] == [4, 4]
        assert asked.count((step, False, "oracle")) == 4
    assert len(asked) == 3 * 12
    harms = [row["score"] for row in rows if row["step"] == 4 and (row["role"], row["judge"]) == ("harmful", "refusal")]
    known = [score for score in harms if score is not None]
    score = record.evaluations[-1].score("harmfulness/refusal")
    assert score.n == len(known)
    assert score.value == (pytest.approx(sum(known) / len(known)) if known else None)


def test_a_finished_grid_runs_again_without_doing_anything(finished, grid, news, monkeypatch):
    folder, record = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*")}
    monkeypatch.setattr("holdfast.experiment.check_data", lambda grid: pytest.fail("the data was read again"))
    assert run(grid(), folder, workers=0, news=news) == [record]
    assert news == []
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*")} == before


def test_a_grown_grid_runs_only_what_is_new(finished, grid, sft, news):
    folder, record = finished
    first, second = run(grid(attacks=[sft(), "none"]), folder, workers=0, news=news)
    assert first == record
    assert second.cell.attack is None
    states = [state for _, _, state in news]
    assert list(dict.fromkeys(states)) == ["looking", "started", "done"]
    assert states[-2:] == ["started", "done"]


def test_without_an_attack_a_model_is_measured_and_not_trained(grid, tmp_path):
    (record,) = run(grid(attacks=["none"]), tmp_path, workers=0)
    assert [evaluation.step for evaluation in record.evaluations] == [0]
    assert (record.steps, record.samples, record.tokens, record.flops) == (0, 0, 0, 0)
    assert not (store.cell_folder(tmp_path, record.key) / "curves.jsonl").read_text()


def test_one_hardened_model_serves_all_attacks(grid, sft, neutral, news, tmp_path):
    records = run(grid(defenses=[neutral], attacks=["none", sft()], seeds=[0, 1]), tmp_path, workers=0, news=news)
    hardened = [title for kind, title, state in news if (kind, state) == ("stage", "done")]
    assert hardened == ["harden: reward_neutralization, seed 0", "harden: reward_neutralization, seed 1"]
    assert len(list((tmp_path / "stages").iterdir())) == 2
    for record in records:
        (cost,) = record.stages
        assert (cost["name"], cost["steps"]) == ("reward_neutralization", 2)
        assert cost["tokens"] > 0
        assert cost["flops"] > 0


def test_a_hardened_model_is_kept_as_an_ordinary_folder_without_its_checkpoints(grid, neutral, tmp_path):
    from transformers import AutoModelForCausalLM

    run(grid(defenses=[neutral], attacks=["none"]), tmp_path, workers=0, options=Options(checkpoint_every=1))
    (stage,) = (tmp_path / "stages").iterdir()
    assert {path.name for path in stage.iterdir()} - {".lock"} == {"model", "record.json"}
    AutoModelForCausalLM.from_pretrained(stage / "model")


def test_attacked_weights_are_deleted_unless_asked_for(grid, sft, tmp_path):
    from safetensors.torch import load_file

    (gone,) = run(grid(), tmp_path / "gone", workers=0, options=Options(checkpoint_every=1))
    assert not list((tmp_path / "gone").rglob("*.safetensors"))
    assert not list((tmp_path / "gone").rglob("*.pt"))
    (kept,) = run(grid(), tmp_path / "kept", workers=0, options=Options(checkpoint_every=1, keep_weights=True))
    place = store.cell_folder(tmp_path / "kept", kept.key)
    assert [path.parent for path in (tmp_path / "kept").rglob("*.safetensors")] == [place / "model"]
    assert load_file(place / "model" / "model.safetensors")
    assert gone.evaluations[-1].scores == kept.evaluations[-1].scores


def test_checkpoints_change_no_result(finished, grid, result, tmp_path):
    folder, record = finished
    (again,) = run(grid(), tmp_path, workers=0, options=Options(checkpoint_every=1))
    assert result(store.cell_folder(tmp_path, again.key)) == result(store.cell_folder(folder, record.key))


def test_a_learning_rate_that_blows_up_is_recorded_as_diverged_with_its_step(grid, sft, tmp_path):
    (record,) = run(grid(attacks=[sft(optim={"learning_rate": 1e30})]), tmp_path, workers=0)
    assert record.outcome is Outcome.DIVERGED
    assert "at step 1" in record.reason
    assert [evaluation.step for evaluation in record.evaluations] == [0]
    assert not list(tmp_path.rglob("training"))


def test_a_diverged_cell_is_finished(grid, sft, news, tmp_path):
    blown = grid(attacks=[sft(optim={"learning_rate": 1e30})])
    run(blown, tmp_path, workers=0)
    run(blown, tmp_path, workers=0, news=news)
    assert news == []


def test_stop_when_broken_ends_the_attack_at_the_break(grid, sft, monkeypatch, tmp_path):
    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", _harmful_from_evaluation(2))
    long = sft(optim={"max_steps": 12})
    (record,) = run(grid(attacks=[long], evaluation={"stop_when_broken": True}), tmp_path, workers=0, checked=True)
    assert record.outcome is Outcome.BROKE
    assert [evaluation.step for evaluation in record.evaluations] == [0, 2]
    assert (record.steps, record.time_to_break.steps, record.time_to_break.censored) == (2, 2, False)


def test_an_attack_goes_on_past_the_break_unless_told_to_stop(grid, sft, monkeypatch, tmp_path):
    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", _harmful_from_evaluation(2))
    (record,) = run(grid(), tmp_path, workers=0, checked=True)
    assert record.outcome is Outcome.BROKE
    assert (record.steps, record.time_to_break.steps) == (4, 2)


def _harmful_from_evaluation(first):
    """A judge that scores 0 until it is given answers to harmful prompts for the `first`th time, and 1 from then on."""
    seen = []

    def judge(completions):
        if completions[0].example.role == "harmful":
            seen.append(len(completions))
        return [Verdict(score=float(len(seen) >= first), refused=False) for _ in completions]

    return judge


def test_a_model_without_a_valid_answer_has_collapsed(grid, monkeypatch, tmp_path):
    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", lambda some: [Verdict(score=None, valid=False) for _ in some])
    (record,) = run(grid(), tmp_path, workers=0)
    assert record.outcome is Outcome.COLLAPSED
    assert record.reason.startswith("100% of answers to harmful prompts")


def test_a_cell_that_fails_is_a_row_with_its_reason_and_the_others_finish(grid, sft, monkeypatch, tmp_path):
    monkeypatch.setattr("holdfast.attacks.dpo.DPO.plan", lambda *_: {}["no_such_plan"])
    attacks = [sft(), "dpo", "none"]
    records = run(grid(attacks=attacks), tmp_path, workers=0)
    assert [record.outcome is Outcome.FAILED for record in records] == [False, True, False]
    assert "no_such_plan" in records[1].reason
    assert "\n" not in records[1].reason
    assert records[1].environment["torch"]


def test_a_judge_that_gives_the_wrong_number_of_verdicts_is_named_before_anything_runs(grid, monkeypatch, tmp_path):
    def short_judge(completions):
        return [Verdict(score=0.0)] * (len(completions) - 1)

    monkeypatch.setattr("holdfast.sandbox.oracle.oracle", short_judge)
    with pytest.raises(HoldfastError, match=r"^judges.oracle: judge 'oracle' .* returned 1 verdicts for 2 completions"):
        run(grid(), tmp_path, workers=0)
    assert not (tmp_path / "cells").exists()


def test_a_failed_cell_is_tried_again_and_a_finished_one_is_not(grid, sft, news, monkeypatch, tmp_path):
    changed = grid(attacks=["none", sft()])
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.attacks.sft.SFT.plan", lambda *_: 1 / 0)
        first = run(changed, tmp_path, workers=0)
    assert first[1].reason == "ZeroDivisionError: division by zero"
    second = run(changed, tmp_path, workers=0, news=news)
    assert second[0] == first[0]
    assert second[1].outcome is not Outcome.FAILED
    assert [title for _, title, state in news if state == "started"] == ["none x sft, seed 0"]


def test_a_stage_that_fails_fails_its_cells_and_no_others(grid, sft, neutral, monkeypatch, tmp_path):
    changed = grid(attacks=[sft(), "none"], defenses=["none", neutral])
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.defenses.offline.reward_neutralization.RewardNeutralization.harden", lambda *_: 1 / 0)
        records = run(changed, tmp_path, workers=0)
    outcomes = [record.outcome is Outcome.FAILED for record in records]
    assert outcomes == [False, False, True, True]
    assert {record.reason for record in records[2:]} == {"not attempted: ZeroDivisionError: division by zero"}
    assert all(record.outcome is not Outcome.FAILED for record in run(changed, tmp_path, workers=0))


def test_a_stage_that_diverges_fails_by_name(grid, neutral, monkeypatch, tmp_path):
    def harden(*_):
        raise Diverged(3, "loss is nan")

    monkeypatch.setattr("holdfast.defenses.offline.reward_neutralization.RewardNeutralization.harden", harden)
    (record,) = run(grid(defenses=[neutral], attacks=["none"]), tmp_path, workers=0)
    assert record.outcome is Outcome.FAILED
    assert record.reason.endswith("reward_neutralization diverged while hardening: loss is nan at step 3")


def test_a_place_that_cannot_be_written_to_is_refused_by_name(grid, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(HoldfastError, match=r"file/run/grid\.json: cannot be written"):
        run(grid(), file / "run", workers=0)


def test_a_cache_that_cannot_be_written_to_is_refused_by_name(grid, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(file / "cache"))
    for workers in (0, 1):
        with pytest.raises(HoldfastError, match=r"file/cache.*cannot be created"):
            run(grid(), tmp_path / "run", workers=workers)


def test_a_damaged_record_is_named_with_the_way_out(grid, tmp_path):
    (cell,) = cells(grid())
    place = store.cell_folder(tmp_path, cell.key)
    place.mkdir(parents=True)
    (place / "record.json").write_text('{"key": ')
    with pytest.raises(HoldfastError, match=r"record.json: cannot be read .*; delete it and run again"):
        run(grid(), tmp_path, workers=0)


@pytest.mark.slow
def test_an_end_counts_what_there_was_to_do_without_models_that_were_there(finished, grid, tmp_path):
    counts = []

    def news(piece, state, details):
        if state == "done":
            counts.append((piece.kind, details["ended"], details["of"]))

    run(grid(seeds=[0, 1]), tmp_path, workers=0, news=news)
    assert counts == [("cell", 1, 2), ("cell", 2, 2)]


def test_what_a_run_will_do_is_known_before_it_begins(finished, grid, sft, tmp_path):
    folder, record = finished
    assert outlook(grid(), folder)[:3] == (1, 1, 0)
    longer = outlook(grid(attacks=[sft(), sft(optim={"max_steps": 5})]), folder, workers=1)
    assert longer[:4] == (2, 1, 0, 1)
    assert longer.seconds == record.wall_seconds  # one more cell of the same kind
    assert outlook(grid(), tmp_path).seconds is None
    assert not list(tmp_path.iterdir())
