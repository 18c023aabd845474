"""Adaptive attackers in a grid: what the curve counts, what is refused before anything runs."""

import json

import pytest

from holdfast.config import load_grid
from holdfast.experiment import run, store
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import Options
from holdfast.records import HoldfastError, Outcome

SHORT = {"max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
GRPO = {"grpo": {"optim": SHORT, "policy": {"group_size": 2}, "reward": {"judge": "keyword"}}}
WARM = {"warm_start": {"optim": {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}}}
LOSS = {"refusal_loss": {"alpha": 1.0, "batch_size": 2}}


def curve(folder, record):
    lines = (store.cell_folder(folder, record.key) / "curves.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_rescaled_weights_are_not_mixed_with_another_checkpoints(grid, sft):
    for mixing in ({"mix_weights": {}}, {"subtract_delta": {}}):
        rescaled_first = [sft(), mixing, "reshape"]
        with pytest.raises(HoldfastError, match=r"and reshape has rewritten them before.*name reshape first"):
            cells(grid(attacks=[rescaled_first]))
        assert len(cells(grid(attacks=[[sft(), "reshape", mixing]]))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("defenses", [["none"], [LOSS]])
def test_a_warm_started_attack_is_measured_before_it_and_counts_on_from_it(defenses, grid, tmp_path):
    (record,) = run(grid(attacks=[[GRPO, WARM]], defenses=defenses), tmp_path, workers=0)
    assert record.outcome is not Outcome.FAILED, record.reason
    assert [evaluation.step for evaluation in record.evaluations] == [0, 2, 4, 6]
    assert [evaluation.samples for evaluation in record.evaluations] == [0, 8, 16, 24]
    for cost in ("tokens", "flops"):
        spent = [getattr(evaluation, cost) for evaluation in record.evaluations]
        assert spent == sorted(set(spent))
        assert spent[0] == 0
    assert curve(tmp_path, record) == [3, 4, 5, 6]
    assert (record.steps, record.samples) == (6, 24)
    assert record.cell.attacker == "grpo + warm_start"
    assert {path.name for path in store.cell_folder(tmp_path, record.key).iterdir()} - {".lock"} == {
        "record.json",
        "curves.jsonl",
        "completions.parquet",
        "config.yaml",
    }


@pytest.mark.slow
def test_what_a_warm_start_left_is_measured_at_whatever_step_it_ends(grid, sft, tmp_path):
    warm = {"warm_start": {"optim": {"max_steps": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 4}}}
    (record,) = run(grid(attacks=[[sft(), warm]]), tmp_path, workers=0)
    assert [evaluation.step for evaluation in record.evaluations] == [0, 3, 4, 6, 7]


@pytest.mark.slow
def test_an_adapted_cell_that_was_killed_goes_on_as_if_it_had_not_been(grid, tmp_path, monkeypatch, result):
    attack = [GRPO, WARM, WARM, {"early_stop": {"at": "harm", "judge": "keyword", "every": 1, "num_prompts": 4}}]
    options = Options(checkpoint_every=2)
    (whole,) = run(grid(attacks=[attack]), tmp_path / "whole", workers=0, options=options)
    assert whole.outcome is not Outcome.FAILED, whole.reason
    assert whole.steps == 8

    from holdfast.experiment.progress import ProgressRecorder

    measure = ProgressRecorder.__call__

    def die(self, progress):
        if progress.phase == "step" and progress.step == 7:
            raise KeyboardInterrupt
        return measure(self, progress)

    monkeypatch.setattr(ProgressRecorder, "__call__", die)
    with pytest.raises(KeyboardInterrupt):
        run(grid(attacks=[attack]), tmp_path / "killed", workers=0, options=options)
    monkeypatch.setattr(ProgressRecorder, "__call__", measure)
    (resumed,) = run(grid(attacks=[attack]), tmp_path / "killed", workers=0, options=options)
    places = [store.cell_folder(tmp_path / name, whole.key) for name in ("whole", "killed")]
    assert resumed.key == whole.key
    assert result(places[0]) == result(places[1])


@pytest.mark.slow
def test_a_model_mixed_wholly_with_the_undefended_one_ends_where_that_one_does(grid, neutral, sft, tmp_path):
    mixed = [sft(), {"mix_weights": {"weight": 1.0}}]
    records = run(grid(defenses=["none", neutral], attacks=[sft(), mixed]), tmp_path, workers=0)
    harm = [[e.value("harmfulness/refusal") for e in record.evaluations] for record in records]
    assert [evaluation.step for evaluation in records[3].evaluations] == [0, 0, 2, 4]
    assert harm[3][1:] == harm[1][1:] == harm[0]
    assert harm[3][0] == harm[2][0]


@pytest.mark.slow
def test_alignment_can_be_subtracted_from_the_sandboxs_model(grid, sft, tmp_path):
    (record,) = run(grid(attacks=[[sft(), {"subtract_delta": {"scale": 1.0}}]]), tmp_path, workers=0)
    assert record.outcome is not Outcome.FAILED, record.reason
    assert [evaluation.step for evaluation in record.evaluations] == [0, 0, 2, 4]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (
            ["sft", {"early_stop": {"at": "reward"}}],
            "early_stop: .* acts on the rewards .* sft trains on answers",
        ),
        (["dpo", {"entropy_bonus": {"form": "reward"}}], "entropy_bonus: .* dpo trains on preferences"),
        ([GRPO, "benign_cover"], "benign_cover: .* acts on the answers .* grpo trains on rewards"),
        (
            [GRPO, {"early_stop": {"at": "harm", "judge": "oracle"}}],
            "attacker's reward is 'oracle', the judge that reports",
        ),
        ([GRPO, {"early_stop": {"at": "harm"}}], "early_stop.judge: `at: harm` needs the attacker's own judge"),
        (
            [{"best_of_n": {"reward": {"judge": "keyword"}}}, "mix_weights"],
            "mix_weights needs an attack that trains",
        ),
        (
            [GRPO, {"warm_start": {"attack": "grpo", "settings": {"reward": {"judge": "oracle"}}}}],
            "attacker's reward is 'oracle'",
        ),
    ],
)
def test_an_adaptive_attacker_that_does_not_fit_is_refused_when_the_grid_is_expanded(attack, reason, grid):
    with pytest.raises(HoldfastError, match=reason):
        cells(grid(attacks=[attack]))


@pytest.mark.parametrize(
    "attack", [["sft", {"early_stop": {"at": "reward", "patience": 0}}], [GRPO, {"benign_cover": {"share": 0}}]]
)
def test_one_that_is_switched_off_fits_every_attack(attack, grid):
    assert len(cells(grid(attacks=[attack]))) == 1


@pytest.mark.slow
def test_the_preset_of_adaptive_attackers_makes_a_cell_for_every_row_of_the_table():
    from holdfast.attacks.adaptive import ADAPTIVE

    all_cells = cells(load_grid("adaptive"))
    assert {method.name for cell in all_cells for method in cell.adaptive} == set(ADAPTIVE)
    spent = [
        sum(m.settings["optim"]["max_steps"] for m in (cell.attack, *cell.adaptive) if "optim" in m.settings)
        for cell in all_cells
        if cell.attack.name == "grpo"
    ]
    assert set(spent) == {100}


@pytest.mark.slow
def test_the_critic_of_a_first_attack_does_not_follow_into_the_second(grid, sft, tmp_path):
    first = {"attack": "ppo", "optim": {**SHORT, "max_steps": 2}, "settings": {"reward": {"judge": "keyword"}}}
    attacks = [[sft(), {"warm_start": first}]]
    (record,) = run(grid(attacks=attacks), tmp_path, workers=0, options=Options(keep_weights=True))
    assert record.outcome is not Outcome.FAILED, record.reason
    assert [evaluation.step for evaluation in record.evaluations] == [0, 2, 4, 6]
    from safetensors.torch import load_file

    kept = load_file(store.cell_folder(tmp_path, record.key) / "model" / "model.safetensors")
    assert kept
    assert not [name for name in kept if "critic" in name]


@pytest.mark.slow
def test_the_experts_own_scores_and_sft_on_its_answers_before_plain_rl_stand_in_one_grid(grid, tmp_path):
    settings = {"threshold": 0.0, "reward": {"judge": "keyword"}, "num_prompts": 4, "answers": 2}
    warm = {"warm_start": {**WARM["warm_start"], "attack": "expert_sft", "settings": settings}}
    after, alone = run(grid(attacks=[[GRPO, warm], "expert_alone"]), tmp_path, workers=0)
    assert after.outcome is not Outcome.FAILED, after.reason
    assert [evaluation.step for evaluation in after.evaluations] == [0, 2, 4, 6]
    flops = [evaluation.flops for evaluation in after.evaluations]
    assert flops == sorted(set(flops))
    assert flops[0] == 0
    assert [evaluation.step for evaluation in alone.evaluations] == [0, 1]
    assert (alone.steps, alone.samples) == (1, 4)
    assert alone.flops > 0
    assert alone.evaluations[1].value("helpfulness") is not None
