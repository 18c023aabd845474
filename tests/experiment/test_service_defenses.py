"""Safe RLHF and Security Vectors as parts of a grid: what is refused beforehand, kept, and told."""

import copy
import json

import pytest

from holdfast.config import parse_grid
from holdfast.experiment import run, store
from holdfast.experiment.grid import cells
from holdfast.experiment.tasks import Options
from holdfast.network.models import load
from holdfast.records import HoldfastError, Outcome

ADAPTED = {"max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
GRPO = {"grpo": {"optim": ADAPTED, "policy": {"group_size": 2}, "reward": {"judge": "keyword"}}}
SAFE = {"safe_rlhf": {"judge": "refusal", "threshold": 0.2}}
VECTORS = {"security_vectors": {"vector": {"r": 2}, "optim": {**ADAPTED, "max_steps": 2}}}


@pytest.fixture
def service(values):
    """The small grid with constrained attacks."""
    return lambda **changes: parse_grid(values(**copy.deepcopy(changes)), "test")


def curve_of(folder, record):
    lines = (store.cell_folder(folder, record.key) / "curves.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_attack_without_rollouts_is_refused_when_the_grid_is_expanded(service):
    with pytest.raises(HoldfastError, match=r"safe_rlhf: .* it acts on the rewards .* sft trains on answers"):
        cells(service(defenses=[SAFE]))


def test_an_attack_without_rollouts_before_the_one_with_them_is_refused_too(service):
    first = [GRPO, {"warm_start": {"optim": {**ADAPTED, "max_steps": 2}}}]
    with pytest.raises(HoldfastError, match=r"safe_rlhf: .* on the rewards .* warm_start trains on answers"):
        cells(service(defenses=[SAFE], attacks=[first]))
    first[1]["warm_start"]["optim"]["max_steps"] = 0
    assert len(cells(service(defenses=[SAFE], attacks=[first]))) == 1


def test_a_defense_may_not_act_by_the_judge_that_reports(service):
    unfair = {"safe_rlhf": {"judge": "oracle", "threshold": 0.2}}
    with pytest.raises(HoldfastError, match="safe_rlhf: 'oracle' is the judge that reports harmfulness"):
        cells(service(defenses=[unfair], attacks=[GRPO]))


def test_what_replaces_the_loss_goes_before_what_adds_to_it(service):
    with pytest.raises(HoldfastError, match=r"constrained_sft replaces the attack's loss; name it before refusal_loss"):
        cells(service(defenses=[["refusal_loss", "constrained_sft"]]))
    assert len(cells(service(defenses=[["constrained_sft", "refusal_loss"]]))) == 1


def test_a_customer_may_be_paid_for_a_harmless_task_by_the_judge_that_reports(service):
    honest = copy.deepcopy(GRPO)
    honest["grpo"] |= {"reward": {"judge": "oracle"}, "task": "summary"}
    assert len(cells(service(attacks=[honest]))) == 1
    with pytest.raises(HoldfastError, match="early_stop: the attacker's reward is 'oracle'"):
        cells(service(attacks=[[honest, {"early_stop": {"at": "harm", "judge": "oracle"}}]]))


@pytest.mark.slow
def test_a_customers_own_task_is_trained_on_and_measured(service, tmp_path):
    sft = {"sft": {"num_samples": None, "task": "quiz", "optim": ADAPTED}}
    (record,) = run(service(attacks=[sft]), tmp_path, workers=0)
    assert record.steps == 4
    assert record.evaluations[-1].score("quiz").n == 4


@pytest.mark.slow
def test_divergence_from_the_start_is_measured_on_request(service, tmp_path):
    (record,) = run(service(evaluation={"kl_to_start": True}), tmp_path, workers=0)
    start, *_, last = record.evaluations
    assert start.value("kl") == start.value("kl/benign") == 0.0
    assert last.value("kl") > 0.01


@pytest.mark.slow
def test_records_tell_the_share_of_layers_that_were_computed_twice(service, tmp_path):
    bounded = {**ADAPTED, "max_steps": 2, "gradient_checkpointing": "auto"}
    sft = {"sft": {"num_samples": 16, "optim": {**bounded, "max_activation_mb": 1}, "adapter": {"r": 2}}}
    (record,) = run(service(defenses=[{"rmu": {"optim": bounded}}], attacks=[sft]), tmp_path, workers=0)
    assert record.outcome is not Outcome.FAILED, record.reason
    shares = [step["recomputed"] for step in curve_of(tmp_path, record)]
    assert 0 < record.environment["recomputed"] == max(shares) <= 1
    (stage,) = (tmp_path / "stages").glob("*/record.json")
    assert json.loads(stage.read_text())["environment"]["recomputed"] == 0


def test_a_threshold_that_was_forgotten_is_missed_when_the_grid_is_expanded(service):
    with pytest.raises(HoldfastError, match=r"defenses\.safe_rlhf\.threshold: is not set"):
        cells(service(defenses=[{"safe_rlhf": {"judge": "refusal"}}], attacks=[GRPO]))


def test_the_judge_of_costs_is_one_of_the_cells_judges(service):
    (cell,) = cells(service(defenses=[SAFE], attacks=[GRPO]))
    assert "refusal" in cell.judges


@pytest.mark.slow
def test_a_constrained_cell_tells_the_multiplier_of_each_step(service, tmp_path):
    (record,) = run(service(defenses=[SAFE], attacks=[GRPO]), tmp_path, workers=0)
    assert record.outcome is not Outcome.FAILED, record.reason
    assert [0 < step["multiplier"] <= 5 for step in curve_of(tmp_path, record)] == [True] * 4


@pytest.mark.slow
def test_kept_weights_hold_nothing_of_the_vector_whose_price_is_told_with_the_first_step(service, tmp_path):
    (record,) = run(service(defenses=[VECTORS]), tmp_path, workers=0, options=Options(keep_weights=True))
    assert record.outcome is not Outcome.FAILED, record.reason
    folder = store.cell_folder(tmp_path, record.key)
    assert not list(folder.glob("**/adapter_*"))
    assert not list(folder.glob("**/holdfast_tensors*"))
    model = load(folder / "model")
    assert not any("lora" in name for name in model.network.state_dict())
    first, *others = curve_of(tmp_path, record)
    assert first["vector/steps"] == 2
    assert first["vector/samples"] == 8
    assert not any("vector/steps" in step for step in others)
    (cost,) = record.stages
    assert (cost["name"], cost["steps"], cost["samples"]) == ("security_vectors", 2, 8)
    assert 0 < cost["flops"] < record.flops


@pytest.mark.slow
def test_checkpoints_change_no_result_of_the_two_together(service, result, tmp_path):
    grid = service(defenses=[[SAFE, VECTORS]], attacks=[GRPO])
    (plain,) = run(grid, tmp_path / "plain", workers=0)
    (cut,) = run(grid, tmp_path / "cut", workers=0, options=Options(checkpoint_every=2))
    assert plain.outcome is not Outcome.FAILED, plain.reason
    one, other = (result(store.cell_folder(tmp_path / name, plain.key)) for name in ("plain", "cut"))
    assert one == other
    assert cut.key == plain.key
