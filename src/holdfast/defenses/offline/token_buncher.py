"""TokenBuncher: remove the entropy of answers to harmful prompts, which RL needs, and turn the rest into noise.

Idea: if all answers are the same, a group's advantages cannot distinguish them; and if an attacker restores entropy,
the Token Noiser has trained the model so that the sampled tokens are noise.
Equations: reward `-H(y)` on harmful prompts, the mean token entropy of the answer in nats, and `-KL(policy ||
reference)` on benign ones (12), optimised with GRPO; the Token Noiser's loss (15) on the policy's own answers; hard
alternation of the two after a first eighth with rewards alone.
The loss's lowest point, `p(y) = 1 - lambda` with the rest uniform, has an entropy that grows with the vocabulary: for
lambda .1 and .011 it is 1.52 and .19 nats at the 151,936 tokens of the paper's models. `noise_entropy` asks for that
entropy instead of lambda, whatever the vocabulary.
Source: TokenBuncher (arXiv 2508.20697); `mode="repo"` follows its published code, which differs from the paper:

| setting | `paper` | `repo` |
|---|---|---|
| `noise_squared`: the noise's weight is lambda squared | no: 0.9 and 0.1 | yes: 0.9 and 0.01 |
| `noise_on_padding`: padding counts as an answer's tokens | no | yes |
| `benign_share`: prompts with the KL reward | 0.25 | 0 |
| `kl_coef`: k1 penalty on harmful prompts | 0 | 0.001 |
| `population_std` in the advantage | yes | no |
| `clip_noise`: gradients clipped in the noiser's steps | yes | no |

Differs from the paper in: the paper does not say which answers the noiser learns from, nor the share of benign prompts;
here they are the answers to harmful prompts whose advantage is not negative, as in its code, which has no other
prompts, and the share is a quarter. `retain_by="loss"` is this project's: KLs of 1e-4 in a group, divided by their
deviation, become advantages of size 1 and change a model that needs no correction; as a term of the loss (k3) the same
KL keeps the model close. `noise_entropy` is this project's. The noiser's loss is that of the distribution from which
the answers were sampled: with another `policy.temperature` than the paper's 1 its `p` is at that temperature too, since
a loss at 1 teaches the flatter distribution, whose samples are then flatter again. Groups of equal rewards, whose
advantages are 0, are noised as in the code. Prompts are disjoint from the attacker's, where the code's are nested. With
`noise_on_padding` a row is padded to the longest one of its batch, where the code pads to 1024 tokens. `None` for a
setting of the table means the mode's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from holdfast.data.mixing import mix, most
from holdfast.losses.noise import noise_of_entropy, noised_distributions
from holdfast.methods.ranges import NonNegative, PartialShare, Share, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.forward import target_distributions
from holdfast.network.models import LoRA, Model, adapt, clone, merged
from holdfast.records import Completion, Example, HoldfastError
from holdfast.rl.experience import Experience, hash_seed
from holdfast.rl.policy import Policy, policy_plan, require_divisible
from holdfast.tensors import Batch, as_columns, masked_mean_per_sequence, target_mask
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Examples, Metrics, Objective, Optim, Plan, Prepare, reference_of


class Modes(NamedTuple):
    """What the paper and its code do differently, one value each."""

    noise_squared: bool
    noise_on_padding: bool
    benign_share: float
    kl_coef: float
    population_std: bool
    clip_noise: bool


MODES = {
    "paper": Modes(False, False, 0.25, 0.0, True, True),
    "repo": Modes(True, True, 0.0, 0.001, False, False),
}
SHORTER_PASSES = 2_000_000
"""The number of weights from which on a pass leaves out the rows that have no share in its term. Results are the same
up to rounding; of smaller networks, which gain little, they stay as they were to the last bit."""


@dataclass(frozen=True, kw_only=True)
@ranged
class TokenBuncher(OfflineDefense):
    """Settings of the defense. `None` for one that has a value by mode means that value (table above).

    - `mode`: Whether to follow the paper or its published code (`repo`) where the two differ: it gives the settings
      that are `None`.
    - `optim`: Optimizer and schedule; its `max_steps` counts optimizer steps, of which `policy.minibatches` make one
      step of the defense's schedule.
    - `policy`: The policy gradient by which entropy is reduced; its `kl_coef` and `std_correction` are set by the
      defense.
    - `noise`: Lambda, the share of probability that the Token Noiser moves from the sampled token to random ones; 0
      disables the noiser.
    - `warm_up`: The share of the schedule with rewards alone, before the noiser trains at every other step.
    - `retain_by`: How answers to benign prompts are kept: minus their KL to the initial model is their reward
      (`reward`, the paper's), or that KL is a term of the loss (`loss`, this project's), which leaves a model alone
      that needs no correction.
    - `retain_weight`: With `retain_by: loss`, the weight of that KL in the loss of every step.
    - `noise_squared`: Whether the weight of the noiser's random tokens is lambda squared, as in the code (0.01 for
      0.1), instead of lambda; `None`: no in mode `paper`, yes in `repo`.
    - `noise_on_padding`: Whether the noiser also trains on the padding after an answer, as the code does; `None`: no in
      mode `paper`, yes in `repo`.
    - `benign_share`: The share of prompts that are benign, whose answers are kept near those of the initial model;
      `None`: 0.25 in mode `paper`, 0 in `repo`.
    - `kl_coef`: The weight of a KL penalty (k1) in the reward of answers to harmful prompts, if there are no benign
      ones; `None`: 0 in mode `paper`, 0.001 in `repo`.
    - `population_std`: Whether the standard deviation that divides advantages is divided by n instead of n - 1; `None`:
      yes in mode `paper`, no in `repo`.
    - `clip_noise`: Whether gradients are also clipped in the noiser's steps (`optim.max_grad_norm`); `None`: yes in
      mode `paper`, no in `repo`.
    - `noise_entropy`: The entropy in nats that the noiser aims at, instead of lambda, which then follows from the size
      of the vocabulary; `None` uses lambda, 0 disables the noiser.
    """

    mode: Literal["paper", "repo"] = "paper"
    optim: Training = field(
        default_factory=lambda: Optim(
            max_steps=800, learning_rate=1e-6, per_device_train_batch_size=32, weight_decay=0.01
        )
    )
    adapter: LoRA | None = None
    policy: Policy = field(
        default_factory=lambda: Policy(
            reduction="token", minibatches=4, std_epsilon=1e-6, kl_in="reward", kl_estimator="k1", dual_clip=3.0
        )
    )
    noise: PartialShare = 0.1
    warm_up: Share = 0.125
    retain_by: Literal["reward", "loss"] = "reward"
    retain_weight: NonNegative = 1.0
    noise_squared: bool | None = None
    noise_on_padding: bool | None = None
    benign_share: PartialShare | None = None
    kl_coef: NonNegative | None = None
    population_std: bool | None = None
    clip_noise: bool | None = None
    noise_entropy: NonNegative | None = field(default=None, metadata=OMITTED_AT_DEFAULT)

    # Those of the sandbox were chosen on its development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "optim": {"max_steps": 300, "learning_rate": 3e-4, "per_device_train_batch_size": 8},
            "policy": {"group_size": 8, "minibatches": 1},
            "noise": 0.011,
            "benign_share": 0.5,
            "retain_by": "loss",
            "retain_weight": 0.25,
        },
        "sandbox_entropy_as_reward": {
            "optim": {"max_steps": 160, "learning_rate": 3e-4, "per_device_train_batch_size": 8},
            "policy": {"group_size": 8, "minibatches": 1, "temperature": 1.5},
            "noise": 0.0,
            "benign_share": 0.5,
            "retain_by": "loss",
            "retain_weight": 0.25,
        },
    }

    def __post_init__(self) -> None:
        require_divisible(self.policy, self.optim)
        if self.noise_entropy is not None and self.noise_squared:
            raise HoldfastError("noise_squared: has no meaning with noise_entropy, which sets the weight; set only one")

    @property
    def resolved(self) -> Modes:
        """The mode's values, replaced by the settings that are given."""
        own = {name: getattr(self, name) for name in Modes._fields}
        return MODES[self.mode]._replace(**{name: value for name, value in own.items() if value is not None})

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: `noise_entropy` is not below that of equally likely tokens of the model's vocabulary.
        """
        copy = adapt(clone(model), self.adapter, seed=context.seed)
        return replace(merged(context.fit(self.plan(copy, context)).model), name=f"{model.name}+token_buncher")

    def plan(self, model: Model, context: Context) -> Plan:
        """The hardening as a plan."""
        how = self.resolved
        # The KL of benign answers is their whole reward, or a term of the loss, so it must not also be a penalty.
        kl_coef = 0.0 if how.benign_share else how.kl_coef
        policy = replace(self.policy, kl_coef=kl_coef, std_correction=0 if how.population_std else 1)
        pulled = bool(how.benign_share) and self.retain_by == "loss"
        if pulled:
            policy = replace(policy, kl_coef=self.retain_weight, kl_in="loss", kl_estimator="k3")
        rows = _prompts(context, how.benign_share)
        plan = policy_plan(model, rows, policy=policy, reward=_nothing, optim=self.optim, context=context)
        experience = replace(cast(Experience, plan.prepare), entropy=True, bonuses=(bunched,))
        if how.benign_share:
            experience = replace(experience, kl_roles=("benign",), bonuses=(bunched_or_kept,))
        if how.benign_share and not pulled:
            reference = reference_of(model)
            experience = replace(experience, reference=reference, estimator="full")
            plan = replace(plan, reference=reference)
        weights = self._noise_weights(model)
        noisy = noise_turns(self.optim.max_steps // plan.steps_per_rollout, self.warm_up) if weights else frozenset()

        def turn(step: int) -> bool:
            return step // plan.steps_per_rollout in noisy

        clip = self.optim.max_grad_norm
        return replace(
            plan,
            prepare=_alternating(experience, turn, how, seed=context.seed),
            objective=_alternated(plan.objective, weights, how, temperature=policy.temperature, pulled=pulled),
            max_grad_norm=lambda step: clip if how.clip_noise or not turn(step) else 0.0,
        )

    def _noise_weights(self, model: Model) -> dict[str, float]:
        """The weights of the noiser's loss; empty if it is disabled."""
        noise, squared = self.noise, self.resolved.noise_squared
        if self.noise_entropy is not None:
            vocabulary = int(model.network.get_output_embeddings().weight.shape[0])
            noise, squared = noise_of_entropy(self.noise_entropy, vocabulary), False
        return {"truth_weight": 1 - noise, "noise_weight": noise**2 if squared else noise} if noise else {}


