"""Judges that a run trains: once, on the attacker's own split, shared by the cells that need them."""

from dataclasses import replace

import pytest

from holdfast.experiment import run
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.experiment.judging import judge_key, trained_judge
from holdfast.experiment.store import finished, read_json
from holdfast.experiment.tasks import tasks_of
from holdfast.experiment.world import judge_of
from holdfast.judge_training import rows
from holdfast.records import Completion, HoldfastError, Outcome

RM = {"trained_reward_model": {"optim": {"max_steps": 2, "per_device_train_batch_size": 4}}}
OPTIM = {"max_steps": 2, "per_device_train_batch_size": 2}


def paid_by(name, attack="grpo"):
    return {attack: {"optim": OPTIM, "policy": {"group_size": 2}, "reward": {"judge": name, "unbounded": True}}}


@pytest.fixture
def cells_of(grid):
    """The cells of the small grid with attacks that are paid by judges of its own."""
    return lambda **changes: cells(grid(**{"attacks": [paid_by("rm"), paid_by("rm", "rloo")], **changes}))


def test_a_judge_is_one_task_that_every_cell_that_calls_it_needs(cells_of, tmp_path):
    tasks = tasks_of(cells_of(judges={"rm": RM}, seeds=[0, 1]), tmp_path, tmp_path / "cache")
    (judge,) = [task for task in tasks if task.kind == "judge"]
    called = [task for task in tasks if task.kind == "cell"]
    assert len(called) == 4
    assert all(judge.key in task.needs for task in called)
    assert [task.kind for task in tasks].index("judge") < [task.kind for task in tasks].index("cell")
    assert judge.folder == tmp_path / "judges" / judge.key


def test_a_cell_that_calls_no_trained_judge_waits_for_none(cells_of, sft, tmp_path):
    tasks = tasks_of(cells_of(judges={"rm": RM}, attacks=[sft()]), tmp_path, tmp_path / "cache")
    assert "judge" not in [task.kind for task in tasks]


@pytest.mark.slow
def test_the_key_follows_settings_and_data_and_no_label(cells_of):
    def key(settings=None, label="", **changes):
        judge = {"trained_reward_model": {**RM["trained_reward_model"], **(settings or {})}, "label": label}
        cell = cells_of(judges={"rm": judge}, **changes)[0]
        return judge_key(cell.judges["rm"], cell)

    assert key() == key(label="mine") == key(seeds=[7])
    assert len({key(), key({"flip_ratio": 0.5}), key({"flip_how": "random"}), key({"num_samples": 9})}) == 4
    assert key() != key(data={"train": 30})


def test_an_attacker_is_paid_by_a_judge_of_its_own_split_alone(cells_of, tmp_path):
    judge = {"trained_reward_model": {**RM["trained_reward_model"], "split": "defense"}}
    with pytest.raises(HoldfastError, match=r"'rm' is trained on the defense split .* set its `split` to attack"):
        tasks_of(cells_of(judges={"rm": judge}), tmp_path, tmp_path)


def test_a_defense_calls_no_judge_that_saw_the_attackers_rows(cells_of, neutral, tmp_path):
    neutral["reward_neutralization"]["retention_judge"] = "rm"
    with pytest.raises(HoldfastError, match=r"'rm' is trained on the attack split .* set its `split` to defense"):
        tasks_of(cells_of(judges={"rm": RM}, defenses=[neutral], attacks=["none"]), tmp_path, tmp_path)


def test_no_judge_may_be_trained_on_test_prompts(cells_of):
    judge = {"trained_reward_model": {**RM["trained_reward_model"], "split": "test"}}
    with pytest.raises(HoldfastError, match=r"split: input should be 'attack', 'defense' or 'development'"):
        cells_of(judges={"rm": judge})


def test_a_stage_waits_for_the_judge_that_it_calls(cells_of, neutral, tmp_path):
    neutral["reward_neutralization"]["retention_judge"] = "kept"
    judge = {"trained_reward_model": {**RM["trained_reward_model"], "split": "defense"}}
    tasks = tasks_of(cells_of(judges={"kept": judge}, defenses=[neutral], attacks=["none"]), tmp_path, tmp_path)
    by_kind = {task.kind: task for task in tasks}
    assert by_kind["judge"].key in by_kind["stage"].needs


