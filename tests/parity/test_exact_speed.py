"""What makes sampling and the policy's update fast changes no result: each is compared with the plain, slow way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from plain_sampling import PADDED, SAME_LENGTH, one_by_one, random_model
from torch import Tensor

from holdfast.losses.policy_gradient import group_advantages, reduce, surrogate
from holdfast.network import generate
from holdfast.network.forward import answer_logits, answer_logprobs, forward
from holdfast.network.generate import Sampling, sample
from holdfast.network.models import LoRA, Model, adapt
from holdfast.tensors import Batch, collate, target_mask, token_logprobs, with_totals
from holdfast.training.objectives import policy_gradient
from repeated import repeated

ARCHITECTURES: Any = ["llama", "gpt2", *repeated("qwen3", "gemma")]
GROUP = 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "prompts", "repeats"),
    [
        # Of every architecture: tests/network/test_shortcuts.py.
        pytest.param("llama", PADDED, 4, id="llama, padded"),
        pytest.param("gemma", PADDED, 2, id="gemma, padded"),
        pytest.param("llama", SAME_LENGTH, 4, id="llama, same length"),
        pytest.param("gpt2", SAME_LENGTH, 1, id="gpt2, same length, one answer"),
        pytest.param("llama", PADDED, 1, id="llama, padded, one answer"),
    ],
)
def test_answers_of_a_shared_batch_equal_those_sampled_one_by_one(
    architecture: Any, prompts: list[list[int]], repeats: int
) -> None:
    model, sampling = random_model(architecture, stops=12), Sampling(max_new_tokens=12)

    fast = sample(model, prompts, sampling, seed=1, repeats=repeats)

    assert [answer.tokens for answer in fast] == one_by_one(model, prompts, sampling, seed=1, repeats=repeats)


@pytest.mark.slow
def test_when_finished_answers_leave_the_batch_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, by default, late or never."""
    model, sampling = random_model("llama", stops=12), Sampling(max_new_tokens=16)
    slow = one_by_one(model, PADDED, sampling, seed=2, repeats=6)
    assert len({len(answer) for answer in slow}) > 3

    for share in (0.01, generate.DROP_SHARE, 0.6, 2.0):
        monkeypatch.setattr(generate, "DROP_SHARE", share)
        fast = sample(model, PADDED, sampling, seed=2, repeats=6)
        assert [answer.tokens for answer in fast] == slow, share
        assert [answer.finished for answer in fast] == [answer[-1] in model.stop_ids for answer in slow], share


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.6, "temperature": 1.5}]
)
def test_cut_off_sampling_equals_the_plain_definition(settings: dict[str, Any]) -> None:
    model, sampling = random_model("llama", stops=12), Sampling(max_new_tokens=12, **settings)

    fast = sample(model, PADDED, sampling, seed=3, repeats=2)

    assert [answer.tokens for answer in fast] == one_by_one(model, PADDED, sampling, seed=3, repeats=2)


