"""Objectives: losses bound to a forward pass, in the shape that a `Plan` holds."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.forward import forward
from holdfast.losses.language import cross_entropy
from holdfast.losses.policy import Estimator, Reduction, kl_estimate, reduce, surrogate
from holdfast.plan import Metrics, Objective
from holdfast.tensors import Batch, masked_mean, target_mask, token_logprobs


def language(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Cross entropy of the batch's answers: SFT, and every term that teaches a given text."""
    logits = forward(network, batch)
    loss = cross_entropy(logits, batch["input_ids"], batch["loss_mask"], num_tokens=batch.get("num_tokens"))
    return loss, {"loss": float(loss.detach())}


def policy_gradient(
    *,
    clip_low: float,
    clip_high: float,
    reduction: Reduction,
    max_tokens: int,
    kl_coef: float = 0.0,
    estimator: Estimator = "k3",
    temperature: float = 1.0,
) -> Objective:
    """The clipped policy-gradient loss on sampled sequences, plus `kl_coef` times the KL to the reference.

    The batch holds `advantages` (N,), optionally `old_logprobs` (N, S - 1; the policy is taken not to have moved
    without them), and, when `kl_coef` is not 0, `ref_logprobs` (N, S - 1) with `kl_weights` (N,; 1 unless given).
    Log-probabilities are those of the sampling `temperature`: the gradient is the policy's that sampled.
    Sequences without an advantage have no gradient in the first term; when there is no KL term either they are left
    out of the pass.
    """

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        kept = batch if kl_coef else _with_advantage(batch)
        if kept is None:
            return torch.zeros((), device=batch["input_ids"].device), {"loss": 0.0}
        logits = forward(network, kept)
        logprobs = token_logprobs(logits, kept["input_ids"], temperature=temperature)
        mask = target_mask(kept["loss_mask"])
        old = kept.get("old_logprobs", logprobs.detach())
        per_token = surrogate(logprobs, old, kept["advantages"][:, None], clip_low=clip_low, clip_high=clip_high)
        metrics: Metrics = {}
        if kl_coef:
            kl = kl_estimate(logprobs, kept["ref_logprobs"], estimator)
            if "kl_weights" in kept:
                kl = kl * kept["kl_weights"][:, None]
            per_token = per_token + kl_coef * kl
            metrics["kl"] = float(masked_mean(kl.detach(), mask, kept["num_tokens"]))
        loss = reduce(
            per_token,
            mask,
            reduction=reduction,
            num_tokens=kept["num_tokens"],
            num_sequences=kept["num_sequences"],
            max_tokens=max_tokens,
        )
        return loss, {"loss": float(loss.detach()), **metrics}

    return objective


def _with_advantage(batch: Batch) -> Batch | None:
    """The rows whose advantage is not zero, with the step's totals untouched; `None` if there are none."""
    rows = batch["advantages"] != 0
    if bool(rows.all()):
        return batch
    if not bool(rows.any()):
        return None
    count = len(rows)
    return {name: value[rows] if value.dim() and len(value) == count else value for name, value in batch.items()}
