"""Statistics of a guided rollout, for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.losses.interpolation import effective_sample_size
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.rollouts import joined
from holdfast.tensors import Batch, masked_sum_per_sequence, target_mask


@dataclass(frozen=True, kw_only=True)
class RolloutStatistics:
    """A guided rollout's answers over all micro-batches: `N` rows, `T` targets; without those of unguided prompts.

    `own_reward` and `expert_reward` are means, `None` if there are no such answers or rewards. `old` and `behavior` are
    log-probabilities of learner and mixture, if they were measured; `theirs` (N,) marks the expert's rows.
    """

    alpha: float
    own_reward: float | None
    expert_reward: float | None
    mask: Tensor
    theirs: Tensor
    alike: float | None
    old: Tensor | None = None
    behavior: Tensor | None = None

    def logged(self, guide: Guide) -> dict[str, float]:
        """Numbers to log by name; entropies are estimates from the samples, in nats per token."""
        metrics = {"alpha": self.alpha}
        paid = {"own_reward": self.own_reward, "expert_reward": self.expert_reward, "own_identical_groups": self.alike}
        metrics |= {name: value for name, value in paid.items() if value is not None}
        if self.old is None:
            return metrics
        if bool(self.theirs.any()):
            metrics["expert_token_probability"] = float(self._mean(self.old.exp(), self.theirs))
        if guide.unit == "sequence" and not bool(self.theirs.all()):
            metrics["policy_entropy"] = float(-self._mean(self.old, ~self.theirs))
        return metrics | self._weighed(self.old, guide) if self.behavior is not None else metrics

    def _weighed(self, old: Tensor, guide: Guide) -> dict[str, float]:
        behavior, mask = self.behavior, self.mask
        assert behavior is not None
        tokens = behavior.dim() == 2
        metrics = {"mixture_entropy": float(-(behavior * mask).sum() / mask.sum())} if tokens else {}
        if tokens:
            # Each token's own ratio reweights the mixture's samples to the policy at the same positions.
            ratios = (old - behavior).exp()
            metrics["policy_entropy"] = float(-self._mean(ratios * old, torch.ones_like(self.theirs)))
        else:
            metrics["mixture_entropy"] = float(-behavior.sum() / mask.sum())
        if tokens and guide.weigh == "token":
            exact = (old - behavior)[mask > 0].exp()
        else:
            mixed = masked_sum_per_sequence(behavior, mask) if tokens else behavior
            exact = (masked_sum_per_sequence(old, mask) - mixed).exp()
        return metrics | {
            "mean_weight": float(exact.mean()),
            "effective_samples": float(effective_sample_size(exact) / len(exact)),
            "truncated": float((exact > guide.cap).float().mean()),
        }

    def _mean(self, values: Tensor, rows: Tensor) -> Tensor:
        mask = self.mask * rows[:, None]
        return (values.masked_fill(mask == 0, 0.0) * mask).sum() / mask.sum().clamp(min=1)


def rollout_statistics(batches: Sequence[Batch], rewards: Tensor, *, whole_answers: bool) -> RolloutStatistics:
    """The statistics of a guided rollout with `rewards` (all rows,), NaN for none.

    `whole_answers` says that each row was written by either the expert or the learner alone.
    """
    alpha = torch.cat([batch["alpha"] for batch in batches]).cpu()
    rows = alpha < 1
    written = "from_expert" in batches[0]
    theirs = torch.cat([batch["from_expert"] for batch in batches]).cpu() > 0 if written else torch.zeros_like(rows)

    def part(name: str) -> Tensor | None:
        if name not in batches[0]:
            return None
        values = [batch[name] for batch in batches]
        return (torch.cat(values) if values[0].dim() == 1 else joined(values)).cpu()[rows]

    mask = joined([target_mask(batch["loss_mask"]) for batch in batches]).cpu()[rows]
    return RolloutStatistics(
        alpha=float(alpha[rows][0]),
        own_reward=_known(rewards.cpu()[rows & ~theirs]) if whole_answers else None,
        expert_reward=_known(rewards.cpu()[rows & theirs]),
        mask=mask,
        theirs=theirs[rows],
        alike=_alike(batches) if whole_answers else None,
        old=part("old_logprobs") if written else None,
        behavior=part("behavior_logprobs"),
    )


def _known(rewards: Tensor) -> float | None:
    known = rewards[~rewards.isnan()]
    return float(known.mean()) if len(known) else None


def _alike(batches: Sequence[Batch]) -> float | None:
    """The share of groups whose own rows, of which there are at least two, are all the same."""
    flags = []
    for batch in batches:
        for group in batch["groups"].unique():
            rows = (batch["groups"] == group) & (batch["from_expert"] == 0) & (batch["alpha"] < 1)
            tokens, lengths = batch["input_ids"][rows], batch["lengths"][rows]
            if len(tokens) > 1:
                flags.append(bool((tokens == tokens[0]).all()) and bool((lengths == lengths[0]).all()))
    return sum(flags) / len(flags) if flags else None