def noise_turns(total: int, warm_up: float = 0.125) -> frozenset[int]:
    """The steps of the schedule, counted from 0, at which the noiser trains: every other one after the warm-up.

    `a_e = 1` for `e <= floor(E warm_up)`, else `(e - floor(E warm_up)) mod 2`, with `e` counted from 1; the noiser
    trains where `a_e` is 0.
    """
    start = int(total * warm_up)
    return frozenset(e - 1 for e in range(start + 1, total + 1) if (e - start) % 2 == 0)


def bunched(batch: Batch) -> Tensor:
    """The reward of each answer to a harmful prompt, (N,): minus its mean token entropy."""
    return -batch["entropies"]


def bunched_or_kept(batch: Batch) -> Tensor:
    """As `bunched`, and minus its mean token KL, if measured, for each answer to a benign prompt."""
    benign = batch["kl_weights"]
    drift = masked_mean_per_sequence(batch["kl"], target_mask(batch["loss_mask"])) if "kl" in batch else 0.0
    return (1 - benign) * bunched(batch) - benign * drift


def _nothing(completions: Sequence[Completion]) -> list[float | None]:
    """No reward for the text itself."""
    return [0.0] * len(completions)


def _prompts(context: Context, benign_share: float) -> list[Example]:
    harmful, benign = context.splits.harmful["defense"], context.splits.benign["defense"]
    if not benign_share:
        return list(harmful)
    parts = [(harmful, 1 - benign_share), (benign, benign_share)]
    return mix(parts, most(parts), seed=context.seed)


