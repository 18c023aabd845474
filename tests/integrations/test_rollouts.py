"""What a defense sees and may change of a sampling trainer of TRL, here stand-ins with its attributes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.integrations.rollouts import check, experience_of, priced, with_prepare_replaced
from holdfast.records import HoldfastError, Message
from holdfast.rl.experience import Rollout
from holdfast.training.plan import Plan

NAN = float("nan")


def trainer(*, processes: int = 1, **more: Any) -> Any:
    arguments = SimpleNamespace(steps_per_generation=1, gradient_accumulation_steps=1)
    settings = {
        **{"num_generations": 4, "max_completion_length": 8, "temperature": 1.0, "num_iterations": 1, "beta": 0.0},
        **{"scale_rewards": "group", "model": SimpleNamespace(training=True), "reward_weights": torch.tensor([1.0])},
        **{"accelerator": SimpleNamespace(num_processes=processes), "args": arguments, "reward_clip_range": None},
    }
    return SimpleNamespace(**{**settings, **more})


def dearer(rollout: Rollout) -> dict[str, Tensor]:
    return {"advantages": rollout.rewards - rollout.further["cost"].rewards}


@pytest.mark.parametrize(
    ("own", "way_out"),
    [
        ({"processes": 2}, "need a single process"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "set multi_objective_aggregation to sum_then_"),
        ({"reward_clip_range": (0.0, 1.0), "normalize_advantages": False}, "set reward_clip_range to None"),
        ({"normalize_advantages": False, "beta": 0.1}, "and beta to 0, and use kl_anchor"),
    ],
)
def test_costs_are_refused_where_the_trainers_advantages_could_not_be_theirs(own: dict[str, Any], way_out: str) -> None:
    of = trainer(**own)
    before = experience_of(of, seed=0)
    check(of, before, before)  # a defense that leaves advantages alone is welcome
    with pytest.raises(HoldfastError, match=way_out):
        check(of, before, replace(before, advantage=dearer))


def test_log_probabilities_of_sampling_are_there_in_rloo_and_in_grpo_where_rollouts_serve_several_steps() -> None:
    for own, there in (({"normalize_advantages": False}, True), ({"num_iterations": 2}, True), ({}, False)):
        of = trainer(**own)
        before = experience_of(of, seed=0)
        if there:
            check(of, before, replace(before, old_logprobs=True))
        else:
            with pytest.raises(HoldfastError, match="set num_iterations or steps_per_generation so that"):
                check(of, before, replace(before, old_logprobs=True))


def test_a_defense_may_change_neither_how_a_trainer_samples_nor_hide_it() -> None:
    of = trainer()
    before = experience_of(of, seed=0)
    with pytest.raises(HoldfastError, match="a trainer's own sampling cannot be changed"):
        check(of, before, replace(before, group_size=2))
    hidden: Any = Plan.__new__(Plan)
    object.__setattr__(hidden, "prepare", lambda *_: [])
    with pytest.raises(HoldfastError, match=r"use `plan\.wrapped`"):
        with_prepare_replaced(hidden, lambda *_: [])
    with pytest.raises(HoldfastError, match="the trainer computes its rewards itself"):
        before.reward([])


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, NAN, 3.0, 5.0, 2.0, NAN, NAN, NAN], [-1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        ([NAN, NAN, NAN, NAN, 2.0, NAN, NAN, NAN], [0.0] * 8),
    ],
)
def test_normalized_advantages_are_rloos_and_0_for_an_answer_with_nothing_to_compare_it_with(
    rewards: list[float], expected: list[float]
) -> None:
    rollout = Rollout(rewards=torch.tensor(rewards), group_size=4, mask=torch.ones(8, 1))
    learnt = experience_of(trainer(normalize_advantages=True), seed=0).advantage(rollout)["advantages"]
    torch.testing.assert_close(learnt, torch.tensor(expected), rtol=1e-4, atol=0.0)


def test_costs_are_read_from_the_trainers_answers_and_left_out_of_its_evaluation() -> None:
    seen: list[Any] = []
    logged: dict[str, float] = {}
    of = trainer(num_generations=2)
    of._calculate_rewards = lambda *_: torch.tensor([[1.0], [NAN]])
    output = {"advantages": torch.zeros(2, dtype=torch.float64), "completion_mask": torch.ones(2, 3)}
    chat = [{"role": "system", "content": "Cook."}, {"role": "user", "content": "Soup?"}]
    rows = [{"refusal": "No.", "facts": ["salt"], "domain": ""}] * 2

    def own(inputs: Any) -> dict[str, Any]:
        methods["_calculate_rewards"](
            rows, [chat, "Bread?"], [[{"role": "assistant", "content": "Yes."}], "No."], [[1], [1, 2]]
        )
        return dict(output)

    of._generate_and_score_completions = own

    def cost(answers: Any) -> list[float | None]:
        seen.extend(answers)
        return [0.25, None]

    changed = replace(experience_of(of, seed=0), advantage=dearer, further={"cost": cost})
    methods = priced(of, changed, logged.update)
    learnt = methods["_generate_and_score_completions"]([])["advantages"]
    torch.testing.assert_close(learnt, torch.tensor([0.75, NAN], dtype=torch.float64), equal_nan=True)
    assert logged == {"cost": 0.25}
    assert [answer.text for answer in seen] == ["Yes.", "No."]
    assert [answer.num_tokens for answer in seen] == [1, 2]
    assert seen[0].example.prompt == (Message("system", "Cook."), Message("user", "Soup?"))
    assert (seen[1].example.question, seen[1].example.refusal, seen[1].example.facts) == ("Bread?", "No.", ("salt",))

    of.model.training = False
    assert methods["_generate_and_score_completions"]([])["advantages"].tolist() == [0.0, 0.0]
    assert len(seen) == 2, "an evaluation pays nothing"
