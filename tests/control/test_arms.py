"""What each arm does with its expert, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def silent(_: Any) -> None:
    pass


def shares(cell: Any, length: float = 1000.0) -> list[float]:
    from holdfast.control.learning import rule_of

    rule = rule_of(cell, length=length)
    return [rule(step, 0) for step in range(cell.steps)]


def test_a_schedule_without_a_horizon_hands_over_in_the_first_fifth(cell_of):
    alphas = shares(cell_of("dai", steps=100))
    assert alphas[0] == 0.0
    np.testing.assert_allclose(alphas[:21], np.linspace(0, 1, 21))
    assert alphas[20:] == [1.0] * 80


def test_an_arm_follows_its_own_schedule(cell_of):
    alphas = shares(cell_of({"dai": {"schedule": {"kind": "constant", "start": 0.3, "last": 0.5}}}, steps=10))
    assert alphas == [0.3] * 5 + [1.0] * 5


@pytest.mark.parametrize("arm", ["demonstrations", "cloning"])
def test_the_expert_acts_first_for_as_many_steps_as_the_blend_would_give_it(arm, cell_of):
    cell = cell_of(arm, steps=100)
    # 1 + 0.95 + ... + 0.05 = 10.5
    assert shares(cell) == [0.0] * 10 + [1.0] * 90


def test_the_jump_start_gives_an_episode_a_beginning_of_the_experts_that_gets_shorter(cell_of):
    from holdfast.control.learning import rule_of

    rule = rule_of(cell_of("jump_start", steps=100), length=50.0)
    assert [rule(0, into) for into in (0, 49, 50)] == [0.0, 0.0, 1.0]
    assert [rule(10, into) for into in (24, 25)] == [0.0, 1.0]
    assert rule(20, 0) == 1.0


def test_success_waits_until_the_learner_alone_does_half_as_well_as_the_expert(cell_of):
    from holdfast.control.learning import rule_of

    schedule = {"kind": "success", "start": 0.2, "horizon": 10}
    cell = cell_of({"dai": {"schedule": schedule}}, steps=100)
    assert [rule_of(cell, length=1.0)(step, 0) for step in (0, 50, 89, 90)] == [0.2, 0.2, 0.2, 1.0]
    done = rule_of(cell, length=1.0, succeeded=lambda: 30)
    assert [done(step, 0) for step in (30, 35, 40)] == pytest.approx([0.2, 0.6, 1.0])


@pytest.mark.slow
def test_a_guided_cell_at_alpha_1_has_the_plain_cells_curve(cell_of, pendulum_expert):
    from holdfast.control.learning import train

    plain = train(cell_of("plain"), None, silent)
    handed_over = {"dai": {"schedule": {"kind": "constant", "start": 1.0}}}
    guided = train(cell_of(handed_over), pendulum_expert, silent)
    assert guided["curve"] == plain["curve"]
    assert guided["expert_actions"] == 0
    assert guided["hand_over"] == 0


@pytest.mark.slow
def test_measuring_the_learner_asks_the_expert_nothing(cell_of, pendulum_expert):
    from holdfast.control.learning import train

    record = train(cell_of({"dai": {"schedule": {"kind": "constant", "start": 0.5}}}), pendulum_expert, silent)
    # Alpha is below 1 in the first 54 of 60 steps; five measurements of two episodes each lie within.
    assert record["expert_actions"] == record["hand_over"] == 54
    assert [row["step"] for row in record["curve"]] == [0, 15, 30, 45, 60]
    assert record["evaluation_steps"] > 10


@pytest.mark.slow
def test_a_run_behaves_as_well_as_its_expert_while_the_learner_alone_falls(cell_of, pendulum_expert):
    from holdfast.control.learning import train

    alone = {"schedule": {"kind": "constant", "start": 0.0, "last": 0.0}}
    untrained = {"learning_starts": 1000, "buffer_size": 1000}
    record = train(cell_of({"dai": alone}, steps=1000, learner=untrained), pendulum_expert, silent)
    assert [row["behavior_return"] for row in record["curve"]] == [None] * 4 + [1000.0]
    assert max(row["learner_return"] for row in record["curve"]) < 100.0


@pytest.mark.slow
def test_demonstrations_stay_in_the_buffer_and_a_clones_are_dropped(cell_of, pendulum_expert, monkeypatch):
    from holdfast.control import learning

    models = []

    def kept(*args: Any, **more: Any) -> Any:
        models.append(learner(*args, **more))
        return models[-1]

    learner = learning.learner
    monkeypatch.setattr(learning, "learner", kept)
    for arm in ("demonstrations", "cloning"):
        record = learning.train(cell_of(arm, steps=100), pendulum_expert, silent)
        assert record["expert_actions"] == 10
    assert [model.replay_buffer.size() for model in models] == [100, 91]
    first, act = models[0].replay_buffer, pendulum_expert[0]
    asked = act(first.observations[:10].reshape(10, -1)) / 3  # the pendulum's actions span [-3, 3]
    np.testing.assert_allclose(first.actions[:10].reshape(10, -1), asked, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_cloning_fits_the_actor_to_what_the_expert_did(algorithm, small):
    from holdfast.control.guidance import Guidance
    from holdfast.control.learners import clone, learner

    model = learner(algorithm, "InvertedPendulum-v5", small, seed=0)
    ask = lambda seen: 3 * np.tanh(seen[:, :1] * 4)  # noqa: E731
    model.guidance = Guidance(expert=ask, alpha=lambda step, into: 0.0, noise="before")
    model.learn(45)
    assert clone(model, steps=300, batch_size=32) < 1e-3
    seen = model.replay_buffer.observations[:45].reshape(45, -1)
    assert np.abs(model.predict(seen, deterministic=True)[0] - ask(seen)).max() < 0.5


@pytest.mark.slow
def test_a_number_that_is_none_ends_a_training(cell_of, pendulum_expert):
    from holdfast.control.learning import train
    from holdfast.training.plan import Diverged

    def broken(seen: np.ndarray) -> np.ndarray:
        return np.full((len(seen), 1), np.nan, dtype=np.float32)

    with pytest.raises(Diverged, match="buffer actions not finite at step 1"):
        train(cell_of("dai"), (broken, pendulum_expert[1]), silent)


@pytest.mark.slow
def test_a_plain_run_goes_on_for_the_experts_steps_and_is_then_measured_more_rarely(make_control):
    from holdfast.control.learning import train
    from holdfast.control.plans import cells

    tasks = {"Reacher-v5": {"steps": 40, "expert_steps": 60}}
    learner = {"net_arch": [8], "batch_size": 8, "learning_starts": 90, "buffer_size": 100}
    evaluation = {"every": 0.25, "episodes": 1}
    plain, guided = cells(make_control(tasks=tasks, learner=learner, evaluation=evaluation))
    assert (plain.total, guided.total) == (100, 40)
    record = train(plain, None, silent)
    assert [row["step"] for row in record["curve"]] == [0, 10, 20, 30, 40, 50, 100]
