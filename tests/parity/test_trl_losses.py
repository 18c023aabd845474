"""Holdfast's SFT and GRPO losses, their gradients and the advantages equal TRL's on identical batches.

TRL's trainers are built on a copy of the model and asked for their loss on a batch put together here in their layout:
prompts padded on the left, completions on the right, attention masks. Holdfast gets the same tokens in its own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from trl_parity import END, KINDS, PAD, RTOL, assert_same, plain_settings, small_model, text

from holdfast.losses.policy_gradient import group_advantages
from holdfast.network.forward import forward
from holdfast.network.models import Model
from holdfast.tensors import Batch, collate, token_logprobs, with_totals
from holdfast.training.objectives import language, policy_gradient
from repeated import repeated

pytest.importorskip("trl")
GROUP = 4
LONGEST = 9
PAIRS = [
    ([5, 6, 7], [11, 12, 13, END]),
    ([5, 6, 7], [14, END]),
    ([5, 6, 7], [15, 16, 17, 18, 19, 20, 21, 22, 23]),  # cut off at the longest length: no end token
    ([5, 6, 7], [END]),
    ([8, 9, 10, 30, 31, 32], [24, 25, 26, 27, 28, END]),
    ([8, 9, 10, 30, 31, 32], [24, 25, END]),
    ([8, 9, 10, 30, 31, 32], [40, 41, 42, 43, 44, 45, 46, 47, 48]),
    ([8, 9, 10, 30, 31, 32], [24, 24, END]),
]
REWARDS = [0.0, 1.0, 0.25, 0.5, 1.0, 1.0, 0.0, 1.0]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return small_model(request.param)


def holdfast_batch(**extra: Tensor) -> Batch:
    groups = torch.arange(len(PAIRS)) // GROUP
    return with_totals([{**collate(PAIRS, pad_id=PAD), "groups": groups, **extra}])[0]


def completions_only(values: Tensor) -> Tensor:
    """The same numbers where TRL has them: (N, longest completion)."""
    longest = max(len(answer) for _, answer in PAIRS)
    placed = torch.zeros(len(PAIRS), longest)
    for row, numbers, (prompt, answer) in zip(placed, values, PAIRS, strict=True):
        row[: len(answer)] = numbers[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
    return placed


def trl_batch(**extra: Tensor) -> dict[str, Tensor]:
    from trl.trainer.utils import pad

    def padded(side: int, *, where: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(pair[side]) for pair in PAIRS]
        ones = [torch.ones_like(row) for row in rows]
        tokens = pad(rows, padding_value=PAD, padding_side=where)
        return tokens, pad(ones, padding_value=0, padding_side=where)

    prompt_ids, prompt_mask = padded(0, where="left")
    completion_ids, completion_mask = padded(1, where="right")
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "num_items_in_batch": completion_mask.sum(),
        **extra,
    }


@pytest.fixture
def grpo(model: Model, tmp_path: Path) -> Callable[..., Any]:
    """A GRPOTrainer on a copy of the model. `beta` is set afterwards: a reference model would be looked up by name."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def build(
        *, beta: float = 0.0, reward: Any = lambda completions, **_: [0.0] * len(completions), **more: Any
    ) -> Any:
        settings = GRPOConfig(
            **plain_settings(tmp_path),
            per_device_train_batch_size=len(PAIRS),
            num_generations=GROUP,
            max_completion_length=LONGEST,
            **more,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(model.network),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["<5> <6>"] * len(PAIRS)}),
            processing_class=model.tokenizer,
        )
        trainer.beta = beta
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return build


REDUCTIONS: dict[str, Any] = {"grpo": "sequence", "dapo": "token", "bnpo": "token", "dr_grpo": "fixed"}