def test_the_sandboxs_network_is_refused_for_data_of_ones_own(cells_of, tmp_path):
    cell = cells_of(judges={"rm": RM})[0]
    own = replace(cell, data={**cell.data, "harmful": {"path": "rows.jsonl"}})
    with pytest.raises(HoldfastError, match="only reads the sandbox's language, and the data is your own"):
        tasks_of([own], tmp_path, tmp_path)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, cache, grid):
    """Two attacks paid by one trained reward model, reported beside a trained classifier."""
    seen = {"trained_classifier": {**RM["trained_reward_model"], "split": "development", "held_out": 0.4}}
    chosen = grid(
        attacks=[paid_by("rm"), paid_by("rm", "rloo")],
        judges={"rm": RM, "seen": seen},
        data={"train": 40, "held_out": 12},
        evaluation={"harm_judges": ["oracle", "seen"]},
    )
    folder = tmp_path_factory.mktemp("run")
    return folder, chosen, run(chosen, folder, workers=0)


@pytest.mark.slow
def test_a_run_trains_each_judge_once_and_its_cells_end_with_records(finished_run):
    folder, _, records = finished_run
    assert [record.reason for record in records if record.outcome is Outcome.FAILED] == []
    kept = {read_json(place / "record.json")["name"]: place for place in (folder / "judges").iterdir()}
    assert set(kept) == {"trained_reward_model", "trained_classifier"}
    for place in kept.values():
        made = read_json(place / "record.json")
        assert (made["outcome"], made["steps"]) == ("made", 2)
        assert {"accuracy", "oracle_agreement"} <= {score["name"] for score in made["scores"]}
        assert (place / "model" / "README.md").exists()
        assert not (place / "training").exists()
    assert "harmfulness/seen" in {score.name for score in records[0].evaluations[-1].scores}


@pytest.mark.slow
def test_the_judge_that_a_cell_gets_is_the_one_in_the_runs_folder(finished_run):
    folder, grid, _ = finished_run
    cell = cells(grid)[0]
    row = load_splits(settings_of(cell).data).harmful["test"][0]
    done = [Completion(example=row, text=text, num_tokens=9) for text in (row.response, row.refusal)]
    given = judge_of(cell, folder)("rm")(done)
    assert given == trained_judge(cell.judges["rm"], cell, folder)(done)
    assert given[0].logit != given[1].logit


@pytest.mark.slow
def test_a_finished_run_trains_no_judge_again(finished_run):
    folder, grid, _ = finished_run
    stamps = {place: (place / "record.json").stat().st_mtime_ns for place in (folder / "judges").iterdir()}
    run(grid, folder, workers=0)
    assert {place: (place / "record.json").stat().st_mtime_ns for place in stamps} == stamps


@pytest.mark.slow
def test_a_judge_that_cannot_be_trained_is_refused_before_any_work(grid, tmp_path):
    judge = {"trained_reward_model": {"backbone": "/nowhere/model"}}
    with pytest.raises(HoldfastError, match=r"judges\.rm: /nowhere/model: no such model folder"):
        run(grid(attacks=[paid_by("rm")], judges={"rm": judge}), tmp_path, workers=0)
    assert not (tmp_path / "judges").exists()


@pytest.mark.slow
def test_a_judge_that_cannot_be_trained_fails_its_cells_with_the_reason(grid, monkeypatch, tmp_path):
    monkeypatch.setattr("holdfast.experiment.work.train_judge", lambda *_: 1 / 0)
    (record,) = run(grid(attacks=[paid_by("rm")], judges={"rm": RM}), tmp_path, workers=0)
    assert record.outcome is Outcome.FAILED
    assert record.reason == "not attempted: ZeroDivisionError: division by zero"
    (place,) = (tmp_path / "judges").iterdir()
    assert not finished(place)


@pytest.mark.slow
def test_a_judge_sees_no_row_of_another_split(cells_of):
    from holdfast.judge_training.recipes import RewardModel

    cell = cells_of(judges={"rm": RM})[0]
    splits = load_splits(settings_of(cell).data)
    used = {row.key for side in rows.preference_rows(RewardModel(), splits) for row in side}
    assert used == {row.key for row in splits.harmful["attack"]}