def rollout(model: Model, rewards: list[float]) -> Batch:
    """A batch as a rollout leaves it: `GROUP` answers to each prompt of `PADDED`, with advantages."""
    answers = sample(model, PADDED, Sampling(max_new_tokens=10), seed=4, repeats=GROUP)
    pairs = [(PADDED[i // GROUP], answer.tokens) for i, answer in enumerate(answers)]
    advantages = group_advantages(torch.tensor(rewards), GROUP)
    groups = torch.arange(len(pairs)) // GROUP
    batch = {**collate(pairs, pad_id=model.pad_id), "groups": groups, "advantages": advantages}
    return with_totals([batch])[0]


def gradients(network: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    if loss.requires_grad:
        loss.backward()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in network.named_parameters()
        if weight.requires_grad
    }


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * largest)


MIXED = [0.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
"""Rewards whose first group holds one row, and whose second group holds no row, with an advantage other than 0."""
REDUCTIONS: Any = ["sequence", "token", "fixed"]


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_leaving_out_rows_without_an_advantage_changes_neither_loss_nor_gradient(reduction: Any) -> None:
    model = random_model("llama")
    batch = rollout(model, MIXED)
    assert int((batch["advantages"] == 0).sum()) == 4
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction=reduction, max_tokens=10)
    loss, _ = objective(model.network, batch)
    slopes = gradients(model.network, loss)

    logprobs = token_logprobs(forward(model.network, batch), batch["input_ids"])
    advantages = batch["advantages"][:, None]
    every = surrogate(logprobs, logprobs.detach(), advantages, clip_low=0.2, clip_high=0.2)
    whole = reduce(every, target_mask(batch["loss_mask"]), reduction=reduction, max_tokens=10)

    torch.testing.assert_close(loss.detach(), whole.detach(), rtol=1e-5, atol=1e-7)
    expected = gradients(model.network, whole)
    assert any(bool(gradient.any()) for gradient in expected.values())
    assert_close(slopes, expected)


def test_equal_rewards_everywhere_give_loss_zero_without_a_pass_through_the_model() -> None:
    model = random_model("llama")
    batch = rollout(model, [0.3] * 9)
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="sequence", max_tokens=10)

    loss, metrics = objective(pytest.fail, batch)  # type: ignore[arg-type]

    assert float(loss) == 0.0
    assert not loss.requires_grad
    assert metrics == {"loss": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "adapter"),
    [("llama", None), ("gpt2", None), ("llama", LoRA(r=4)), *repeated(("qwen3", None), ("gemma", None))],
)
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_reading_a_groups_prompt_once_changes_neither_loss_nor_gradient(
    architecture: Any, adapter: LoRA | None, kl_coef: float
) -> None:
    model = adapt(random_model(architecture), adapter)
    batch = rollout(model, MIXED)
    batch["ref_logprobs"] = torch.full((9, batch["input_ids"].shape[1] - 1), -2.0)
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="token", max_tokens=10, kl_coef=kl_coef)
    model.network.train()

    shared, metrics = objective(model.network, batch)
    whole, plain_metrics = objective(model.network, without_groups(batch))

    assert metrics == pytest.approx(plain_metrics, rel=1e-5, abs=1e-7)
    assert_close(gradients(model.network, shared), gradients(model.network, whole))


def answered(lengths: list[int], prompts: list[list[int]] = PADDED) -> Batch:
    """Answers of these lengths, `GROUP` to each prompt, all with an advantage."""
    pairs = [(prompts[i // GROUP], list(range(30, 30 + length))) for i, length in enumerate(lengths)]
    groups = torch.arange(len(pairs)) // GROUP
    advantages = torch.linspace(-1, 1, len(pairs) + 1)[1:]
    return with_totals([{**collate(pairs, pad_id=0), "groups": groups, "advantages": advantages}])[0]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("lengths", "prompts"),
    [
        pytest.param([1] * 6, SAME_LENGTH, id="one token each"),
        pytest.param([1] * 9, PADDED, id="one token each, padded"),
        pytest.param([1, 1, 1, 9, 9, 9, 9, 9, 9], PADDED, id="one token or more"),
        pytest.param([4, 4, 4, 1, 1, 1, 3, 3, 3], PADDED, id="all end together"),
        pytest.param([3, 2, 3, 2, 30, 3, 2, 3, 2], PADDED, id="one much longer"),
        pytest.param([3, 2, 3, 2, 10, 3, 2, 3, 6], PADDED, id="one longer, one a little"),
    ],
)
def test_reading_rows_to_their_own_length_changes_neither_loss_nor_gradient(
    architecture: Any, lengths: list[int], prompts: list[list[int]]
) -> None:
    model, batch = random_model(architecture), answered(lengths, prompts)
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="token", max_tokens=30)

    in_parts, metrics = objective(model.network, batch)
    whole, plain_metrics = objective(model.network, without_groups(batch))

    assert metrics == pytest.approx(plain_metrics, rel=1e-5)
    assert_close(gradients(model.network, in_parts), gradients(model.network, whole))


def test_a_groups_prompt_is_read_once_and_rows_that_end_early_are_not_read_on() -> None:
    model, batch = random_model("llama"), answered([3, 2, 3, 2, 30, 3, 2, 3, 2])
    read: list[tuple[int, ...]] = []
    hook = model.network.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )

    logits = forward(model.network, batch)
    hook.remove()

    assert logits.shape[:2] == batch["input_ids"].shape
    shortest, longest = len(PADDED[0]), len(PADDED[1]) + 30
    early = len(PADDED[1]) + 3 - 1
    assert read == [(len(PADDED), shortest), (len(PADDED) * GROUP, early - shortest), (1, longest - 1 - early)]


