"""RL's `prepare`: prompts -> rollouts -> rewards -> advantages -> batches, under the current policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from holdfast.distributions import Distributions, Entropy, LogProb
from holdfast.losses.policy_gradient import Estimator, kl_estimate
from holdfast.network.anatomy import drops
from holdfast.network.critic import distributions_and_values
from holdfast.network.forward import answer_logprobs, target_distributions
from holdfast.network.generate import Sampling, as_completion, evaluating
from holdfast.network.models import Model
from holdfast.network.precision import exact
from holdfast.records import HoldfastError, Role, digest
from holdfast.rl.rewards import Reward
from holdfast.rl.rollouts import (
    RolloutRequest,
    Sampler,
    Samples,
    collated,
    compute_rewards,
    draw,
    extra_metrics,
    groups_with_gradient,
    joined,
    logged,
    measured,
    split_to_batches,
)
from holdfast.tensors import (
    Batch,
    as_columns,
    distinct_rows,
    masked_mean_per_sequence,
    target_mask,
)
from holdfast.training.plan import Examples, Plan, Reference


class Paid(NamedTuple):
    """A further reward or cost of answers, (N,), NaN where unknown, and its critic's `values` (N, T)."""

    rewards: Tensor
    values: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What advantages are computed from: `N` sequences in groups of `group_size`, `T` targets.

    `rewards` (N,), NaN where there is none; `mask` (N, T); `kl` (N, T), estimates of the KL to the reference, and
    `values` (N, T), the critic's, if they were measured. `weights`, (N, 1) or (N, T), are the importance weights of
    answers that were not sampled from the policy. `further` are further rewards by name.
    """

    rewards: Tensor
    group_size: int
    mask: Tensor
    kl: Tensor | None = None
    values: Tensor | None = None
    weights: Tensor | None = None
    further: Mapping[str, Paid] = field(default_factory=dict)


Advantage = Callable[[Rollout], dict[str, Tensor]]
"""Rollout -> what the objective learns from: `advantages`, (N,) or (N, T), and other tensors (N, ...). An entry
`log/NAME` is a number to log."""

Bonus = Callable[[Batch], Tensor]
"""Batch with its measurements -> (N,), added to the rewards."""


@dataclass(frozen=True, kw_only=True)
class Experience:
    """The steps from prompts to the policy's update. Frozen, so that others can replace a part of it.

    `group_size` answers are sampled for each prompt. `passes` times `minibatches` optimizer steps learn from the same
    rollout, each from a part of its prompts; then the batch has `old_logprobs`, which for a single step would equal the
    policy's own and are only added if `old_logprobs` is set. A `reference` adds `ref_logprobs`, and `kl_weights` (N,):
    1 for prompts of the roles in `kl_roles`, 0 for others. `estimator` measures the KL of each token for the
    advantages, `critic` its value; `entropy` measures each answer's mean token entropy as `entropies` (N,), for
    `bonuses`. `further` rewards, by name, are for advantages that use them, each with the critic of its name if there
    is one (`critic.attach_further`). `extra_metrics` are only logged, by name, as means over the answers that the model
    wrote itself. A `sampler` samples the answers instead of the model (see `rollouts.Sampler`). With `sampled_by` a
    copy of the model that it returns samples them; the batch then has their log-probabilities under it as
    `sampled_logprobs`, and with dropout its own at that time as `policy_logprobs`. Raises `HoldfastError` for both.
    """

    reward: Reward
    advantage: Advantage
    group_size: int
    sampling: Sampling
    seed: int
    reference: Reference | None = None
    kl_roles: tuple[Role, ...] = get_args(Role)
    estimator: Estimator | None = None
    critic: bool = False
    entropy: bool = False
    bonuses: tuple[Bonus, ...] = ()
    further: Mapping[str, Reward] = field(default_factory=dict)
    extra_metrics: Mapping[str, Reward] = field(default_factory=dict)
    sampler: Sampler | None = None
    sampled_by: Callable[[Model], Model] | None = None
    passes: int = 1
    minibatches: int = 1
    old_logprobs: bool = False
    _kept: list[Batch] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sampler is not None and self.sampled_by is not None:
            raise HoldfastError("policy.sampling_dtype: this run's answers are sampled in another way; set it to null")

    def __call__(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        """Batches of `len(rows) * group_size / minibatches` sequences, one for each micro-batch of rows.

        The rows of the later steps of a rollout are skipped.

        Raises:
            HoldfastError: no answer of the first rollout has a reward, or there are fewer prompts than minibatches.
            SamplingError: the model gave a non-finite logit.
        """
        done, part = divmod(step % (self.passes * self.minibatches), self.minibatches)
        first = done == part == 0
        if first or not self._kept:
            self._kept[:] = self._roll_out(model, micro_batches, step)
        batches = [self._part(batch, part, f"{step - part}/{i}") for i, batch in enumerate(self._kept)]
        if first:
            # The costs of the rollout are counted once.
            self._kept[0].pop("rollout_tokens")
        return batches

    def _part(self, batch: Batch, part: int, name: str) -> Batch:
        """One of the minibatches of whole groups; a copy, because consumers may remove entries from a batch."""
        if self.minibatches == 1:
            return dict(batch)
        groups = batch["groups"]
        count = int(groups.max()) + 1
        if count < self.minibatches:
            raise HoldfastError(f"{count} prompts cannot be split into {self.minibatches} minibatches: use fewer")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(hash_seed(f"{self.seed}/{name}")))
        rows = torch.isin(groups, order[part :: self.minibatches].to(groups.device))
        return {name: value[rows] if value.dim() else value for name, value in batch.items()}

    def _roll_out(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        rows = [row for batch in micro_batches for row in batch]
        request = RolloutRequest(
            rows=rows,
            prompts=[model.encode_prompt(row.prompt) for row in rows],
            group_size=self.group_size,
            sampling=self.sampling,
            seed=self.seed * 1_000_003 + step,
            step=step,
            logprobs=self.sampled_by is not None or self._sampled_logprobs(model),
        )
        samples = self._draw(model, request)
        if samples.rows is not None:
            rows = list(samples.rows)
            request = replace(request, rows=rows, prompts=[model.encode_prompt(row.prompt) for row in rows])
        every = [row for row in rows for _ in range(self.group_size)]
        completions = [as_completion(model, row, a) for row, a in zip(every, samples.answers, strict=True)]
        paid = {name: compute_rewards(name, reward, completions, step) for name, reward in self._rewards().items()}
        batches, start = [], 0
        for micro in micro_batches:
            end = start + len(micro) * self.group_size
            batch = collated(request, samples, range(start, end), pad_id=model.pad_id)
            if self.sampled_by is not None:
                batch["sampled_logprobs"] = batch.pop("old_logprobs")
            batch["kl_weights"] = torch.tensor([float(row.role in self.kl_roles) for row in every[start:end]])
            batch = self._measure(model, batch)
            batch = batch if self.sampler is None else self.sampler.measure(model, batch)
            if self.estimator and self.estimator != "full":
                batch["kl"] = kl_estimate(batch["old_logprobs"], batch["ref_logprobs"], self.estimator)
            batches.append(batch)
            start = end
        learnt = self.advantage(self._rollout(paid, batches))
        for batch, part in zip(batches, split_to_batches(learnt, batches), strict=True):
            batch.update(part)
        batches[0] |= {name: value for name, value in learnt.items() if name.startswith("log/")}
        batches[0] |= (
            logged(paid, request, samples) | measured(batches) | extra_metrics(self.extra_metrics, completions, samples)
        )
        if self.group_size > 1:
            batches[0]["log/groups_with_gradient"] = groups_with_gradient(learnt["advantages"], self.group_size)
        return batches if self.sampler is None else self.sampler.finish(batches, paid["reward"])

    def _draw(self, model: Model, request: RolloutRequest) -> Samples:
        if self.sampler is not None:
            return self.sampler.draw(model, request)
        return draw(model if self.sampled_by is None else self.sampled_by(model), request)

    def _rewards(self) -> dict[str, Reward]:
        return {"reward": self.reward, **self.further}

    def _sampled_logprobs(self, model: Model) -> bool:
        """Whether sampling supplies `old_logprobs`, which saves a pass over the answers. In float32 they equal that
        pass's up to the last digits; in lower precision they would not.
        """
        read_anyway = self.critic or self.entropy or self.estimator == "full"
        wanted = self._has_sampled_logprobs or self.estimator is not None
        return wanted and not read_anyway and exact(model.network)

    @property
    def _has_sampled_logprobs(self) -> bool:
        """Whether batches have the log-probabilities of their answers at sampling time."""
        return self.old_logprobs or self.passes * self.minibatches > 1

    def _measure(self, model: Model, batch: Batch) -> Batch:
        """The batch with the measurements of the sampling policy and of the reference."""
        batch = {name: value.to(model.device) for name, value in batch.items()}
        targets, temperature = LogProb(batch["input_ids"][:, 1:]), self.sampling.temperature
        remembers = self._has_sampled_logprobs
        policy: Distributions | None = None
        with evaluating(model.network):
            if self.critic:
                policy, values = distributions_and_values(model.network, batch)
                batch |= {f"{name}old_values": old for name, old in values.items()}
            elif self.entropy or self.estimator == "full":
                policy = target_distributions(model.network, batch)
            elif (remembers or self.estimator) and "old_logprobs" not in batch:
                batch["old_logprobs"] = answer_logprobs(model.network, batch, temperature=temperature)
            if policy is not None and (remembers or self.estimator):
                (batch["old_logprobs"],) = policy.measure(targets, temperature=temperature)
            if self.sampled_by is not None and "old_logprobs" not in batch and drops(model.network):
                # Those of the pass in training differ from these by dropout, which is no distance of the copy.
                batch["policy_logprobs"] = answer_logprobs(model.network, batch, temperature=temperature)
            if policy is not None and self.entropy:
                (entropies,) = policy.measure(Entropy())
                batch["entropies"] = masked_mean_per_sequence(entropies, target_mask(batch["loss_mask"]))
            if self.reference is not None:
                with self.reference(model) as network, evaluating(network):
                    if self.estimator == "full" and policy is not None:
                        reference = target_distributions(network, batch)
                        (batch["ref_logprobs"],) = reference.measure(targets, temperature=temperature)
                        batch["kl"] = policy.divergence(reference, temperature=temperature)
                    else:
                        # A model that gives one answer to a prompt again and again has it read once.
                        distinct, place = distinct_rows(batch)
                        batch["ref_logprobs"] = answer_logprobs(network, distinct, temperature=temperature)[place]
        return batch

    def _rollout(self, paid: Mapping[str, Tensor], batches: Sequence[Batch]) -> Rollout:
        device = batches[0]["input_ids"].device

        def values(name: str = "") -> Tensor | None:
            key = f"{name}old_values"
            return joined([batch[key] for batch in batches]) if key in batches[0] else None

        rewards = paid["reward"].to(device)
        for bonus in self.bonuses:
            rewards = rewards + torch.cat([bonus(batch) for batch in batches])
        kl = joined([b["kl"] * b["kl_weights"][:, None] for b in batches]) if self.estimator else None
        return Rollout(
            rewards=rewards,
            group_size=self.group_size,
            mask=joined([target_mask(batch["loss_mask"]) for batch in batches]),
            kl=kl,
            values=values(),
            weights=joined([as_columns(batch["weights"]) for batch in batches]) if "weights" in batches[0] else None,
            further={name: Paid(paid[name].to(device), values(f"{name}/")) for name in self.further},
        )


def rewritten(plan: Plan, change: Callable[[Experience], Experience]) -> Plan | None:
    """The plan with its experience changed, inside any wrappers; `None` if it does not sample."""
    return replace(plan, prepare=change(plan.prepare)) if isinstance(plan.prepare, Experience) else None


def hash_seed(name: str) -> int:
    """A seed from a name, the same on every machine."""
    return int(digest(name), 16) % 2**31
