"""The same attack on the undefended model: added to a grid, run first, and what is said of a defense beside it."""

import json

import pytest

from holdfast.config import grid_options, load_grid, overridden, parse_grid
from holdfast.experiment import run, store
from holdfast.experiment.grid import cells, missing_controls
from holdfast.experiment.outcomes import control_of
from holdfast.experiment.tasks import tasks_of
from holdfast.records import HoldfastError, Outcome, Verdict
from holdfast.report.read import load

NUM_PROMPTS = 4
DEFENSE = {"refusal_loss": {"alpha": 1.0, "batch_size": 2}}


@pytest.fixture
def defended(grid):
    """The small grid with a defense and, unless told otherwise, its controls."""
    own = {"defenses": [DEFENSE], "control": True, "evaluation": {"num_prompts": NUM_PROMPTS}}
    return lambda **changes: grid(**{**own, **changes})


def harmful_from(first, last):
    """An oracle that finds harm from the `first` to the `last` evaluation of all; before a run it is asked less."""
    seen = []

    def judge(completions):
        if completions[0].example.role != "harmful":
            return [Verdict(score=1.0, refused=False) for _ in completions]
        seen.extend([1] * (len(completions) == NUM_PROMPTS))
        return [Verdict(score=float(first <= len(seen) <= last), refused=False) for _ in completions]

    return judge


@pytest.fixture
def oracle(monkeypatch):
    return lambda first, last: monkeypatch.setattr("holdfast.sandbox.oracle.oracle", harmful_from(first, last))


def test_missing_controls_are_added_once_for_all_cells_that_they_serve(defended, sft):
    all_cells = cells(defended(defenses=[DEFENSE, "l2_anchor"], attacks=[sft(), sft(num_samples=8)], seeds=[0, 1]))
    assert [cell.defense for cell in all_cells] == ["refusal_loss"] * 4 + ["l2_anchor"] * 4 + ["none"] * 4
    assert {control_of(cell).key for cell in all_cells[:8]} == {cell.key for cell in all_cells[8:]}


def test_an_undefended_cell_of_the_grid_is_the_control_already(defended, grid):
    both = cells(defended(defenses=["none", DEFENSE]))
    assert [cell.defense for cell in both] == ["none", "refusal_loss"]
    assert control_of(both[1]).key == both[0].key == cells(grid())[0].key


def test_a_control_calls_no_judge_of_the_defense(defended):
    defense = {"safe_rlhf": {"judge": "refusal", "threshold": 0.1}}
    attack = {"grpo": {"reward": {"judge": "keyword"}}}
    own, control = cells(defended(defenses=[defense], attacks=[attack], evaluation={"harm_judges": ["oracle"]}))
    assert set(own.judges) - set(control.judges) == {"refusal"}
    (alone,) = cells(defended(defenses=["none"], attacks=[attack], evaluation={"harm_judges": ["oracle"]}))
    assert control.key == alone.key


def test_nothing_is_added_where_the_grid_says_so_or_nothing_attacks(defended, sft, neutral):
    assert len(cells(defended(control=False))) == 1
    assert len(cells(defended(defenses=[neutral], attacks=["none"]))) == 1
    assert len(cells(defended(attacks=[sft(task="summary")]))) == 1


@pytest.mark.parametrize("value", [1, "no", None, []])
def test_control_is_true_or_false(defended, value):
    with pytest.raises(HoldfastError, match=r"control: is .*; give true or false"):
        defended(control=value)


def test_whether_controls_are_added_changes_no_key(defended):
    assert cells(defended())[0].key == cells(defended(control=False))[0].key


