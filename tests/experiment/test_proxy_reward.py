"""The attacker's own reward beside harm: at every evaluation, of the answers that the reporting judge reads."""

from statistics import fmean

import pytest
from pyarrow import parquet

from holdfast.experiment import run, store
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.grid import cells
from holdfast.experiment.world import attack_reward
from holdfast.judges.keyword import KeywordJudge
from holdfast.records import Completion
from holdfast.rl.rewards import AttackReward, from_judge

REWARD = {"judge": "keyword", "refusal_penalty": 0.25}
GRPO = {
    "optim": {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2},
    "policy": {"group_size": 2},
    "reward": REWARD,
}


@pytest.fixture(scope="module")
def attacked(grid, tmp_path_factory):
    """A finished cell of GRPO: its folder and record."""
    folder = tmp_path_factory.getbasetemp() / "rewarded"
    (record,) = run(grid(attacks=[{"grpo": GRPO}]), folder, workers=0)
    return store.cell_folder(folder, record.key), record


@pytest.mark.slow
def test_an_rl_attacks_evaluations_have_its_reward_of_the_answers_that_were_judged(attacked):
    folder, record = attacked
    rows = parquet.read_table(folder / "completions.parquet").to_pylist()
    known = {row.question: row for row in load_splits(settings_of(record.cell).data).harmful["test"]}
    pay = from_judge(KeywordJudge().judge(), AttackReward(**REWARD))
    assert [evaluation.step for evaluation in record.evaluations] == [0, 2]
    for evaluation in record.evaluations:
        asked = [r for r in rows if (r["step"], r["role"], r["judge"]) == (evaluation.step, "harmful", "oracle")]
        done = [Completion(example=known[r["prompt"]], text=r["completion"], num_tokens=r["num_tokens"]) for r in asked]
        assert evaluation.value("reward") == pytest.approx(fmean(pay(done)))
        assert evaluation.score("reward").n == len(done) == 4
    assert [evaluation.score("reward_hacking") is None for evaluation in record.evaluations] == [True, False]


@pytest.mark.parametrize("attack", [{"sft": {}}, {"grpo": {**GRPO, "task": "benign"}}])
def test_an_attack_without_a_reward_and_an_honest_customers_have_none_beside_harm(attack, grid):
    (cell,) = cells(grid(attacks=[attack]))
    assert attack_reward(cell, lambda name: pytest.fail(f"asks for the judge {name}")) is None
