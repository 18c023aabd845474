"""Change a policy-gradient plan so that an expert writes a part of its rollouts, by a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.losses.interpolation import log_mixture, succeeds, weights
from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import evaluating
from holdfast.network.models import Model
from holdfast.records import HoldfastError, Role
from holdfast.rl.experience import Experience, rewritten
from holdfast.rl.guidance.drawing import Group, by_prefix, by_sequence, by_token, expert_logprobs
from holdfast.rl.guidance.expert import LoadedExpert
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.guidance.schedule import alpha as share_at
from holdfast.rl.guidance.statistics import RolloutStatistics, rollout_statistics
from holdfast.rl.rollouts import RolloutRequest, Samples, draw
from holdfast.tensors import Batch, as_columns, masked_sum_per_sequence, target_mask
from holdfast.training.plan import Plan

STATE = "guided"
"""Prefix of the names of guidance's values in a plan's state."""
LARGEST_GAP = 10.0
"""The largest log-ratio of reference to learner, in nats, of a token of a guided answer in a KL estimate: k3
grows exponentially with it, 142 at 5 and 5e8 at 20."""


def guided(plan: Plan, guide: Guide, expert: LoadedExpert, *, roles: Sequence[Role] | None = None) -> Plan:
    """The plan with an expert in its rollouts, only on prompts of `roles` if given.

    Raises:
        HoldfastError: the plan has no rollouts, is already guided, truncates its sampling (the density of samples would
            not be the mixture's), or weights single tokens whose advantages depend on later ones through a critic.
    """
    if f"{STATE}/step" in plan.state:
        raise HoldfastError("guided: is in the stack twice; one expert guides a run, remove one")

    def change(experience: Experience) -> Experience:
        _require_whole(guide, experience)
        sampler = GuidedSampler(
            guide=guide,
            expert=expert.beginning(plan.model),
            share=lambda step: _share(guide, plan, step),
            state=plan.state,
            roles=None if roles is None else tuple(roles),
            temperature=experience.sampling.temperature,
            max_new_tokens=experience.sampling.max_new_tokens,
        )
        return replace(experience, sampler=sampler)

    guided = rewritten(plan, change)
    if guided is None:
        raise HoldfastError(
            "guided: needs rollouts, and this attack learns from given answers; use it with an RL attack (grpo, "
            "dr_grpo, dapo, rloo, reinforce++, ppo), or remove it"
        )
    plan.state[f"{STATE}/step"] = 0.0
    return guided


def _require_whole(guide: Guide, experience: Experience) -> None:
    sampling = experience.sampling
    if sampling.top_k > 0 or sampling.top_p < 1:
        raise HoldfastError(
            "guided: with policy.top_k or policy.top_p some of the expert's tokens can have probability 0 under the "
            f"learner, so `weight: {guide.weight}` has no finite loss or no correct density; sample from all tokens"
        )
    if experience.sampler is not None:
        raise HoldfastError("guided: another sampler already writes this run's rollouts; remove one of the two")
    if experience.critic and guide.weighs and guide.weigh == "token":
        raise HoldfastError(
            "guided: `weigh: token` with a critic: advantages that depend on later tokens of a mixture's answer would "
            "need the ratios of all of them; use `weigh: completion`"
        )


def _share(guide: Guide, plan: Plan, step: int) -> float:
    succeeded = plan.state.get(f"{STATE}/succeeded")
    return share_at(
        guide.schedule,
        step,
        steps=plan.optim.max_steps,
        span=plan.steps_per_rollout,
        succeeded=None if succeeded is None else int(succeeded),
    )


@dataclass(frozen=True, kw_only=True)
class GuidedSampler:
    """Answers by an expert and the learner: the `rollouts.Sampler` of a guided plan.

    `share` gives alpha at an optimizer step; at 1 the expert is not called and the run equals the plain one. Below 1,
    batches gain `alpha` (N,), except with `unit: prefix` also `from_expert` (N,) and `old_logprobs` (N, T), and if a
    density is needed `expert_logprobs` (N, T) and `behavior_logprobs`, the mixture's, (N,) of whole answers or (N, T).
    `weights` are added if answers have importance weights.

    With a critic, whole answers' weights make the expectation that of plain PPO at the same values: advantages and
    returns of a row follow from that row alone. Whitening is over all sampled rows, as in the plain run. A critic
    learns from the expert's rows with the same weights; without weights, its values are those of the mixture.
    """

    guide: Guide
    expert: LoadedExpert
    share: Callable[[int], float]
    state: dict[str, float]
    roles: tuple[Role, ...] | None
    temperature: float
    max_new_tokens: int

    def draw(self, model: Model, request: RolloutRequest) -> Samples:
        """The answers; in a guided group the learner's own come first."""
        alpha = self.share(request.step)
        self.state[f"{STATE}/step"] = float(request.step)
        chosen = [i for i, row in enumerate(request.rows) if self.roles is None or row.role in self.roles]
        if alpha == 1 or not chosen:
            return draw(model, request)
        part = replace(request, rows=[request.rows[i] for i in chosen], prompts=[request.prompts[i] for i in chosen])
        written, tokens = self._written(model, part, alpha)
        groups = dict(zip(chosen, written, strict=True))
        unguided = [i for i in range(len(request.rows)) if i not in groups]
        if unguided:
            # A separate stream, since the seed's own was used for the guided prompts.
            plain = replace(request, prompts=[request.prompts[i] for i in unguided], seed=request.seed + 2**40)
            answers, size = draw(model, plain).answers, request.group_size
            groups |= {row: Group(list(answers[i * size : (i + 1) * size]), size) for i, row in enumerate(unguided)}
        return self._samples(request, groups, alpha, set(chosen), tokens)

    def _written(self, model: Model, request: RolloutRequest, alpha: float) -> tuple[list[Group], int]:
        if self.guide.unit == "token":
            return by_token(self.expert, model, request, alpha=alpha)
        if self.guide.unit == "prefix":
            return by_prefix(self.expert, model, request, alpha=alpha)
        return by_sequence(self.expert, model, request, alpha=alpha, coins=self.guide.quota == "coin")

    def _samples(
        self, request: RolloutRequest, groups: dict[int, Group], alpha: float, chosen: set[int], tokens: int
    ) -> Samples:
        ordered = [groups[i] for i in range(len(request.rows))]
        size = request.group_size
        own = [place < group.num_own for group in ordered for place in range(size)]
        share = [alpha if i in chosen else 1.0 for i in range(len(request.rows)) for _ in range(size)]
        theirs = 1 - torch.tensor(own, dtype=torch.float32)
        columns = {"alpha": torch.tensor(share, dtype=torch.float64)}
        mixed = self.guide.unit == "token"
        return Samples(
            answers=[answer for group in ordered for answer in group.answers],
            unlearnt=[group.unlearnt for group in ordered for _ in range(size)],
            # Mixed answers do not count as the learner's own.
            by_model=[mine and not (mixed and a < 1) for mine, a in zip(own, share, strict=True)],
            columns=columns if self.guide.unit == "prefix" else {**columns, "from_expert": theirs},
            tokens=tokens,
        )

    def measure(self, model: Model, batch: Batch) -> Batch:
        """The batch with densities and weights."""
        if "from_expert" not in batch:
            return batch
        mask = target_mask(batch["loss_mask"])
        if "old_logprobs" not in batch:
            with evaluating(model.network):
                batch["old_logprobs"] = answer_logprobs(model.network, batch, temperature=self.temperature)
        old = batch["old_logprobs"]
        if bool((old.isneginf() & (mask > 0)).any()):
            raise HoldfastError(
                "guided: one of the expert's tokens has probability 0 under the learner (its logits are masked), so "
                "the loss would be infinite; unmask them, or use an expert that does not use such tokens"
            )
        if "ref_logprobs" in batch:
            guided_rows = (batch["alpha"] < 1)[:, None]
            nearest = torch.minimum(batch["ref_logprobs"], old + LARGEST_GAP)
            batch["ref_logprobs"] = torch.where(guided_rows, nearest, batch["ref_logprobs"])
        return self._with_densities(model, batch, mask) if self._compares else batch

    @property
    def _compares(self) -> bool:
        """Whether the expert's density of the answers is needed."""
        guide = self.guide
        return guide.weighs or guide.ratio == "behavior" or (guide.unit == "token" and guide.drops_negative)

    def _with_densities(self, model: Model, batch: Batch, mask: Tensor) -> Batch:
        theirs = expert_logprobs(
            self.expert, model, batch, temperature=self.temperature, max_new_tokens=self.max_new_tokens
        )
        old, alpha, guide = batch["old_logprobs"], batch["alpha"], self.guide
        batch["expert_logprobs"] = theirs
        if guide.unit == "token":
            mixed = log_mixture(theirs, old, alpha[:, None])
            batch["behavior_logprobs"] = mixed
            whole = guide.weigh == "completion"
            own, mixed = (masked_sum_per_sequence(x, mask) if whole else x for x in (old, mixed))
        else:
            own = masked_sum_per_sequence(old, mask)
            mixed = log_mixture(masked_sum_per_sequence(theirs, mask), own, alpha)
            batch["behavior_logprobs"] = mixed
        if guide.weighs:
            importance = weights(own, mixed, guide.weight, cap=guide.cap, shape=guide.shape)
            unguided = alpha == 1 if importance.dim() == 1 else (alpha == 1)[:, None]
            batch["weights"] = torch.where(unguided, torch.ones_like(importance), importance)
        return batch

    def finish(self, batches: list[Batch], rewards: Tensor) -> list[Batch]:
        """The batches for the objective; the rewards of both update the schedule."""
        if "alpha" not in batches[0]:
            batches[0]["log/alpha"] = torch.ones(())
            return batches
        summary = rollout_statistics(batches, rewards, whole_answers=self.guide.unit == "sequence")
        if self.guide.drops_negative:
            for batch in batches:
                batch["advantages"] = _positive(batch, mixed=self.guide.unit == "token")
        if self.guide.ratio == "behavior":
            for batch in batches:
                batch["old_logprobs"] = batch["behavior_logprobs"]
        self._update_schedule(summary)
        batches[0] |= {f"log/{name}": torch.tensor(value) for name, value in summary.logged(self.guide).items()}
        return batches

    def _update_schedule(self, summary: RolloutStatistics) -> None:
        """Update the averages of the learner's and the expert's rewards; note when the learner reaches its target."""
        settings, state = self.guide.schedule, self.state
        for name, value in (("own", summary.own_reward), ("expert", summary.expert_reward)):
            if value is not None:
                before = state.get(f"{STATE}/{name}", value)
                state[f"{STATE}/{name}"] = settings.smoothing * before + (1 - settings.smoothing) * value
        own, expert = state.get(f"{STATE}/own"), state.get(f"{STATE}/expert")
        if own is not None and expert is not None and succeeds(own, expert, settings.kappa):
            state.setdefault(f"{STATE}/succeeded", state[f"{STATE}/step"])


def _positive(batch: Batch, *, mixed: bool) -> Tensor:
    """The advantages without negative ones of the expert's answers, (N,) or (N, T)."""
    advantages = batch["advantages"]
    if mixed:
        alpha = batch["alpha"][:, None]
        theirs = (1 - alpha) * batch["expert_logprobs"].exp() > alpha * batch["old_logprobs"].exp()
        advantages = as_columns(advantages)
    else:
        theirs = batch["from_expert"] > 0
        theirs = theirs if advantages.dim() == 1 else theirs[:, None]
    return advantages.masked_fill(theirs & (advantages < 0), 0.0)