CASES = [
    pytest.param([1] * 6, SAME_LENGTH, id="one token each"),
    pytest.param([1, 1, 1, 9, 9, 9, 9, 9, 9], PADDED, id="one token or more"),
    pytest.param([3, 2, 3, 2, 10, 3, 2, 3, 6], PADDED, id="one longer, one a little"),
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "rows"])
@pytest.mark.parametrize(("lengths", "prompts"), CASES)
def test_logprobs_of_answers_alone_equal_those_of_the_whole_pass(
    architecture: Any, grouped: bool, lengths: list[int], prompts: list[list[int]]
) -> None:
    model, batch = random_model(architecture), answered(lengths, prompts)
    mask, weights = target_mask(batch["loss_mask"]), torch.linspace(-1, 1, len(lengths))[:, None]
    whole = token_logprobs(forward(model.network, without_groups(batch)), batch["input_ids"], temperature=0.7)
    expected = gradients(model.network, (whole * mask * weights).sum())

    logprobs = answer_logprobs(model.network, batch if grouped else without_groups(batch), temperature=0.7)

    assert bool(logprobs.isfinite().all())
    torch.testing.assert_close(logprobs * mask, whole * mask, rtol=1e-5, atol=1e-5)
    assert_close(gradients(model.network, (logprobs * mask * weights).sum()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "rows"])
@pytest.mark.parametrize(("lengths", "prompts"), CASES)
def test_logits_of_answers_alone_equal_those_of_the_whole_pass(
    grouped: bool, lengths: list[int], prompts: list[list[int]]
) -> None:
    model, batch = random_model("llama"), answered(lengths, prompts)
    whole = forward(model.network, without_groups(batch))[:, :-1][target_mask(batch["loss_mask"]) > 0]
    expected = gradients(model.network, whole.log_softmax(-1)[:, 5].sum())

    logits = answer_logits(model.network, batch if grouped else without_groups(batch))

    torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-5)
    assert_close(gradients(model.network, logits.log_softmax(-1)[:, 5].sum()), expected)


def test_logprobs_of_answers_read_left_padded_rows_rightly() -> None:
    model, batch = random_model("llama"), answered([3, 2, 3, 2, 10, 3, 2, 3, 6])
    expected = answer_logprobs(model.network, batch)
    width = batch["input_ids"].shape[1]
    places = (torch.arange(width) - (width - batch["lengths"])[:, None]).clamp(min=0)
    real = (torch.arange(width) >= (width - batch["lengths"])[:, None]).long()
    turned = {name: batch[name].gather(1, places) * real for name in ("input_ids", "loss_mask")}

    logprobs = answer_logprobs(model.network, {**turned, "attention_mask": real, "position_ids": places})

    mask, left = target_mask(batch["loss_mask"]) == 1, target_mask(turned["loss_mask"]) == 1
    torch.testing.assert_close(logprobs[left], expected[mask], rtol=1e-5, atol=1e-5)


def test_no_logits_are_made_for_columns_that_are_prompt_in_every_row() -> None:
    model, batch = random_model("llama"), without_groups(answered([3, 2, 3, 2, 10, 3, 2, 3, 6]))
    made: list[tuple[int, ...]] = []
    hook = model.network.get_output_embeddings().register_forward_hook(lambda *args: made.append(args[2].shape[:2]))

    logprobs = answer_logprobs(model.network, batch)
    hook.remove()

    longest, first = batch["input_ids"].shape[1], len(PADDED[0])
    assert logprobs.shape[1] == longest - 1
    assert made == [(9, longest - first)]


def test_recomputed_activations_read_each_row_whole_and_give_the_same_gradient() -> None:
    model = random_model("llama")
    batch = rollout(model, MIXED)
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="token", max_tokens=10)
    expected = gradients(model.network, objective(model.network.train(), without_groups(batch))[0])
    recomputing = copy.deepcopy(model.network)
    # transformers renamed the method in 5.23.
    name = "activation_checkpointing_enable"
    getattr(recomputing, name if hasattr(recomputing, name) else "gradient_checkpointing_enable")()

    assert_close(gradients(recomputing, objective(recomputing, batch)[0]), expected)


def without_groups(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "groups"}
