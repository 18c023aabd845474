"""What a cell will need, counted on from its first steps."""

import json
from types import SimpleNamespace

import pytest

from holdfast.experiment import estimate as estimates
from holdfast.experiment import run, store
from holdfast.experiment.estimate import Needs, Times, estimate, seconds, shortened
from holdfast.experiment.grid import cells
from holdfast.records import HoldfastError


def needs(**changes):
    costs = {"before": 0.0, "first_step": 0.0, "step": 0.0, "evaluation": 0.0, "after": 0.0}
    return Needs(**{"title": "cell", "steps": 10, "evaluations": 2, "memory_mb": 100.0, **costs, **changes})


def silent(piece, state, details):
    pass


def test_the_whole_is_the_sum_of_its_parts():
    whole = needs(before=5.0, first_step=3.0, step=2.0, evaluation=7.0, after=1.0)
    assert whole.seconds == 5 + 3 + 9 * 2 + 2 * 7 + 1


def test_a_step_costs_what_later_ones_took_and_an_evaluation_follows_the_last():
    reached = {0: 10.0, 1: 19.0, 2: 21.0, 3: 23.0, 4: 25.0}
    costs = seconds((4.0, 31.0), reached, measured=30.0, steps=50, rollout=1)
    assert costs == {"before": 6.0, "first_step": 9.0, "step": 2.0, "evaluation": 5.0, "after": 1.0}
    assert seconds((4.0, 31.0), reached, measured=None, steps=50, rollout=1) == {**costs, "evaluation": 0, "after": 6}


def test_steps_that_share_a_rollout_cost_their_mean():
    # Each first step of a rollout takes 5 seconds and each second one 1.
    reached = {0: 0.0, 1: 5.0, 2: 6.0, 3: 11.0, 4: 12.0, 5: 17.0, 6: 18.0, 7: 23.0}
    costs = seconds((0.0, 33.0), reached, measured=33.0, steps=50, rollout=2)
    assert costs["step"] == 3
    assert costs["evaluation"] == 10


def test_what_is_as_short_as_the_probe_is_timed_as_a_whole_but_for_its_evaluations():
    costs = seconds((4.0, 20.0), {0: 10.0, 1: 12.0, 2: 14.0}, measured=19.0, steps=2, rollout=1)
    assert needs(steps=2, evaluations=1, **costs).seconds == 16
    assert needs(steps=2, evaluations=2, **costs).seconds == 21


def test_steps_are_counted_from_those_that_came_before():
    costs = seconds((0.0, 40.0), {20: 10.0, 21: 19.0, 22: 21.0, 23: 23.0, 24: 25.0}, measured=25.0, steps=9, rollout=1)
    assert (costs["before"], costs["first_step"], costs["step"]) == (10, 9, 2)


def test_a_probe_that_ends_itself_early_is_counted_on_too():
    costs = seconds((0.0, 9.0), {0: 1.0, 1: 4.0, 2: 6.0}, measured=9.0, steps=50, rollout=1)
    assert (costs["first_step"], costs["step"], costs["evaluation"]) == (3, 2, 3)
    assert seconds((0.0, 9.0), {0: 1.0, 1: 4.0}, measured=9.0, steps=50, rollout=1)["step"] == 3


def test_steps_of_a_warm_start_are_not_those_of_the_training_after_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(estimates.time, "monotonic", lambda: now[0])
    piece, times = SimpleNamespace(key="a"), Times(news=silent)
    for at, step in enumerate([0, 1, 2, 3, 3, 0, 1, 2, 2]):
        now[0] = float(at)
        times(piece, "progress", {"step": step, "max_steps": 9})
    assert times.reached["a"] == {0: 5.0, 1: 6.0, 2: 7.0}
    assert times.measured["a"] == 8.0


def test_a_probe_differs_in_its_steps_and_in_what_could_end_it(grid, sft, neutral):
    attack = sft(optim={"max_steps": 50})
    (cell,) = cells(grid(attacks=[attack], defenses=[neutral], evaluation={"stop_when_broken": True}))
    short = shortened(cell)
    assert short.attack.settings["optim"]["max_steps"] == 4
    assert short.attack.settings["optim"]["learning_rate"] == cell.attack.settings["optim"]["learning_rate"]
    assert short.stages[0].settings["optim"]["max_steps"] == 2
    assert short.evaluation["every"] > 4
    assert not short.evaluation["stop_when_broken"]
    assert short.evaluation["num_prompts"] == cell.evaluation["num_prompts"]


@pytest.mark.slow
def test_a_hardening_and_an_attack_are_estimated_apart_and_with_the_memory_that_they_then_use(
    grid, sft, neutral, tmp_path
):
    own = grid(attacks=[sft(optim={"max_steps": 9})], defenses=[neutral])
    (cell,) = cells(own)
    hardening, attack = estimate([cell], news=silent)
    assert (hardening.steps, hardening.evaluations) == (2, 0)
    assert (attack.steps, attack.evaluations) == (9, 5)
    assert attack.step > 0
    run(own, tmp_path, workers=1)
    record = json.loads((store.cell_folder(tmp_path, cell.key) / "record.json").read_text())
    assert attack.memory_mb == pytest.approx(record["peak_memory_mb"], rel=0.25)


@pytest.mark.slow
def test_cells_that_differ_in_their_steps_alone_are_estimated_each_and_a_warm_start_is_before_them(grid, sft):
    warm = {"optim": {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}}
    attacks = [sft(label="short", optim={"max_steps": 9}), sft(label="long", optim={"max_steps": 30})]
    own = grid(attacks=[*attacks, [attacks[0], {"warm_start": warm}]])
    first, second, third = estimate(cells(own), news=silent)
    assert [part.steps for part in (first, second, third)] == [9, 30, 9]
    assert second.seconds > first.seconds
    assert third.step > 0


def test_an_attack_that_does_not_train_has_no_steps_to_count(grid):
    with pytest.raises(HoldfastError, match="only attacks that train"):
        estimate(
            cells(
                grid(attacks=[{"best_of_n": {"reward": {"judge": "oracle"}}}], evaluation={"harm_judges": ["refusal"]})
            ),
            news=silent,
        )
    with pytest.raises(HoldfastError, match="only attacks that train"):
        estimate(cells(grid(attacks=["none"])), news=silent)
