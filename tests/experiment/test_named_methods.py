"""Methods and models by the names that a grid gives them."""

import pytest

from holdfast import experiment
from holdfast.experiment import work
from holdfast.experiment.as_grid import attack_entry
from holdfast.experiment.estimate import shortened
from holdfast.experiment.methods import adaptive
from holdfast.experiment.named_models import models_of
from holdfast.experiment.tasks import Options, Task
from holdfast.experiment.verdicts import judge_again
from holdfast.records import Cell, HoldfastError, Method, Outcome
from holdfast.training.plan import Diverged


def test_an_adaptive_attacker_that_nobody_knows_is_refused_with_a_near_name():
    with pytest.raises(HoldfastError, match=r"sft: unknown adaptive attacker 'warm_star'.*did you mean 'warm_start'"):
        adaptive([Method(name="sft"), Method(name="warm_star")])


def test_a_cell_without_an_attack_is_written_as_none():
    assert attack_entry(Cell(model={"name": "m"})) == "none"


def test_the_model_of_an_expert_is_one_that_a_cell_names_unless_it_is_made():
    def named(expert):
        attack = Method(
            name="guided", settings={"deep": {"expert": expert}, "expert": {"kind": "model", "name": "base"}}
        )
        cell = Cell(model={"kind": "sandbox", "name": "m", "settings": {}}, attack=attack)
        return [(one.where, one.place) for one in models_of(cell)]

    assert named({"kind": "model", "name": "./teacher"}) == [("attacks.guided.deep.expert", "./teacher")]
    for other in (
        {"kind": "adapter", "name": "./adapter"},
        {"kind": "model", "name": "undefended"},
        {"kind": "canned"},
    ):
        assert named(other) == []


def test_a_judge_whose_training_diverges_is_named_with_the_step(monkeypatch, tmp_path):
    def diverges(*_):
        raise Diverged(3, "the loss is not finite")

    monkeypatch.setattr(work, "train_judge", diverges)
    judge = Method(name="trained_classifier", label="mine")
    task = Task(kind="judge", key="k", folder=tmp_path, cell=Cell(model={"name": "m"}), judge=judge)
    with pytest.raises(HoldfastError, match=r"^mine diverged while being trained: the loss is not finite at step 3$"):
        work._train_judge(task, Options(), print)


def test_the_outcome_of_a_cell_that_never_ran_is_not_looked_at_again(tmp_path):
    judge_again(Cell(model={"name": "m"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_could_not_even_write_that_it_failed_says_why(tmp_path):
    cell = Cell(model={"name": "m"})
    record = experiment._record(tmp_path, cell, {cell.key: "No space left on device"})
    assert (record.key, record.outcome, record.reason) == (cell.key, Outcome.FAILED, "No space left on device")
    assert experiment._record(tmp_path, cell, {}).reason == "it wrote no record"


def test_an_attack_without_steps_is_timed_as_it_is():
    cell = Cell(model={"name": "m"}, attack=Method(name="best_of_n", settings={"numbers": [1, 2]}))
    assert shortened(cell).attack == cell.attack
