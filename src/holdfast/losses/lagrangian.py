"""The Lagrangian of a constrained policy: its multiplier, the combined advantages, and the loss of a cost model."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def ascended(log_multiplier: float, cost: float, *, threshold: float, rate: float, maximum: float | None) -> float:
    """The logarithm of the multiplier after a step of gradient ascent on it, as in Safe RLHF's code.

    `xi + rate (J_C - d) exp(xi)`, at most the logarithm of `maximum` (Dai et al. 2023, arXiv 2310.12773, section 3.3).

    Args:
        log_multiplier: `xi`.
        cost: `J_C`, the mean cost of recent answers.
        threshold: `d`, the cost that is tolerated.
        rate: the step's size, at least 0.
        maximum: an upper bound of the multiplier itself, above 0; `None` for none.
    """
    updated = log_multiplier + rate * (cost - threshold) * math.exp(log_multiplier)
    return updated if maximum is None else min(updated, math.log(maximum))


def lagrangian(reward_advantages: Tensor, cost_advantages: Tensor, multiplier: float) -> Tensor:
    """`(A_r - lambda A_c) / (1 + lambda)`, in the shape of its arguments (Dai et al. 2023, arXiv 2310.12773)."""
    return (reward_advantages - multiplier * cost_advantages) / (1 + multiplier)


def cost_model(
    safer: Tensor, unsafer: Tensor, safer_sign: Tensor, unsafer_sign: Tensor, *, regularization: float = 0.0
) -> Tensor:
    """The loss of pairs of costs: the order of each pair, and the sign of each cost, (P,).

    `-log sigmoid(c_u - c_s) - log sigmoid(-z_s c_s) - log sigmoid(-z_u c_u) + regularization (c_s^2 + c_u^2) / 2`, a
    mean over positions if there are several (Dai et al. 2023, arXiv 2310.12773, equation 7, as in its code).

    For training loops of one's own: Holdfast trains no cost model.

    Args:
        safer: (P,) or (P, T) costs of the safer answers, NaN at places that do not count.
        unsafer: the others' costs, same shape and places.
        safer_sign: (P,) 1 for an answer that is safe, -1 for one that is not.
        unsafer_sign: (P,) of the others.
        regularization: weight of the squared costs.
    """
    pairs = [(safer, safer_sign), (unsafer, unsafer_sign)]
    loss = -functional.logsigmoid(unsafer - safer)
    for costs, signs in pairs:
        along = signs.view(-1, *(1,) * (costs.dim() - 1))
        loss = loss - functional.logsigmoid(-along * costs) + regularization / 2 * costs.square()
    return loss if loss.dim() == 1 else torch.nanmean(loss.flatten(1), 1)
