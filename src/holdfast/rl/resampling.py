"""Change a policy-gradient plan so that groups that teach nothing are sampled again, by a sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import Answer, as_completion, evaluating
from holdfast.network.models import Model
from holdfast.records import Example
from holdfast.rl.experience import hash_seed
from holdfast.rl.rewards import Reward
from holdfast.rl.rollouts import RolloutRequest, Samples, draw
from holdfast.tensors import Batch
from holdfast.training.plan import Examples


class Group(NamedTuple):
    """The answers to one prompt; `again` says that they are not the first that were sampled."""

    row: Example
    prompt: Sequence[int]
    answers: Sequence[Answer]
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Resampler:
    """A `rollouts.Sampler` that samples groups again, at most `tries` times, whose answers all have the same `reward`.

    Answers without a reward do not count. Later samples are at the temperature `again_at`; the first are at
    `temperature`. They are of other prompts, taken at random from `pool`, or of the same ones if there is none. If the
    temperatures differ, batches have the log-probabilities of both (`old_logprobs` and `sampled_logprobs`, (N, T)), by
    which the objective weights answers, unless `weigh` is false. With `leave_out` groups without any advantage are
    taken out of the batches. One answer is left in a batch that would be empty otherwise; it neither adds to a loss nor
    counts in a mean. If no group has an advantage, the first one is left.
    """

    reward: Reward
    tries: int
    temperature: float
    again_at: float
    pool: Examples | None
    weigh: bool
    leave_out: bool

    def draw(self, model: Model, request: RolloutRequest) -> Samples:
        """The last answers of each group: one whose rewards differ, or the last of `tries`."""
        groups = list(_grouped(request, draw(model, request).answers, again=False))
        tokens = _tokens(groups)
        waiting = list(range(len(groups)))
        for attempt in range(1, self.tries + 1):
            alike = _alike(self.reward, model, [groups[place] for place in waiting])
            waiting = [place for place, same in zip(waiting, alike, strict=True) if same]
            if not waiting:
                break
            seed = hash_seed(f"{request.seed}/again/{attempt}")
            later = self._request(model, request, [groups[place].row for place in waiting], seed)
            for place, group in zip(waiting, _grouped(later, draw(model, later).answers, again=True), strict=True):
                groups[place] = group
                tokens += _tokens([group])
        size = request.group_size
        return Samples(
            answers=[answer for group in groups for answer in group.answers],
            columns={"again": torch.tensor([float(group.again) for group in groups for _ in range(size)])},
            tokens=tokens - _tokens(groups),
            rows=[group.row for group in groups],
        )

    def _request(self, model: Model, request: RolloutRequest, rows: Examples, seed: int) -> RolloutRequest:
        """What is sampled in place of groups on `rows`."""
        if self.pool is not None:
            chosen = torch.randint(len(self.pool), (len(rows),), generator=torch.Generator().manual_seed(seed))
            rows = [self.pool[place] for place in chosen.tolist()]
        prompts = [model.encode_prompt(row.prompt) for row in rows]
        sampling = replace(request.sampling, temperature=self.again_at)
        same = self.again_at == self.temperature
        logprobs = request.logprobs and same
        return replace(request, rows=rows, prompts=prompts, sampling=sampling, seed=seed, logprobs=logprobs)

    def measure(self, model: Model, batch: Batch) -> Batch:
        """The batch with what it was sampled with, if that was another temperature."""
        again = batch["again"] > 0
        if self.again_at == self.temperature or not self.weigh or not bool(again.any()):
            return batch
        with evaluating(model.network):
            if "old_logprobs" not in batch:
                batch["old_logprobs"] = answer_logprobs(model.network, batch, temperature=self.temperature)
            hotter = answer_logprobs(model.network, batch, temperature=self.again_at)
        return batch | {"sampled_logprobs": torch.where(again[:, None], hotter, batch["old_logprobs"])}

    def finish(self, batches: list[Batch], rewards: Tensor) -> list[Batch]:  # noqa: ARG002  (the protocol has it)
        """The batches for the objective, with the share of answers that were sampled again (`again`) to log."""
        batches[0]["log/again"] = torch.cat([batch["again"] for batch in batches]).mean()
        return _with_gradient(batches) if self.leave_out else batches


def _grouped(request: RolloutRequest, answers: Sequence[Answer], *, again: bool) -> Iterator[Group]:
    size = request.group_size
    for place, (row, prompt) in enumerate(zip(request.rows, request.prompts, strict=True)):
        yield Group(row, prompt, answers[place * size : (place + 1) * size], again)


def _tokens(groups: Sequence[Group]) -> int:
    """Tokens that were read and written, each prompt once."""
    return sum(len(group.prompt) + sum(len(answer.tokens) for answer in group.answers) for group in groups)


def _alike(reward: Reward, model: Model, groups: Sequence[Group]) -> list[bool]:
    """Whether all the answers of each group have the same reward, so that none has an advantage."""
    paid = iter(reward([as_completion(model, group.row, answer) for group in groups for answer in group.answers]))
    return [len({next(paid) for _ in group.answers} - {None}) < 2 for group in groups]


def _with_gradient(batches: Sequence[Batch]) -> list[Batch]:
    """The batches of a rollout without groups that have no advantage; with the first group if none has one."""
    teaching = [_teaching(batch) for batch in batches]
    if not any(len(groups) for groups in teaching):
        teaching[0] = batches[0]["groups"][:1]
    return [
        _only(batch, torch.isin(batch["groups"], groups)) if len(groups) else _uncounted(batch)
        for batch, groups in zip(batches, teaching, strict=True)
    ]


def _teaching(batch: Batch) -> Tensor:
    """The groups with an advantage of any answer, once for each of these."""
    some = (batch["advantages"] != 0).reshape(len(batch["advantages"]), -1).any(1)
    return batch["groups"][some]


def _only(batch: Batch, rows: Tensor) -> Batch:
    left = {name: value[rows] if value.dim() else value for name, value in batch.items()}
    return left | {"groups": left["groups"].unique(return_inverse=True)[1]}


def _uncounted(batch: Batch) -> Batch:
    """The batch with its first answer alone, without weight: an optimizer step must have all its micro-batches."""
    rows = torch.arange(len(batch["groups"]), device=batch["groups"].device) == 0
    left = {name: value for name, value in _only(batch, rows).items() if name != "sampled_logprobs"}
    return left | {"weights": torch.zeros_like(left["groups"], dtype=torch.float), "uncounted": torch.ones(())}