def _alternating(experience: Experience, turn: Callable[[int], bool], how: Modes, *, seed: int) -> Prepare:
    """The experience, with the noiser's targets in the batches of its steps."""

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        batches = experience(model, micro_batches, step)
        if not turn(step):
            return batches
        masks = [_noised(batch, on_padding=how.noise_on_padding, mixed=how.benign_share > 0) for batch in batches]
        total = torch.stack([mask.sum() for mask in masks]).sum()
        return [
            {
                **batch,
                "noise_mask": mask,
                "noise_tokens": total,
                "noise_seed": torch.tensor(hash_seed(f"{seed}/{step}/{i}")),
            }
            for i, (batch, mask) in enumerate(zip(batches, masks, strict=True))
        ]

    return prepare


def _noised(batch: Batch, *, on_padding: bool, mixed: bool) -> Tensor:
    """The targets that the noiser learns from, (N, S - 1); in a batch with benign rows, only on the others."""
    counted = as_columns((batch["advantages"] >= 0).float()) * target_mask(batch["loss_mask"])
    if on_padding:
        columns = torch.arange(1, batch["input_ids"].shape[1], device=counted.device)
        counted = counted + (columns >= batch["lengths"][:, None]).float()
    return counted * (1 - batch["kl_weights"])[:, None] if mixed else counted


