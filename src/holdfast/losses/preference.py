"""Preference losses: on the log-probabilities of whole answers, and on rewards."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """The DPO loss of each pair, (P,).

    `-log sigmoid(beta ((chosen - ref_chosen) - (rejected - ref_rejected)))` (Rafailov et al. 2023, arXiv 2305.18290,
    equation 7).

    Args:
        chosen: (P,) sums of the log-probabilities of each chosen answer's tokens under the policy.
        rejected: (P,) of the rejected answers.
        ref_chosen: (P,) under the reference.
        ref_rejected: (P,) under the reference.
        beta: temperature of the implicit reward, above 0.
    """
    return -functional.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


def bradley_terry(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """The Bradley-Terry loss of each pair, in the shape of its arguments.

    `-log sigmoid(chosen - rejected)`: the negative log-probability of the preference (Bradley and Terry 1952; as a
    reward model's loss, Ouyang et al. 2022, arXiv 2203.02155, equation 1).

    Args:
        chosen_rewards: rewards of the chosen answers, any shape.
        rejected_rewards: rewards of the rejected ones, same shape.
    """
    return -functional.logsigmoid(chosen_rewards - rejected_rewards)
