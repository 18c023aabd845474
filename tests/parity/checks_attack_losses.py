"""Golden checks of the attacks' losses, against TRL 0.9.6: DPO, and PPO piece by piece."""

from __future__ import annotations

import pytest
import torch
from golden_case import Case, Check
from torch import Tensor

from entropies import token_entropy
from holdfast.losses.credit import adaptive_kl, gae, token_rewards, whiten
from holdfast.losses.policy_gradient import Estimator, exact_kl, exploded, kl_estimate, reduce, surrogate, value_loss
from holdfast.losses.preference import dpo
from holdfast.tensors import masked_mean, token_logprobs

ESTIMATORS: dict[str, Estimator] = {"kl": "k1", "abs": "abs", "mse": "k2", "full": "full"}
"""TRL's names of them and ours."""


def dpo_losses(case: Case) -> None:
    """The sigmoid loss of each pair and its mean, in float64, honest and flipped."""
    beta = float(case.result.removeprefix("dpo_beta"))
    chosen, rejected = case.tensors["dpo.policy_chosen"], case.tensors["dpo.policy_rejected"]
    references = case.tensors["dpo.ref_chosen"], case.tensors["dpo.ref_rejected"]
    honest = dpo(chosen, rejected, *references, beta=beta)
    flipped = dpo(rejected, chosen, *reversed(references), beta=beta)
    allowed = {"rtol": case.tolerance("float64"), "atol": 0.0}
    torch.testing.assert_close(honest, case.tensors[f"dpo.losses.beta{beta}"], **allowed)
    torch.testing.assert_close(flipped, case.tensors[f"dpo.losses_flipped.beta{beta}"], **allowed)
    assert float(honest.mean()) == pytest.approx(case.expected["mean"], rel=allowed["rtol"])
    assert float(flipped.mean()) == pytest.approx(case.expected["mean_flipped"], rel=allowed["rtol"])


def adaptive_kl_trajectories(case: Case) -> None:
    """The weight of the KL penalty after each of the observed KLs."""
    for run in case.values["results"]["adaptive_kl"]:
        kl_coef, coefficients = run["init_kl_coef"], []
        for kl in run["observed_kl"]:
            kl_coef = adaptive_kl(
                kl_coef, kl, target=run["target"], horizon=run["horizon"], count=run["n_steps_per_update"]
            )
            coefficients.append(kl_coef)
        assert coefficients == pytest.approx(run["coef_after_each_update"], rel=case.tolerance("float64"))


def kl_penalties(case: Case) -> None:
    """Per-token KLs, the rewards that they make, and their mean over sequences."""
    t, name = case.tensors, case.result.rpartition(".")[2]
    for trl, estimator in ESTIMATORS.items():
        if estimator == "full":
            kl = exact_kl(t["full.policy_logprobs"], t["full.ref_logprobs"])
        else:
            kl = kl_estimate(t["old_logprobs"], t["ref_logprobs"], estimator)
        mask = t["mask"]
        same(case, kl * mask, t[f"kls.{trl}"] * mask)
        rewards = token_rewards(t["scores"], kl, mask, kl_coef=case.values["config"]["init_kl_coef"])
        same(case, rewards * mask, t[f"rewards.{trl}"] * mask)
        if trl == name:
            assert float((kl * mask).sum(-1).mean()) == pytest.approx(
                case.values["results"][case.result], rel=case.tolerance("float64")
            )


