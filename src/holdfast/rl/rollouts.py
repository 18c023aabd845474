"""The parts of a rollout: sampled answers, their rewards, columns of batches, metrics to log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.network.generate import Answer, Sampling, sample
from holdfast.network.models import Model
from holdfast.records import Completion, HoldfastError
from holdfast.rl.rewards import Reward
from holdfast.tensors import Batch, collate, target_mask
from holdfast.training.plan import Examples


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """A request for `group_size` answers to each of `prompts`, which are the tokens of `rows` in the same order.

    `seed` is that of sampling, `step` the optimizer step. With `logprobs` the policy's log-probabilities of its own
    answers are needed.
    """

    rows: Examples
    prompts: Sequence[Sequence[int]]
    group_size: int
    sampling: Sampling
    seed: int
    step: int
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The answers to a request, `N` in total, in order.

    `unlearnt` is the number of leading tokens of each answer that are not learnt, none when `None`; it is the same
    within a group. `by_model` marks the answers that the model wrote by itself, all when `None`. `columns` (N, ...) are
    added to the batches. `tokens` is the number of tokens that were read and written besides the request's prompts and
    the answers. `rows` are the prompts that were answered if they are others than the request's, as many and in the
    same order.
    """

    answers: Sequence[Answer]
    unlearnt: Sequence[int] | None = None
    by_model: Sequence[bool] | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: int = 0
    rows: Examples | None = None


class Sampler(Protocol):
    """Samples a rollout's answers instead of the policy, in three calls."""

    def draw(self, model: Model, request: RolloutRequest) -> Samples:
        """The answers."""
        ...

    def measure(self, model: Model, batch: Batch) -> Batch:
        """The batch of one micro-batch, already measured under the policy, with further measurements.

        An entry `weights`, (N,) or (N, T), is the weight of a sample in the loss.
        """
        ...

    def finish(self, batches: list[Batch], rewards: Tensor) -> list[Batch]:
        """The finished batches of a rollout, `rewards` (N,) over all of them; `log/NAME` goes into the first."""
        ...


def draw(model: Model, request: RolloutRequest) -> Samples:
    """The policy's own answers."""
    answers = sample(
        model,
        request.prompts,
        request.sampling,
        seed=request.seed,
        repeats=request.group_size,
        logprobs=request.logprobs,
    )
    return Samples(answers=answers)


def collated(request: RolloutRequest, samples: Samples, rows: range, *, pad_id: int) -> Batch:
    """The answers `rows` as a batch with `groups`, the samples' columns and `old_logprobs` if available."""
    size, unlearnt = request.group_size, samples.unlearnt or [0] * len(samples.answers)
    pairs = []
    for i in rows:
        prompt, tokens, cut = request.prompts[i // size], samples.answers[i].tokens, unlearnt[i]
        pairs.append(([*prompt, *tokens[:cut]], tokens[cut:]))
    batch = collate(pairs, pad_id=pad_id)
    batch["groups"] = torch.arange(len(rows) // size).repeat_interleave(size)
    batch |= {name: values[rows.start : rows.stop] for name, values in samples.columns.items()}
    return batch | old_logprobs(batch, [samples.answers[i] for i in rows])


def old_logprobs(batch: Batch, answers: Sequence[Answer]) -> Batch:
    """The sampled log-probabilities at their targets, (N, T), 0 elsewhere; empty if sampling gave none."""
    if any(answer.logprobs is None for answer in answers):
        return {}
    mask = target_mask(batch["loss_mask"])
    flat = torch.tensor([value for answer in answers for value in answer.logprobs or ()])
    return {"old_logprobs": mask.masked_scatter(mask > 0, flat)}


def compute_rewards(name: str, reward: Reward, completions: Sequence[Completion], step: int) -> Tensor:
    """The `reward` of each answer, (N,), NaN for none.

    Raises:
        HoldfastError: at the first step no answer has a reward; `name` is the reward's in the message.
    """
    paid = torch.tensor([float("nan") if r is None else r for r in reward(completions)])
    if step == 0 and bool(paid.isnan().all()):
        raise HoldfastError(
            f"the {name} scores none of the first {len(paid)} answers, so nothing would be learnt; "
            "its judge does not fit the data (`keyword` and `oracle` need rows with facts)"
        )
    return paid


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(N, T) tensors of micro-batches as one, padded with 0 to the longest."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])


def split_to_batches(learnt: dict[str, Tensor], batches: Sequence[Batch]) -> list[Batch]:
    """Tensors over all sequences, split to their micro-batches and cut to each one's width."""
    sizes = [len(batch["input_ids"]) for batch in batches]
    parts = {name: value.split(sizes) for name, value in learnt.items() if not name.startswith("log/")}
    widths = [batch["input_ids"].shape[1] - 1 for batch in batches]
    return [
        {name: split[i] if split[i].dim() == 1 else split[i][:, : widths[i]] for name, split in parts.items()}
        for i in range(len(batches))
    ]


def measured(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Means to log of measurements other than rewards."""
    metrics = {}
    if "entropies" in batches[0]:
        metrics["log/entropy"] = torch.cat([batch["entropies"] for batch in batches]).mean()
    if "kl" in batches[0]:
        sums = [(batch["kl"] * target_mask(batch["loss_mask"])).sum(-1) for batch in batches]
        metrics["log/sequence_kl"] = torch.cat(sums).mean()
    return metrics


def extra_metrics(numbers: Mapping[str, Reward], completions: Sequence[Completion], samples: Samples) -> Batch:
    """Means to log over the answers that the model wrote itself; without numbers that none of them has."""
    metrics = {}
    for name, number in numbers.items():
        by_model = [True] * len(completions) if samples.by_model is None else samples.by_model
        values = number([done for done, own in zip(completions, by_model, strict=True) if own])
        known = [value for value in values if value is not None]
        if known:
            metrics[f"log/{name}"] = torch.tensor(known).mean()
    return metrics


def groups_with_gradient(advantages: Tensor, group_size: int) -> Tensor:
    """The share of groups with a nonzero advantage of any answer; `advantages` is (N,) or (N, T), groups in order."""
    return (advantages != 0).reshape(len(advantages) // group_size, -1).any(1).float().mean()


def logged(paid: Mapping[str, Tensor], request: RolloutRequest, samples: Samples) -> Batch:
    """The metrics that are logged for every rollout, and `rollout_tokens`."""
    answers, group_size = samples.answers, request.group_size
    lengths = torch.tensor([float(len(answer.tokens)) for answer in answers])
    groups = [answers[i : i + group_size] for i in range(0, len(answers), group_size)]
    alike = [len({tuple(answer.tokens) for answer in group}) == 1 for group in groups]
    metrics = {}
    for name, rewards in paid.items():
        known = rewards[~rewards.isnan()]
        metrics[f"log/{name}"] = known.mean() if len(known) else torch.zeros(())
        metrics[f"log/{name}_std"] = known.std(correction=0) if len(known) else torch.zeros(())
    return {
        **metrics,
        "rollout_tokens": lengths.sum() + sum(len(prompt) for prompt in request.prompts) + samples.tokens,
        "log/unjudged": paid["reward"].isnan().float().mean(),
        "log/completion_tokens": lengths.mean(),
        "log/unfinished": torch.tensor([not answer.finished for answer in answers]).float().mean(),
        "log/identical_groups": torch.tensor(alike).float().mean(),
    }
