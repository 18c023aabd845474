"""Objectives: losses bound to a forward pass, in the form that a `Plan` needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.distributions import LogProb
from holdfast.losses.policy_gradient import (
    Estimator,
    Ratio,
    Reduction,
    exploded,
    importance_weights,
    kl_estimate,
    reduce,
    sequence_surrogate,
    surrogate,
    value_loss,
)
from holdfast.network.critic import Critic, distributions_and_values
from holdfast.network.forward import answer_logprobs
from holdfast.network.models import LoRA, Model, adapt
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch, as_columns, masked_mean, target_mask
from holdfast.training.optim import Optim
from holdfast.training.plan import GivenAnswers, Metrics, Objective, Plan
from holdfast.training.splitting import by_rows


def taught(
    model: Model,
    rows: Sequence[Example],
    optim: Optim,
    *,
    seed: int,
    max_length: int | None = None,
    adapter: LoRA | None = None,
) -> Plan:
    """Supervised fine-tuning: the model, or an adapter on it, learns each row's own `response`."""
    return Plan(
        model=adapt(model, adapter, seed=seed),
        data=rows,
        prepare=GivenAnswers(max_length=max_length),
        objective=language,
        optim=optim,
        seed=seed,
    )


@by_rows
def language(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Cross entropy of the batch's answers: SFT, and every term that teaches a given text."""
    logprobs = answer_logprobs(network, batch)
    loss = masked_mean(-logprobs, target_mask(batch["loss_mask"]), batch.get("num_tokens"))
    return loss, {"loss": float(loss.detach())}


def policy_gradient(
    *,
    clip_low: float,
    clip_high: float,
    reduction: Reduction,
    max_tokens: int,
    dual_clip: float | None = None,
    ratio: Ratio = "token",
    ratio_guard: float | None = None,
    kl_coef: float = 0.0,
    estimator: Estimator = "k3",
    temperature: float = 1.0,
    critic: Critic | None = None,
    importance_cap: float = 2.0,
) -> Objective:
    """The clipped policy-gradient loss on sampled sequences, `kl_coef` times the KL to the reference, a critic's loss.

    The batch holds `advantages`, (N,) or (N, S - 1), optionally `old_logprobs` (N, S - 1; without them the policy is
    taken as unchanged), when `kl_coef` is not 0 `ref_logprobs` (N, S - 1) with `kl_weights` (N,; 1 by default), and for
    a critic `returns` and `old_values` (N, S - 1), for further ones under their names; critics' losses are reduced like
    the policy's. `weights`, (N,) or (N, S - 1), multiply every term if the answers were not sampled from the policy:
    `weights * surrogate` clips only the change of the policy since the rollout, the decoupled objective of Hilton et
    al. 2022 (arXiv 2110.00641). Where another policy, such as a copy in lower precision, has sampled them with the
    log-probabilities `sampled_logprobs` (N, S - 1), importance weights of at most `importance_cap` correct for it, by
    `policy_logprobs` (N, S - 1) where dropout would change the policy's own. Log-probabilities are at the sampling
    `temperature`, so the gradient is that of the sampling policy. A batch whose mean ratio exceeds `ratio_guard` is
    skipped. Sequences without an advantage are not read if they add nothing.
    """

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        kept = batch if kl_coef or critic is not None else _with_advantage(batch)
        if kept is None:
            return _nothing(batch), {"loss": 0.0}
        logprobs, values = _read(network, kept, temperature, with_values=critic is not None)
        mask = target_mask(kept["loss_mask"])
        old = kept.get("old_logprobs", logprobs.detach())
        if ratio_guard is not None and exploded(logprobs, old, mask * _weights(kept), limit=ratio_guard):
            return _nothing(batch), {"loss": 0.0, "guarded": 1.0}
        kept, sampling = _corrected(kept, old, mask, cap=importance_cap, count=len(batch["input_ids"]))
        loss, metrics = policy_loss(logprobs, old, mask, kept)
        if critic is not None and critic.coef:
            for name, predicted in values.items():
                errors = value_loss(predicted, kept[f"{name}returns"], kept[f"{name}old_values"], clip=critic.clip)
                term = mean(errors, mask, kept)
                loss, metrics[f"{name}value_loss"] = loss + critic.coef * term, float(term.detach())
        return loss, {"loss": float(loss.detach()), **metrics, **sampling}

    def mean(per_token: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        totals = {name: batch[name] for name in ("num_tokens", "num_sequences")}
        return reduce(per_token * _weights(batch), mask, reduction=reduction, max_tokens=max_tokens, **totals)

    def policy_loss(logprobs: Tensor, old: Tensor, mask: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        clips, metrics = {"clip_low": clip_low, "clip_high": clip_high}, dict[str, float]()
        if ratio == "sequence":
            advantages, weights = _of_answers(batch)
            of_answers = sequence_surrogate(logprobs, old, advantages, mask, **clips)
            loss = (weights * of_answers).sum() / batch["num_sequences"]
        else:
            per_token = surrogate(logprobs, old, as_columns(batch["advantages"]), dual_clip=dual_clip, **clips)
            loss = mean(per_token, mask, batch)
        if kl_coef:
            kl = kl_estimate(logprobs, batch["ref_logprobs"], estimator)
            if "kl_weights" in batch:
                kl = kl * batch["kl_weights"][:, None]
            loss = loss + kl_coef * mean(kl, mask, batch)
            metrics["kl"] = float(masked_mean(kl.detach() * _weights(batch), mask, batch["num_tokens"]))
        return loss, metrics

    return objective if ratio_guard is not None else by_rows(objective)


def _read(
    network: torch.nn.Module, batch: Batch, temperature: float, *, with_values: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of the answers' tokens, (N, S - 1), and critics' values by their prefix in batches."""
    if not with_values:
        return answer_logprobs(network, batch, temperature=temperature), {}
    distributions, values = distributions_and_values(network, batch)
    return distributions.measure(LogProb(batch["input_ids"][:, 1:]), temperature=temperature)[0], values


def _corrected(batch: Batch, old: Tensor, mask: Tensor, *, cap: float, count: int) -> tuple[Batch, Metrics]:
    """The batch with importance weights where another policy has sampled it, and how far that one was.

    Answers without an advantage may be missing; the micro-batch had `count` of them. Logged are, over the answers that
    are there, the divergence a token, the mean distance of the weights from 1 and the share of capped ones.
    """
    if "sampled_logprobs" not in batch:
        return batch, {}
    old = batch.get("policy_logprobs", old)
    sampled, share = batch["sampled_logprobs"], float(count / batch["num_sequences"])
    weights = importance_weights(old, sampled, mask, cap=cap)
    metrics = {
        "sampling_kl": share * float(masked_mean(sampled - old, mask)),
        "sampling_gap": share * float((weights - 1).abs().mean()),
        "sampling_capped": share * float((weights >= cap).float().mean()),
    }
    if "weights" in batch:
        weights = as_columns(weights) * as_columns(batch["weights"])
    return {**batch, "weights": weights}, metrics


def _weights(batch: Batch) -> Tensor | float:
    """The weight of each token, (N, 1) or (N, S - 1); 1 unless the batch has weights."""
    return as_columns(batch["weights"]) if "weights" in batch else 1.0


def _of_answers(batch: Batch) -> tuple[Tensor, Tensor | float]:
    """Advantages and weights of whole answers, (N,) each; the weight is 1, a scalar, if the batch has none.

    Raises:
        HoldfastError: the batch has advantages or weights of tokens.
    """
    advantages, weights = batch["advantages"], batch.get("weights", torch.ones(()))
    if advantages.dim() > 1 or weights.dim() > 1:
        raise HoldfastError(
            "policy.ratio: `sequence` treats an answer as one action; here tokens have advantages or weights"
        )
    return advantages, weights


def _nothing(batch: Batch) -> Tensor:
    """A loss without a gradient."""
    return torch.zeros((), device=batch["input_ids"].device)


def _with_advantage(batch: Batch) -> Batch | None:
    """The rows whose advantage is not zero, with the step's totals unchanged; `None` if there are none."""
    rows = (batch["advantages"] != 0).view(len(batch["advantages"]), -1).any(1)
    if bool(rows.all()):
        return batch
    if not bool(rows.any()):
        return None
    count = len(rows)
    return {name: value[rows] if value.dim() and len(value) == count else value for name, value in batch.items()}