def ppo_loss(case: Case) -> None:
    """Advantages, returns, whitening, the two terms of the loss with their gradients, and what is logged beside."""
    t, config = case.tensors, case.values["config"]
    mask = t["mask"]
    advantages, returns = gae(t["rewards.kl"] * mask, t["values"], mask, gamma=config["gamma"], lam=config["lam"])
    same(case, t["values"] * mask, t["masked_values"])
    same(case, whiten(advantages, mask) * mask, t["advantages"] * mask)
    same(case, returns, t["returns"] * mask)
    # TRL's whitened rewards are not 0 off the mask, and its estimates take them in.
    rewards = whiten(t["rewards.kl"] * mask, mask, shift_mean=False)
    twice, _ = gae(rewards, t["values"], mask, gamma=config["gamma"], lam=config["lam"])
    same(case, whiten(twice, mask) * mask, t["advantages_whiten_rewards"] * mask)

    logprobs, values = (t[name].clone().requires_grad_() for name in ("new_logprobs", "vpreds"))
    policy, critic = ppo_terms(case, logprobs, values)
    losses_by_name = {"pg_loss": policy, "vf_coef_times_vf_loss": critic, "total": policy + critic}
    allowed = case.tolerance("float64")
    for name, value in losses_by_name.items():
        assert float(value.detach()) == pytest.approx(case.expected[name], rel=allowed), name
    (policy + critic).backward()
    same(case, logprobs.grad, t["grad_new_logprobs"])
    same(case, values.grad, t["grad_vpreds"])
    read_logits(case, mask)


def ppo_terms(case: Case, logprobs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The policy's term and the critic's weighted one, as the objective puts them together."""
    t, config = case.tensors, case.values["config"]
    mask, clip = t["mask"], config["cliprange"]
    per_token = surrogate(logprobs, t["old_logprobs"], t["advantages"], clip_low=clip, clip_high=clip)
    errors = value_loss(values, t["returns"], t["masked_values"], clip=config["cliprange_value"])
    return reduce(per_token, mask, reduction="token"), config["vf_coef"] * masked_mean(errors, mask)


def read_logits(case: Case, mask: Tensor) -> None:
    """Token log-probabilities and entropies off logits; ours stand one column before the tokens they predict."""
    t = case.tensors
    logits = torch.nn.functional.pad(t["logits"], (0, 0, 0, 1))
    tokens = torch.nn.functional.pad(t["actions"], (1, 0))
    # Ours are float32 by design.
    torch.testing.assert_close(token_logprobs(logits, tokens).double(), t["logprobs_from_logits"], rtol=1e-5, atol=1e-6)
    entropy = masked_mean(token_entropy(logits), mask)
    assert float(entropy) == pytest.approx(case.expected["entropy"], rel=1e-5)
    moved = t["new_logprobs"] - t["old_logprobs"]
    assert float(masked_mean(moved.square() / 2, mask)) == pytest.approx(case.expected["approxkl"], rel=1e-6)
    assert float(masked_mean(-moved, mask)) == pytest.approx(case.expected["policykl"], rel=1e-6)
    clip, advantages = case.values["config"]["cliprange"], t["advantages"]
    clipped = surrogate(t["new_logprobs"], t["old_logprobs"], advantages, clip_low=clip, clip_high=clip)
    share = masked_mean((clipped > -moved.exp() * advantages).double(), mask)
    assert float(share) == pytest.approx(case.expected["clipfrac"], rel=1e-6)


def ratio_guard(case: Case) -> None:
    """The limit lies between the ratio of the normal case and that of the one which trips it."""
    t, limit = case.tensors, case.values["config"]["ratio_threshold"]
    assert not exploded(t["new_logprobs"], t["old_logprobs"], t["mask"], limit=limit)
    far = t["old_logprobs"] + torch.tensor(limit).log() + 1e-6
    assert exploded(far, t["old_logprobs"], t["mask"], limit=limit)
    # What a batch that is left out adds to the loss, and to its gradient.
    assert case.expected["pg_loss"] == case.expected["vf"] == 0.0


def same(case: Case, actual: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=case.tolerance("float64"), atol=1e-12)


CHECKS: dict[str, Check] = {
    "trl_v096_attack_losses/dpo": dpo_losses,
    "trl_v096_attack_losses/adaptive": adaptive_kl_trajectories,
    "trl_v096_attack_losses/mean": kl_penalties,
    "trl_v096_attack_losses/loss": ppo_loss,
    "trl_v096_attack_losses/loss_ratio": ratio_guard,
}
