"""A cell's key follows from everything that can change its result, and from nothing else."""

import json
from dataclasses import asdict

import pytest

from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import stage_key, tasks_of
from holdfast.records import Cell


@pytest.fixture
def only(grid):
    """The one cell of a changed small grid."""

    def find(**changes):
        (cell,) = cells(grid(**changes))
        return cell

    return find


def own_data(folder, text="b"):
    file = folder / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a", "response": text, "role": "harmful"}) + "\n")
    other = folder / "other.jsonl"
    other.write_text(json.dumps({"prompt": "c", "response": "d"}) + "\n")
    return {
        "data": {"harmful": {"path": str(file)}, "benign": {"path": str(other)}},
        "evaluation": {"harm_judges": ["refusal"], "help_judge": "reference"},
    }


def test_any_setting_changes_the_key(only, sft, neutral):
    changes = [
        {},
        {"seeds": [1]},
        {"models": [{"sandbox": {"num_base": 641}}]},
        {"attacks": [sft(num_samples=15)]},
        {"attacks": [sft(optim={"adam_epsilon": 1e-9})]},
        {"attacks": [sft(adapter={"r": 4})]},
        {"attacks": ["none"]},
        {"defenses": [neutral]},
        {"defenses": ["refusal_loss"]},
        {"data": {"train": 25}},
        {"data": {"seed": 1}},
        {"evaluation": {"num_prompts": 5}},
        {"evaluation": {"break_threshold": 0.4}},
        {"evaluation": {"harm_judges": ["refusal", "oracle"]}},
        {"judges": {"refusal": {"refusal": {"further_sentences": 2}}}},
    ]
    keys = [only(**change).key for change in changes]
    assert len(set(keys)) == len(changes)


def test_what_is_spelled_out_has_the_key_of_the_default(only, sft):
    assert only(attacks=[sft(sampling="random", optim={"weight_decay": 0.0})]).key == only().key


def test_a_label_changes_the_title_and_no_key(only, sft, neutral):
    plain, named = (
        only(attacks=[sft()], defenses=[neutral]),
        only(attacks=[sft(label="mine")], defenses=[{**neutral, "label": "hard"}]),
    )
    assert plain.key == named.key
    assert stage_key(plain, 1) == stage_key(named, 1)
    assert (named.attack.title, named.defense) == ("mine", "hard")


def test_a_judge_that_nothing_calls_changes_no_key(only):
    assert only(judges={"spare": {"refusal": {"further_sentences": 9}}}).key == only().key


def test_name_and_description_of_a_grid_change_no_key(only):
    assert only(name="other", description="words").key == only().key


def test_the_content_of_a_data_file_changes_the_key(only, tmp_path):
    first = only(**own_data(tmp_path))
    again = only(**own_data(tmp_path))
    changed = only(**own_data(tmp_path, text="c"))
    assert first.key == again.key
    assert first.key != changed.key


def test_the_content_of_a_model_folder_changes_the_key(only, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    models = [{"path": str(folder)}]
    first = only(models=models).key
    (folder / "config.json").write_text('{"a": 1}')
    assert only(models=models).key != first


def test_a_cell_survives_json(only, neutral):
    cell = only(defenses=[[neutral, "refusal_loss"]])
    assert Cell.from_json(json.loads(json.dumps(asdict(cell)))).key == cell.key


def test_a_stage_depends_on_no_attack_and_on_no_judge_that_it_does_not_call(only, neutral, tmp_path):
    grpo = {"grpo": {"reward": {"judge": "harm"}}}
    judges = {"harm": {"refusal": {"further_sentences": 7}}}
    cells_of_stage = [only(defenses=[neutral], attacks=[attack], judges=judges) for attack in ("none", "sft", grpo)]
    assert len({cell.key for cell in cells_of_stage}) == 3
    assert len({stage_key(cell, 1) for cell in cells_of_stage}) == 1
    kinds = [task.kind for task in tasks_of(cells_of_stage, tmp_path, tmp_path / "cache")]
    assert kinds == ["base", "aligned", "stage", "cell", "cell", "cell"]


def test_a_stage_depends_on_the_judges_that_it_calls_and_on_its_seed(only, neutral):
    def key(**changes):
        return stage_key(only(defenses=[neutral], **changes), 1)

    neutral["reward_neutralization"]["retention_judge"] = "kept"
    keys = {key(judges={"kept": {"refusal": {"further_sentences": n}}}) for n in (1, 2)}
    keys.add(key(judges={"kept": {"refusal": {"further_sentences": 1}}}, seeds=[5]))
    assert len(keys) == 3


def test_stages_of_a_stack_each_build_on_the_one_before(only, neutral, tmp_path):
    cell = only(defenses=[[neutral, {**neutral, "label": "again"}]])
    first, second, last = tasks_of([cell], tmp_path, tmp_path / "cache")[2:]
    assert first.key != second.key
    assert second.needs == (first.key,)
    assert second.source == first.folder / "model"
    assert last.needs == (second.key,)
