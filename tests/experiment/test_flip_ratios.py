"""Attacks over the flip ratio: the preset's cells differ in nothing else, and a run of such cells one table."""

import csv
import re
from collections import defaultdict

import pytest

from holdfast.config import load_grid
from holdfast.experiment import run
from holdfast.experiment.grid import cells
from holdfast.experiment.judging import refuse_foreign_data, trained_judges
from holdfast.experiment.methods import configured
from holdfast.records import Outcome
from holdfast.report import write_report
from holdfast.report.summarise.labels import flip_of

RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@pytest.fixture(scope="module")
def preset():
    """The cells of the preset by attack and flip."""
    cells_by_flip = defaultdict(list)
    for cell in cells(load_grid("flips")):
        cells_by_flip[cell.attack.name, flip_of(cell)].append(cell)
    return cells_by_flip


@pytest.mark.slow
def test_the_preset_has_every_ratio_turned_round_and_by_a_coin_for_each_attack(preset):
    flips = {(ratio, how) for ratio in RATIOS for how in ("reverse", "random") if ratio or how == "reverse"}
    assert set(preset) == {(attack, flip) for attack in ("sft", "dpo", "ppo") for flip in flips}
    assert {tuple(cell.seed for cell in group) for group in preset.values()} == {(0, 1, 2)}


def test_the_cells_of_one_attack_differ_in_flip_and_seed_alone(preset):
    rest = defaultdict(set)
    for (attack, flip), group in preset.items():
        for cell in group:
            settings = dict(cell.attack.settings)
            if attack == "ppo":
                name = settings["reward"]["judge"]
                ratio, how = cell.judges[name].settings["flip_ratio"], cell.judges[name].settings["flip_how"]
                settings["reward"] = {**settings["reward"], "judge": ""}
                others = {key: value for key, value in cell.judges[name].settings.items() if "flip" not in key}
            else:
                ratio, how = settings.pop("flip_ratio"), settings.pop("flip_how")
                others = {}
            assert (ratio, how) == flip
            rest[attack].add(str((settings, others, cell.data, cell.evaluation, cell.model)))
    assert {attack: len(kinds) for attack, kinds in rest.items()} == {"sft": 1, "dpo": 1, "ppo": 1}


def test_every_attack_trains_on_as_many_sequences_a_step_at_one_learning_rate(preset):
    sequences = {"sft": 1, "dpo": 2, "ppo": 1}
    for (attack, _), (cell, *_) in preset.items():
        optim = configured(cell.attack, "attack").optim
        assert optim.per_device_train_batch_size * optim.gradient_accumulation_steps * sequences[attack] == 64
        assert optim.learning_rate == 1e-4


@pytest.mark.slow
def test_ppo_is_paid_raw_by_a_reward_model_of_the_attackers_split_and_each_is_trained_once(preset):
    trained = {}
    for (attack, _), group in preset.items():
        for cell in group:
            refuse_foreign_data(cell)
            if attack == "ppo":
                assert cell.attack.settings["reward"]["unbounded"]
            assert bool(trained_judges(cell)) == (attack == "ppo")
            trained |= trained_judges(cell)
    assert len(trained) == 2 * len(RATIOS) - 1


@pytest.mark.slow
def test_a_run_over_the_ratios_of_reward_models_becomes_one_table(grid, tmp_path):
    quick = {"max_steps": 2, "per_device_train_batch_size": 4}
    judges = {f"rm{ratio}": {"trained_reward_model": {"flip_ratio": ratio, "optim": quick}} for ratio in (0, 1)}
    attacks = [{"ppo": {"optim": quick, "reward": {"judge": name, "unbounded": True}}} for name in judges]
    records = run(grid(attacks=attacks, judges=judges), tmp_path / "run", workers=0)
    assert [record.reason for record in records if record.outcome is Outcome.FAILED] == []
    page = write_report([tmp_path / "run"], tmp_path / "r.html")
    with page.with_suffix(".csv").open(newline="") as file:
        points = [(row["attack"], row["flip_ratio"], row["flip_how"]) for row in csv.DictReader(file)]
    assert points == [("ppo (flip_ratio=0)", "0.0", "reverse"), ("ppo (flip_ratio=1)", "1.0", "reverse")]
    assert re.findall(r'data-field="ratio">(.*?)<', page.read_text()) == ["0", "1"]
