"""TRL's sampling trainers (GRPO, RLOO) as an `Experience` that a defense may change, and the effect of the change.

The trainer still samples and computes rewards by itself. A defense that changes advantages (`safe_rlhf`) receives the
rewards, and an estimator that computes the trainer's advantages from rewards or costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from holdfast.losses.policy_gradient import group_advantages
from holdfast.network.generate import Sampling
from holdfast.records import Completion, Example, HoldfastError, Message, user
from holdfast.rl.experience import Advantage, Experience, Paid, Rollout
from holdfast.training.plan import Metrics, Plan, Prepare

EPSILON = 1e-4
"""The constant that TRL adds to a standard deviation before dividing by it."""


def samples(trainer: Any) -> bool:
    """Whether a trainer samples the answers that it learns from, as TRL's GRPO and RLOO do."""
    return all(
        hasattr(trainer, name) for name in ("_generate_and_score_completions", "num_generations", "reward_funcs")
    )


def steps_per_rollout(trainer: Any) -> int:
    """The number of optimizer steps that learn from one rollout, rounded up."""
    micro_batches: int = trainer.args.steps_per_generation * trainer.num_iterations
    return -(-micro_batches // int(trainer.args.gradient_accumulation_steps))


def experience_of(trainer: Any, *, seed: int) -> Experience:
    """A description of a trainer's sampling that a defense may read and change; it is never called."""
    return Experience(
        reward=_never,
        advantage=_estimator(trainer),
        group_size=trainer.num_generations,
        sampling=Sampling(max_new_tokens=trainer.max_completion_length, temperature=trainer.temperature),
        seed=seed,
    )


def with_prepare_replaced(plan: Plan, into: Prepare) -> tuple[Plan, Experience]:
    """The plan with `into` where its experience was, and that experience as the defenses left it.

    Raises:
        HoldfastError: a defense has put its own `prepare` around it.
    """
    if not isinstance(plan.prepare, Experience):
        raise HoldfastError("a defense hides the trainer's sampling behind its own `prepare`; use `plan.wrapped`")
    return replace(plan, prepare=into), plan.prepare


def check(trainer: Any, before: Experience, after: Experience) -> None:
    """Refuse changes that the trainer does not support."""
    if after.old_logprobs and not _has_old_logprobs(trainer):
        raise HoldfastError(
            "a defense needs the log-probabilities that answers were sampled with, and with these settings GRPOTrainer "
            "computes none; set num_iterations or steps_per_generation so that rollouts serve several steps"
        )
    if after != replace(before, advantage=after.advantage, further=after.further, old_logprobs=after.old_logprobs):
        raise HoldfastError("a defense changes how answers are sampled, and a trainer's own sampling cannot be changed")
    if after.advantage is before.advantage:
        return
    if trainer.accelerator.num_processes > 1:
        raise HoldfastError("costs in the advantages need a single process: TRL gathers rewards from all of them")
    if getattr(trainer, "multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize":
        raise HoldfastError("costs need one reward per answer: set multi_objective_aggregation to sum_then_normalize")
    if getattr(trainer, "reward_clip_range", None) or (_leaves_one_out(trainer) and trainer.beta):
        raise HoldfastError(
            "RLOOTrainer clips rewards, or adds KL to them, where costs cannot be added: set "
            "reward_clip_range to None and beta to 0, and use kl_anchor instead"
        )


def priced(trainer: Any, experience: Experience, log: Callable[[Metrics], None]) -> dict[str, Callable[..., Any]]:
    """Methods for the trainer, by name, that replace its advantages by the experience's."""
    own_rewards, own_scores = trainer._calculate_rewards, trainer._generate_and_score_completions
    held: dict[str, Any] = {}

    def calculate(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Tensor:
        rewards = own_rewards(inputs, prompts, completions, ids)
        known = ~rewards.isnan().all(dim=1)
        total = (rewards * trainer.reward_weights.to(rewards.device)).nansum(dim=1)
        held["rewards"] = torch.where(known, total, torch.nan)
        held["completions"] = _completions(inputs, prompts, completions, ids)
        return cast(Tensor, rewards)

    def generate(inputs: Any) -> dict[str, Any]:
        output = own_scores(inputs)
        if not trainer.model.training:
            return cast(dict[str, Any], output)
        rewards, done = held["rewards"], held["completions"]
        rollout = Rollout(
            rewards=rewards,
            group_size=experience.group_size,
            mask=output["completion_mask"].float(),
            further={name: Paid(_numbers(paid(done), rewards), None) for name, paid in experience.further.items()},
        )
        learnt = experience.advantage(rollout)
        log({name: float(value) for name, value in learnt.items() if name.startswith("log/")})
        log({name: float(rollout.further[name].rewards.nanmean()) for name in experience.further})
        return {**output, "advantages": learnt["advantages"].to(output["advantages"].dtype)}

    return {"_calculate_rewards": calculate, "_generate_and_score_completions": generate}


def _never(_: Sequence[Completion]) -> list[float | None]:
    raise HoldfastError("the trainer computes its rewards itself: a defense cannot call its reward")


def _estimator(trainer: Any) -> Advantage:
    """The advantages that the trainer would compute from the rollout's rewards."""

    def advantages(rollout: Rollout) -> dict[str, Tensor]:
        alone = _leaves_one_out(trainer)
        estimated = group_advantages(
            rollout.rewards,
            rollout.group_size,
            scale="none" if alone else trainer.scale_rewards,
            epsilon=EPSILON,
            baseline="leave_one_out" if alone else "group_mean",
            correction=1,
        )
        if alone and trainer.normalize_advantages:
            estimated = _normalized(estimated, rollout)
        return {"advantages": estimated}

    return advantages


def _normalized(advantages: Tensor, rollout: Rollout) -> Tensor:
    """Advantages over the batch as RLOOTrainer normalizes them: those without another reward in their group are 0."""
    known = ~rollout.rewards.view(-1, rollout.group_size).isnan()
    compared = (known & (known.sum(1, keepdim=True) > 1)).flatten()
    some = advantages[compared]
    if not len(some):
        return torch.zeros_like(advantages)
    return torch.where(compared, (advantages - some.mean()) / (some.std() + EPSILON), 0.0)


def _leaves_one_out(trainer: Any) -> bool:
    return hasattr(trainer, "normalize_advantages")


def _has_old_logprobs(trainer: Any) -> bool:
    if _leaves_one_out(trainer):
        return True
    rollout = trainer.args.steps_per_generation * trainer.num_iterations
    return bool(trainer.args.gradient_accumulation_steps % rollout != 0)


def _completions(rows: Sequence[Mapping[str, Any]], prompts: Any, texts: Any, ids: Any) -> list[Completion]:
    """The trainer's answers in the form that judges read, with the columns of an `Example`."""
    return [
        Completion(example=_example(row, prompt), text=_text(text), num_tokens=len(tokens))
        for row, prompt, text, tokens in zip(rows, prompts, texts, ids, strict=True)
    ]


def _example(row: Mapping[str, Any], prompt: Any) -> Example:
    turns = user(prompt) if isinstance(prompt, str) else tuple(Message(t["role"], t["content"]) for t in prompt)
    named = {name: row[name] for name in ("response", "refusal", "role", "domain") if row.get(name)}
    return Example(prompt=turns, facts=tuple(row.get("facts") or ()), **named)


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _numbers(paid: Sequence[float | None], like: Tensor) -> Tensor:
    return torch.tensor([float("nan") if p is None else p for p in paid], device=like.device)