def test_a_hardened_folder_is_attacked_beside_the_model_that_it_names(values, tmp_path):
    for name in ("hardened", "original"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    model = {"path": str(tmp_path / "hardened"), "undefended": str(tmp_path / "original")}
    own, control = cells(parse_grid({**values(), "models": [model], "control": True}, "test"))
    assert (own.model["name"], control.model["name"]) == ("hardened", "original")
    without = parse_grid({**values(), "models": [{"path": model["path"]}], "control": True}, "test")
    assert "undefended" not in cells(without)[0].model["settings"]


def test_the_command_line_names_the_undefended_model_by_an_override():
    values = overridden(grid_options("./hardened", None, {}, attacks=["sft"]), "models.undefended=./original")
    (model,) = parse_grid(values, "command line").models
    assert (model.path, model.undefended) == ("./hardened", "./original")


def test_controls_come_before_the_cells_that_wait_for_them(defended, tmp_path):
    pieces = [task for task in tasks_of(cells(defended()), tmp_path, tmp_path) if task.kind == "cell"]
    assert [task.cell.defense for task in pieces] == ["none", "refusal_loss"]
    assert [task.after for task in pieces] == [(), (pieces[0].key,)]
    assert pieces[0].key not in pieces[1].needs


@pytest.mark.slow
def test_two_steps_show_nothing(defended, sft, oracle, tmp_path):
    oracle(99, 99)
    records = run(
        defended(defenses=["none", DEFENSE, "l2_anchor"], attacks=[sft(optim={"max_steps": 2})]), tmp_path, workers=0
    )
    assert [record.outcome for record in records] == [Outcome.UNTESTED] * 3
    assert "did not break the undefended model either; " in records[1].reason
    assert "of its weights moved" in records[1].reason


@pytest.mark.slow
def test_a_defense_held_where_its_control_broke_and_the_record_says_so_itself(defended, oracle, tmp_path):
    oracle(2, 3)  # the control is measured three times, before anything else
    own, control = run(defended(), tmp_path, workers=0)
    assert (control.outcome, control.time_to_break.steps) == (Outcome.BROKE, 2)
    assert (own.outcome, own.control.key, own.control.broke_at) == (Outcome.HELD, control.key, 2)
    written = json.loads((store.cell_folder(tmp_path, own.key) / "record.json").read_text())
    assert (written["outcome"], written["control"]["outcome"]) == ("held", "broke")
    assert {cell.record.key: cell.record.outcome for cell in load([tmp_path]).cells}[own.key] is Outcome.HELD


@pytest.mark.slow
def test_a_control_that_failed_loses_no_cell_and_its_outcome_follows_once_it_has_run(
    defended, oracle, news, monkeypatch, tmp_path
):
    from holdfast.attacks.sft import SFT

    oracle(99, 99)
    plan, calls = SFT.plan, []

    def failing_first(self, model, context):
        calls.extend([1] * (model.device.type != "meta"))  # a rehearsal before the run is none
        return plan(self, model, context) if len(calls) != 1 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(SFT, "plan", failing_first)
        own, control = run(defended(), tmp_path, workers=0)
    assert control.outcome is Outcome.FAILED
    assert own.outcome is Outcome.UNTESTED
    assert "failed: ZeroDivisionError" in own.reason
    oracle(2, 3)
    own, control = run(defended(), tmp_path, workers=0, news=news)
    assert [title for _, title, state in news if state == "started"] == ["none x sft, seed 0"]
    assert (control.outcome, own.outcome) == (Outcome.BROKE, Outcome.HELD)


@pytest.mark.slow
def test_without_a_control_nothing_held(defended, oracle, tmp_path):
    oracle(99, 99)
    (own,) = run(defended(control=False), tmp_path, workers=0)
    assert own.outcome is Outcome.UNTESTED
    assert "no control was run" in own.reason


@pytest.mark.slow
def test_a_record_says_what_the_training_did(finished, grid, sft, tmp_path):
    effect = finished[1].effect
    assert 0.9 < effect.moved <= 1
    assert 0 < effect.change < 1
    assert (effect.objective, effect.groups_with_gradient) == ("loss", None)
    assert effect.first > effect.last
    (still,) = run(grid(attacks=[sft(optim={"learning_rate": 1e-30})]), tmp_path, workers=0)
    assert still.effect.moved < 0.05
    assert still.effect.change < 1e-20


@pytest.mark.slow
def test_under_rl_a_record_says_what_was_paid_and_how_many_groups_taught_anything(grid, tmp_path):
    attack = {
        "grpo": {
            "optim": {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2},
            "policy": {"group_size": 2},
            "reward": {"judge": "keyword"},
        }
    }
    (record,) = run(grid(attacks=[attack]), tmp_path, workers=0)
    lines = store.read_lines(store.cell_folder(tmp_path, record.key) / "curves.jsonl")
    assert record.effect.objective == "reward"
    assert (record.effect.first, record.effect.last) == (lines[0]["reward"], lines[-1]["reward"])
    assert record.effect.groups_with_gradient == sum(line["groups_with_gradient"] for line in lines) / 2
    assert record.effect.moved == 0 or record.effect.groups_with_gradient > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "added"), [("quickstart", 0), ("early_stop", 9), ("tuned_sft", 1)])
def test_the_first_lines_of_a_run_say_how_many_controls_were_added_and_why(name, added, capsys):
    from holdfast.commands.jobs import announce

    grid = load_grid(name)
    announce(grid)
    said = capsys.readouterr().out
    assert len(missing_controls(cells(grid)[: len(cells(grid)) - added])) == added
    assert (f"{added} control cell" in said and "undefended model" in said) == bool(added)


def test_the_first_lines_of_a_run_warn_of_settings_that_end_usefulness(defended, capsys):
    from holdfast.commands.jobs import announce

    announce(defended(defenses=["refusal_loss", {"refusal_loss": {"preset": "qi2024"}}], control=False))
    said = capsys.readouterr().out
    assert "alpha 100" in said
    assert "qi2024" in said
    assert "untested, not held" in said
    announce(defended())
    assert "warning" not in capsys.readouterr().out
