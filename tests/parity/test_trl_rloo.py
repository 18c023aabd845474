"""Holdfast's RLOO, with TRL's settings, has TRL's advantages, loss and gradients on identical batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trl_losses import (
    GROUP,
    LONGEST,
    PAIRS,
    REWARDS,
    completions_only,
    given_completions,
    holdfast_batch,
    trl_batch,
)
from trl_parity import KINDS, RTOL, assert_same, plain_settings, small_model

from holdfast.losses.policy_gradient import kl_estimate
from holdfast.network.forward import forward
from holdfast.network.models import Model
from holdfast.rl.experience import Rollout
from holdfast.rl.policy import Policy, advantages
from holdfast.tensors import target_mask, token_logprobs
from holdfast.training.objectives import policy_gradient

pytest.importorskip("trl")
PUBLISHED = Policy(
    group_size=GROUP, baseline="leave_one_out", scale="none", ratio="sequence", kl_in="reward", kl_estimator="k1"
)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return small_model(request.param)


@pytest.fixture
def rloo(model: Model, tmp_path: Path) -> Callable[..., Any]:
    """An RLOOTrainer on a copy of the model, without a KL term; tests that want one set it."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def build(reward: Any = lambda completions, **_: [0.0] * len(completions), **more: Any) -> Any:
        settings = RLOOConfig(
            **plain_settings(tmp_path),
            per_device_train_batch_size=len(PAIRS),
            num_generations=GROUP,
            max_completion_length=LONGEST,
            beta=0.0,
            **more,
        )
        trainer = RLOOTrainer(
            model=copy.deepcopy(model.network),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["<5> <6>"] * len(PAIRS)}),
            processing_class=model.tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return build


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True], ids=["on policy", "clipped"])
def test_the_rloo_loss_and_its_gradients_equal_trls(model: Model, rloo: Callable[..., Any], moved: bool) -> None:
    paid = torch.tensor(REWARDS)
    batch = holdfast_batch()
    batch |= advantages(PUBLISHED, {})(Rollout(rewards=paid, group_size=GROUP, mask=target_mask(batch["loss_mask"])))
    now = token_logprobs(forward(model.network, batch), batch["input_ids"]).detach()
    mask = target_mask(batch["loss_mask"])
    old = now
    if moved:
        old = now + 0.1 * torch.randn(now.shape, generator=torch.Generator().manual_seed(1))
        batch["old_logprobs"] = old
        ratio = ((now - old) * mask).sum(-1).exp()
        assert 0.1 < float(((ratio < 0.8) | (ratio > 1.2)).float().mean()) < 0.9
    trainer = rloo(epsilon=0.2)
    theirs = trainer._compute_loss(
        trainer.model, trl_batch(advantages=batch["advantages"], old_logps=(old * mask).sum(-1))
    )
    objective = policy_gradient(
        clip_low=0.2, clip_high=0.2, reduction="sequence", ratio=PUBLISHED.ratio, max_tokens=LONGEST
    )
    ours, _ = objective(model.network.train(), batch)
    # On policy the loss is the mean of the advantages, which is 0 up to rounding.
    assert_same(model.network, ours, trainer.model, theirs, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["full"], indirect=True)
@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("rewards", [REWARDS, [None, *REWARDS[1:]]], ids=["all paid", "one missing"])
def test_rloo_advantages_with_the_kl_in_the_reward_equal_trls(
    model: Model, rloo: Callable[..., Any], beta: float, rewards: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rloo(reward=lambda completions, **_: rewards)
    batch, mask = holdfast_batch(), target_mask(holdfast_batch()["loss_mask"])
    with torch.no_grad():
        now = token_logprobs(forward(model.network.eval(), batch), batch["input_ids"])
    before = now + 0.3 * torch.randn(now.shape, generator=torch.Generator().manual_seed(1))
    reference, measure = object(), trainer._get_per_token_logps_and_entropies

    def logprobs(network: Any, *arguments: Any, **more: Any) -> Any:
        if network is reference:
            return completions_only(before), None, None
        return measure(network, *arguments, **more)

    trainer.beta, trainer.ref_model = beta, reference
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", logprobs)
    monkeypatch.setattr(trainer, "_generate", lambda prompts: (*given_completions(prompts)[:2], [""] * len(PAIRS)))
    scored = trainer._generate_and_score_completions([{"prompt": "<5> <6>"}] * len(PAIRS))

    paid = torch.tensor([float("nan") if reward is None else reward for reward in rewards])
    rollout = Rollout(rewards=paid, group_size=GROUP, mask=mask, kl=kl_estimate(now, before, "k1"))
    ours = advantages(replace(PUBLISHED, kl_coef=beta), {})(rollout)["advantages"]
    torch.testing.assert_close(ours, scored["advantages"], rtol=RTOL, atol=1e-5)