def _alternated(
    objective: Objective, weights: Mapping[str, float], how: Modes, *, temperature: float, pulled: bool
) -> Objective:
    def either(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        if "noise_mask" not in batch:
            return objective(network, batch)
        large = sum(weight.numel() for weight in network.parameters()) >= SHORTER_PASSES
        shorter = how.benign_share > 0 and large
        learnt = _with_share(batch, batch["noise_mask"]) if shorter else batch
        # What follows an answer is not read in groups, so it cannot be learnt in groups.
        grouped = shorter and not how.noise_on_padding
        loss, missed = torch.zeros((), device=batch["input_ids"].device), torch.zeros(())
        if len(learnt["input_ids"]):
            loss, missed = noised_distributions(
                target_distributions(network, learnt if grouped else _alone(learnt), learnt["noise_mask"]),
                learnt["input_ids"],
                learnt["noise_mask"],
                seed=int(batch["noise_seed"]),
                temperature=temperature,
                num_tokens=batch["noise_tokens"],
                **weights,
            )
        metrics = {"noiser_mass": float(missed)}
        kept = _with_share(batch, batch["kl_weights"][:, None]) if shorter else batch
        if pulled and len(kept["input_ids"]):
            # Without advantages, only the benign rows' KL remains of the other steps' loss.
            term, more = objective(network, {**kept, "advantages": torch.zeros_like(kept["advantages"])})
            loss, metrics = loss + term, {**more, **metrics}
        return loss, {**metrics, "loss": float(loss.detach())}

    return either


def _alone(batch: Batch) -> Batch:
    """The batch, each row of which is read completely."""
    return {name: value for name, value in batch.items() if name != "groups"}


def _with_share(batch: Batch, weights: Tensor) -> Batch:
    """The rows that have a weight above 0, with the step's totals unchanged; `weights` is (N, ...)."""
    rows, count = (weights > 0).any(1), len(weights)
    return {name: value[rows] if value.dim() and len(value) == count else value for name, value in batch.items()}
