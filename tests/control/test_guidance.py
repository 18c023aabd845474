"""The mixin: what is executed and stored, and that the learner alone is the library's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

PENDULUM = "InvertedPendulum-v5"


def guidance(alpha: float, *, action: float = 1.5, **more: Any) -> tuple[Any, list[int]]:
    """An expert with one answer (the pendulum's actions span [-3, 3]), and the numbers of questions it was asked."""
    from holdfast.control.guidance import Guidance

    asked: list[int] = []

    def expert(seen: np.ndarray) -> np.ndarray:
        asked.append(len(seen))
        return np.full((len(seen), 1), action, dtype=np.float32)

    return Guidance(expert=expert, alpha=lambda step, into: alpha, **more), asked


def everything(model: Any) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """All parameters, of targets too, and all that the replay buffer holds."""
    buffer, size = model.replay_buffer, model.replay_buffer.size()
    kept = [buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards, buffer.dones]
    return list(model.policy.state_dict().values()), [array[:size] for array in kept]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_at_alpha_1_the_run_is_the_librarys_own_bit_for_bit_and_the_expert_is_never_asked(algorithm, trained, small):
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.noise import NormalActionNoise

    from holdfast.control.library import make

    blind, asked = guidance(1.0)
    ours = trained(algorithm, blind, steps=100)
    noise = NormalActionNoise(np.zeros(1), np.full(1, small.noise)) if algorithm == "td3" else None
    plain = {"td3": TD3, "sac": SAC}[algorithm](
        "MlpPolicy",
        make(PENDULUM),
        policy_kwargs={"net_arch": [16, 16], "optimizer_kwargs": {"fused": True}},
        batch_size=32,
        buffer_size=2000,
        learning_starts=50,
        action_noise=noise,
        seed=3,
        device="cpu",
    ).learn(100)
    assert asked == []
    weights, kept = everything(ours)
    others, library = everything(plain)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(kept, library, strict=True))
    assert len(kept[0]) == 100


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_at_alpha_0_the_experts_action_is_executed_and_stored_from_the_first_random_step_on(algorithm, trained):
    alone, asked = guidance(0.0, noise="before")
    model = trained(algorithm, alone, steps=70)
    assert np.abs(model.replay_buffer.actions[:70] - 0.5).max() < 1e-6
    assert sum(asked) == 70


def test_random_first_steps_are_blended_too(trained):
    half, _ = guidance(0.5, noise="before")
    stored = trained("td3", half, steps=40).replay_buffer.actions[:40].ravel()
    own = trained("td3", None, steps=40).replay_buffer.actions[:40].ravel()
    # The same first 40 draws: they depend on no observation.
    np.testing.assert_allclose(stored, 0.25 + 0.5 * own, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_noise_after_the_blend_keeps_its_size_and_before_it_shrinks(algorithm, trained):
    def spread(noise: str, alpha: float, steps: int) -> float:
        model = trained(algorithm, guidance(alpha, action=0.0, noise=noise)[0], steps=steps)
        return float(model.replay_buffer.actions[50:steps].std())

    after, before = spread("after", 0.0, 150), spread("before", 0.0, 80)
    assert before == 0.0
    assert after == pytest.approx(0.1, rel=0.25) if algorithm == "td3" else after > 0.3
    if algorithm == "td3":
        assert spread("before", 0.01, 80) < 0.02


def test_what_is_executed_never_leaves_the_action_space(trained):
    strong, _ = guidance(0.0, action=3.0, noise="after")
    assert np.abs(trained("td3", strong, steps=50).replay_buffer.actions).max() <= 1.0


def test_predicting_never_asks_the_expert(trained):
    alone, asked = guidance(0.0)
    model = trained("td3", alone, steps=60)
    before = list(asked)
    model.predict(np.zeros((5, 4), dtype=np.float32), deterministic=True)
    assert asked == before


def test_the_expert_sees_what_the_environment_gave_where_the_learner_sees_it_normalised(small):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from holdfast.control.guidance import Guidance, GuidedTD3
    from holdfast.control.library import make

    seen: list[np.ndarray] = []

    def expert(observations: np.ndarray) -> np.ndarray:
        seen.append(observations.copy())
        return np.zeros((len(observations), 1), dtype=np.float32)

    env = VecNormalize(DummyVecEnv([lambda: make(PENDULUM)]), norm_reward=False)
    model = GuidedTD3("MlpPolicy", env, learning_starts=100, buffer_size=100, seed=0, device="cpu")
    model.guidance = Guidance(expert=expert, alpha=lambda step, into: 0.0)
    model.learn(20)
    kept = model.replay_buffer.observations[:20]  # the library stores what the environment gave
    np.testing.assert_array_equal(np.concatenate(seen), kept.reshape(20, -1))


@pytest.mark.slow
def test_the_jump_start_counts_the_steps_of_each_episode(trained):
    from holdfast.control.guidance import Guidance

    counted: list[tuple[int, int]] = []

    def alpha(step: int, into: int) -> float:
        counted.append((step, into))
        return 1.0

    model = trained("td3", Guidance(expert=lambda seen: seen, alpha=alpha), steps=100)
    ends = np.flatnonzero(model.replay_buffer.dones[:100].ravel()) + 1
    assert [step for step, into in counted if into == 0] == [0, *(int(end) for end in ends if end < 100)]
    assert len(ends) > 1
    assert [step for step, _ in counted] == list(range(100))