FULL, ADAPTED = (
    [(kind, loss, kl, moved) for loss, kl, moved in itertools.product(REDUCTIONS, (0.0, 0.04), (False, True))]
    for kind in KINDS
)
ADAPTED.remove(("LoRA", "grpo", 0.04, True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss_type", "kl_coef", "moved"),
    [*FULL, ("LoRA", "grpo", 0.04, True), *repeated(*ADAPTED)],
    indirect=["model"],
)
def test_the_grpo_loss_and_its_gradients_equal_trls(
    model: Model, grpo: Callable[..., Any], loss_type: str, kl_coef: float, moved: bool
) -> None:
    batch = holdfast_batch(advantages=group_advantages(torch.tensor(REWARDS), GROUP))
    now = token_logprobs(forward(model.network, batch), batch["input_ids"]).detach()
    generator = torch.Generator().manual_seed(1)
    batch["ref_logprobs"] = now + 0.3 * torch.randn(now.shape, generator=generator)
    extra = {"advantages": batch["advantages"], "ref_per_token_logps": completions_only(batch["ref_logprobs"])}
    if moved:
        batch["old_logprobs"] = now + 0.3 * torch.randn(now.shape, generator=generator)
        extra["old_per_token_logps"] = completions_only(batch["old_logprobs"])
        ratio = (now - batch["old_logprobs"]).exp()
        assert 0.1 < float(((ratio < 0.8) | (ratio > 1.28)).float().mean()) < 0.9
    # TRL's default multiplies the KL estimate by the importance ratio, which the published loss does not.
    trainer = grpo(beta=kl_coef, loss_type=loss_type, epsilon=0.2, epsilon_high=0.28, use_bias_correction_kl=False)
    theirs = trainer._compute_loss(trainer.model, trl_batch(**extra))

    objective = policy_gradient(
        clip_low=0.2,
        clip_high=0.28,
        reduction=REDUCTIONS[loss_type],
        max_tokens=LONGEST,
        kl_coef=kl_coef,
        estimator="k3",
    )
    ours, metrics = objective(model.network.train(), batch)

    if kl_coef:
        assert metrics["kl"] == pytest.approx(trainer._metrics["train"]["kl"][-1], rel=RTOL)
    assert_same(model.network, ours, trainer.model, theirs)


ONE_MISSING = [None, 1.0, 0.5, 0.0, 1.0, 0.0, 0.0, 1.0]
EQUAL_GROUP = [0.1] * GROUP + [0.0, 1.0, 1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["full"], indirect=True)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize(
    "rewards", [REWARDS, EQUAL_GROUP, ONE_MISSING], ids=["all differ", "an equal group", "one missing"]
)
def test_advantages_equal_trls(
    model: Model, grpo: Callable[..., Any], scale: Any, rewards: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = grpo(reward=lambda completions, **_: rewards, scale_rewards=scale)
    monkeypatch.setattr(trainer, "_generate", given_completions)
    scored = trainer._generate_and_score_completions([{"prompt": "<5> <6>"}] * len(PAIRS))

    paid = torch.tensor([float("nan") if reward is None else reward for reward in rewards])

    torch.testing.assert_close(group_advantages(paid, GROUP, scale=scale), scored["advantages"], rtol=RTOL, atol=1e-6)


def given_completions(prompts: list[Any]) -> tuple[Any, ...]:
    """What `_generate` of the trainer returns, for the completions of this module."""
    tokens, answers = [prompt for prompt, _ in PAIRS], [answer for _, answer in PAIRS]
    return tokens, answers, None, [""] * len(PAIRS), None, {}, None, None


def sft_trainer(model: Model, folder: Path, max_length: int | None) -> Any:
    """TRL's SFT trainer on a copy of the model and on this module's rows, which it tokenises and cuts itself."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        **plain_settings(folder),
        max_length=max_length,
        completion_only_loss=True,
        per_device_train_batch_size=len(PAIRS),
    )
    return SFTTrainer(
        model=copy.deepcopy(model.network),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": text(p) + " ", "completion": text(a)} for p, a in with_ends()]),
        processing_class=model.tokenizer,
    )


def with_ends() -> list[tuple[list[int], list[int]]]:
    """The rows, each answer with its end token: either side appends it to a given answer."""
    return [(prompt, answer if answer[-1] == END else [*answer, END]) for prompt, answer in PAIRS]


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [None, 8], ids=["whole", "cut at 8 tokens"])
def test_the_sft_loss_and_its_gradients_equal_trls(model: Model, tmp_path: Path, max_length: int | None) -> None:
    trainer = sft_trainer(model, tmp_path, max_length)
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    theirs = trainer.compute_loss(trainer.model, dict(batch))

    limit = max_length or 64
    cut = [(prompt, answer[: limit - len(prompt)]) for prompt, answer in with_ends()]
    ours, _ = language(model.network.train(), with_totals([collate(cut, pad_id=PAD)])[0])

    assert_same(model.network, ours, trainer.model, theirs)
