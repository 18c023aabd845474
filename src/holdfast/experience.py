"""RL's `prepare`: prompts -> rollouts -> rewards -> advantages -> batch, under the policy as it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import get_args

import torch
from torch import Tensor

from holdfast.forward import forward
from holdfast.generate import Answer, Sampling, as_completion, evaluating, sample
from holdfast.models import Model
from holdfast.plan import Reference, Rows
from holdfast.records import HoldfastError, Role
from holdfast.rewards import Reward
from holdfast.tensors import Batch, collate, token_logprobs

Advantage = Callable[[Tensor, int], Tensor]
"""(rewards (N,), group size) -> advantages (N,). NaN marks a sample without a reward."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What happens between a prompt and the policy's update. Frozen, so that others can replace a part of it.

    `group_size` answers are drawn to each prompt. `passes` optimizer steps learn from the same rollout; then the
    batch carries `old_logprobs`, which with a single pass would equal the policy's own. `reference`, where there is
    one, adds `ref_logprobs`, and `kl_weights` (N,): 1 for prompts of the roles in `kl_roles`, 0 for others.
    """

    reward: Reward
    advantage: Advantage
    group_size: int
    sampling: Sampling
    seed: int
    reference: Reference | None = None
    kl_roles: tuple[Role, ...] = get_args(Role)
    passes: int = 1
    _kept: list[Batch] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
        """Batches of `len(rows) * group_size` sequences, one for each micro-batch of rows.

        With `passes` above 1 the rows that come with the later passes are passed over.
        """
        if step % self.passes == 0 or not self._kept:
            self._kept[:] = self._roll_out(model, micro_batches, step)
        # A copy, because whoever consumes a batch may take entries out of it.
        return [dict(batch) for batch in self._kept]

    def _roll_out(self, model: Model, micro_batches: Sequence[Rows], step: int) -> list[Batch]:
        rows = [row for batch in micro_batches for row in batch]
        prompts = [model.encode_prompt(row.prompt) for row in rows]
        answers = sample(model, prompts, self.sampling, seed=self.seed * 1_000_003 + step, repeats=self.group_size)
        asked = [row for row in rows for _ in range(self.group_size)]
        rewards = self.reward([as_completion(model, row, a) for row, a in zip(asked, answers, strict=True)])
        paid = torch.tensor([float("nan") if r is None else r for r in rewards])
        if step == 0 and bool(paid.isnan().all()):
            raise HoldfastError(
                f"the reward has a number for none of the first {len(paid)} answers, so nothing would be learnt; "
                "its judge does not fit the data (`keyword` and `oracle` need rows with facts)"
            )
        advantages = self.advantage(paid, self.group_size)
        batches, start = [], 0
        for micro in micro_batches:
            end = start + len(micro) * self.group_size
            chosen = range(start, end)
            batch = collate([(prompts[i // self.group_size], answers[i].tokens) for i in chosen], pad_id=model.pad_id)
            groups = torch.arange(len(micro)).repeat_interleave(self.group_size)
            weights = torch.tensor([float(asked[i].role in self.kl_roles) for i in chosen])
            batch |= {"groups": groups, "advantages": advantages[start:end], "kl_weights": weights}
            batches.append(self._complete(model, batch))
            start = end
        batches[0] |= _log(paid, answers, self.group_size, sum(len(prompt) for prompt in prompts))
        return batches

    def _complete(self, model: Model, batch: Batch) -> Batch:
        batch = {name: value.to(model.device) for name, value in batch.items()}

        def logprobs(network: torch.nn.Module) -> Tensor:
            logits = forward(network, batch)
            return token_logprobs(logits, batch["input_ids"], temperature=self.sampling.temperature)

        with evaluating(model.network):
            if self.passes > 1:
                batch["old_logprobs"] = logprobs(model.network)
            if self.reference is not None:
                with self.reference(model) as network, evaluating(network):
                    batch["ref_logprobs"] = logprobs(network)
        return batch


def _log(rewards: Tensor, answers: Sequence[Answer], group_size: int, prompt_tokens: int) -> dict[str, Tensor]:
    known = rewards[~rewards.isnan()]
    lengths = torch.tensor([float(len(answer.tokens)) for answer in answers])
    groups = [answers[i : i + group_size] for i in range(0, len(answers), group_size)]
    alike = [len(list(groupby(sorted(answer.tokens for answer in group)))) == 1 for group in groups]
    return {
        "rollout_tokens": lengths.sum() + prompt_tokens,
        "log/reward": known.mean() if len(known) else torch.zeros(()),
        "log/reward_std": known.std(correction=0) if len(known) else torch.zeros(()),
        "log/unjudged": rewards.isnan().float().mean(),
        "log/completion_tokens": lengths.mean(),
        "log/unfinished": torch.tensor([not answer.finished for answer in answers]).float().mean(),
        "log/identical_groups": torch.tensor(alike).float().mean(),
    }
