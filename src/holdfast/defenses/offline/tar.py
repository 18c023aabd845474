"""TAR: train against simulated attackers, so that limited fine-tuning does not reach harm.

Idea: at each outer step a few simulated attackers fine-tune the current model; gradients of a tamper-resistance loss on
held-out harmful prompts, taken during their training, move the model to weights from which such training fails.
Equation: `min_theta sum_{tasks, i} w_i L_TR(theta_i; held-out) + retain_weight L_retain(theta)`, `theta_i` the weights
after inner step `i`, `w_i = (tamper_weight / tasks) exp(decay (i - (K - 1)))`, first order (the gradient at `theta_i`
is applied to `theta`); `L_TR` DPO with the refusal chosen, or minus the entropy; `L_retain` cross entropy on benign
answers plus the mean L2 distance of all hidden states to those of the model that TAR starts from. With `repnoise_at`
RepNoise's loss (arXiv 2405.14577) is added to `L_TR` at every evaluated `theta_i`, or to `L_retain`.
Source: Tamirisa et al. 2024 (arXiv 2408.00761) and its code. Defaults: Rosati et al. 2024 (arXiv 2409.12914): 100
outer steps, 4 attackers of 64 steps, batch 8, learning rate 5e-5, DPO; what they do not state is the code's.
Differs from the paper in: AdamW without warm-up, where the code has schedule-free AdamW with 32 warm-up steps;
`switch_share` 0, where a third of the code's attackers begin with benign text; inner batch 8 where it has 4; no factor
on the inner learning rates, where the code's "warm-up" multiplies them by the constant K / 20; evaluations are counted
back from an attacker's last step; the references are the model that TAR starts from. `mode="clean"` counts answer
tokens in the entropy and real tokens in the distance, smooths the distance at 0, where its gradient is undefined and
training starts, and compares `lower_bound` with the mean loss; `mode="reference"` follows the code: every position
including padding, no smoothing, and the bound compared with the sum of weighted losses. TAR + RepNoise is Rosati et
al.'s, who do not state where the loss is taken: `inner_eval` is one interpretation. DPO and RL attackers are this
project's: the code has only SFT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.data.endless import endless
from holdfast.defenses.representation import Removal, removal_plan
from holdfast.defenses.tampering.attackers import Attackers, Probe, among, held_out, resolved
from holdfast.defenses.tampering.objectives import (
    Mode,
    entropy_probe,
    mapped,
    preference_probe,
    random_table,
    reference_to,
    retention,
    weighed,
)
from holdfast.defenses.tampering.runs import Run, TamperResult, add_gradients, follow, tamper, trainable
from holdfast.defenses.tampering.tensor_store import Place
from holdfast.losses.tamper import step_weights
from holdfast.methods.ranges import Count, InnerShare, NonNegative, Number, Positive, Share, ranged
from holdfast.network.models import LoRA, Model, adapt, answer_batch, clone, merged
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch
from holdfast.training.contracts import OfflineDefense
from holdfast.training.objectives import language
from holdfast.training.optim import Training
from holdfast.training.plan import (
    Backward,
    Context,
    Examples,
    GivenAnswers,
    Metrics,
    Objective,
    Optim,
    Plan,
    Propagate,
    Reference,
    add,
    part,
    with_batch,
)


@dataclass(frozen=True, kw_only=True)
@ranged
class TAR(OfflineDefense):
    """Settings of the defense.

    - `adapter`: The low-rank adapter that is trained and then merged, in which case attackers train only the adapter
      too; `None` trains all weights.
    - `optim`: Optimizer and schedule of the outer steps, which train the released model.
    - `inner`: The optimizer of a simulated attacker: its steps, learning rate, batch, Adam's parameters, decay and
      clipping are used.
    - `rate_factors`: Factors of the attackers' learning rate, one of which is chosen at random for each attacker.
    - `tasks`: The number of simulated attackers in each outer step.
    - `adversaries`: The attacks that attackers run, by name with their settings, but without optimizer and adapter of
      their own; each attacker runs one of them. In a grid those that are named join `sft`, the default;
      `shares: {sft: 0}` leaves it out.
    - `shares`: How often each of these attacks is chosen, by name, relative to the others; 1 for one that is not named.
    - `switch_share`: The share of attackers that begin with benign answers and switch to their attack at a point
      sampled from Beta(6, 3), mostly in the last half.
    - `heldout_share`: The share of the harmful rows on which the tamper-resistance loss is measured and no attacker
      trains.
    - `resistance`: The tamper-resistance loss: DPO with the refusal preferred (`dpo`), or minus the entropy of answers
      (`max_entropy`).
    - `beta`: The beta of that DPO, the strength of its constraint to the reference.
    - `tamper_weight`: The weight of the tamper-resistance loss.
    - `decay`: How much less early evaluations of an attacker count: one that is i inner steps before the last has the
      factor exp(-decay i); `None` gives all the same weight.
    - `evaluate_every`: The number of inner steps between two evaluations of the tamper-resistance loss.
    - `lower_bound`: The value of the tamper-resistance loss below which its gradients are dropped; `None` never drops
      them.
    - `retain`: The retain loss: cross entropy of benign answers plus the distance of hidden states to those at the
      start (`representations`), or the cross entropy alone (`language`).
    - `retain_weight`: The weight of the retain loss.
    - `start`: `given` starts from the model; `random_mapping` first maps its hidden states on harmful rows to random
      vectors.
    - `mapping`: The optimizer of that mapping.
    - `repnoise_at`: Where RepNoise's loss (arXiv 2405.14577) is added: to the tamper-resistance loss at every
      evaluation of an attacker (`inner_eval`), or to the retain loss (`outer_only`); `None` for nowhere.
    - `noise_weight`: The weight of RepNoise's noise term.
    - `ascent_weight`: The weight of RepNoise's unlearning term.
    - `mode`: `clean` counts answer tokens in the entropy and real tokens in the distance, smooths the distance at 0 and
      compares the lower bound with the mean loss; `reference` follows the code: every position including padding, no
      smoothing, the bound compared with the sum of weighted losses.
    - `keep_on`: Where the copy of the weights, the summed gradients and the frozen reference are stored: on the device
      of the weights, in CPU memory, or in temporary files.
    """

    optim: Training = field(
        default_factory=lambda: Optim(max_steps=100, learning_rate=5e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    inner: Training = field(
        default_factory=lambda: Optim(max_steps=64, learning_rate=2e-5, weight_decay=0.01, max_grad_norm=0.0)
    )
    rate_factors: tuple[Positive, ...] = (0.1, 1.0, 2.0)
    tasks: Count = 4
    adversaries: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"sft": {}})
    shares: Mapping[str, NonNegative] = field(default_factory=dict)
    switch_share: Share = 0.0
    heldout_share: InnerShare = 0.5
    resistance: Literal["dpo", "max_entropy"] = "dpo"
    beta: Positive = 0.1
    tamper_weight: NonNegative = 4.0
    decay: NonNegative | None = 0.0625
    evaluate_every: Count = 4
    lower_bound: Number | None = None
    retain: Literal["representations", "language"] = "representations"
    retain_weight: NonNegative = 1.0
    start: Literal["given", "random_mapping"] = "given"
    mapping: Training = field(default_factory=lambda: Optim(max_steps=100, learning_rate=2e-5))
    repnoise_at: Literal["inner_eval", "outer_only"] | None = None
    noise_weight: NonNegative = 0.001
    ascent_weight: NonNegative = 1.0
    mode: Mode = "clean"
    keep_on: Place = "device"
    max_length: Count | None = 1024

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "optim": {"max_steps": 60, "learning_rate": 5e-4, "per_device_train_batch_size": 16},
            "inner": {"max_steps": 16, "learning_rate": 1e-4, "per_device_train_batch_size": 16},
            "rate_factors": [0.5, 1.0, 2.0],
            "tasks": 2,
        },
    }

    def __post_init__(self) -> None:
        attacks = {name: resolved(settings, name, self.inner) for name, settings in self.adversaries.items()}
        object.__setattr__(self, "adversaries", attacks)
        unknown = sorted(set(self.shares) - set(attacks))
        if unknown:
            raise HoldfastError(f"shares: {unknown[0]!r} is not one of `adversaries`: {', '.join(attacks)}")
        if not any(self.shares.get(name, 1.0) for name in attacks):
            raise HoldfastError("shares: must not all be 0, and there must be at least one adversary")
        if not self.rate_factors:
            raise HoldfastError("rate_factors: is empty; give at least one, 1.0 for the unchanged rate")

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: the defense split has fewer than two harmful rows, or no benign one, with an answer, or a row
                lacks the refusal that the tamper-resistance loss or RepNoise's needs.
        """
        copy = clone(model)
        if self.start == "random_mapping":
            copy = context.fit(self.mapping_plan(copy, context)).model
        copy = adapt(copy, self.adapter, seed=context.seed)
        hardened = merged(context.fit(self.plan(copy, context)).model)
        return replace(hardened, name=f"{model.name}+tar")

    def plan(self, model: Model, context: Context) -> Plan:
        """The outer loop: benign answers as data, and attackers inside its backward rule."""
        reference = reference_to(model, self.keep_on)
        benign = _answered(context.splits.benign["defense"], "benign")
        kept = language if self.retain == "language" else retention(model, reference, self.mode)
        plan = Plan(
            model=model,
            data=benign,
            prepare=GivenAnswers(max_length=self.max_length),
            objective=weighed(self.retain_weight, kept),
            backward=self.backward(self._attackers(model, reference, benign, context)),
            optim=self.optim,
            reference=reference,
            seed=context.seed,
        )
        plan = with_batch(plan, "tar", lambda step: {"step": torch.tensor(step)})
        if self.repnoise_at == "outer_only":
            noise = self._repnoise(model, context)
            ((objective, _),) = noise(0)
            plan = add(with_batch(plan, "repnoise", lambda step: noise(step)[0][1]), 1.0, objective, on="repnoise")
        return plan

    def backward(self, runs: Callable[[int], Sequence[Callable[[], Run]]]) -> Backward:
        """A backward rule: the gradients of the attackers' runs, `runs(step)`, then those of the plan's objective."""

        def rule(
            objective: Objective, network: torch.nn.Module, batch: Batch, propagate: Propagate
        ) -> tuple[Tensor, Metrics]:
            current, tampering = part(batch, "tar"), None
            if current and self.tamper_weight:
                attackers = runs(int(current["step"]))
                weights = self.weights(len(attackers))
                tampering = tamper(
                    network, attackers, optim=self.inner, weights=weights, propagate=propagate, keep_on=self.keep_on
                )
            loss, metrics = objective(network, batch)
            propagate(loss)
            if tampering is None:
                return loss.detach(), metrics
            resisted = self._within_bound(tampering)
            if resisted:
                add_gradients(trainable(network), tampering.gradients)
            more = {
                "attackers": sum(tampering.losses) / len(tampering.losses),
                "resistance": sum(tampering.probed) / len(tampering.probed),
                "resisted": float(resisted),
            }
            return loss.detach() + sum(tampering.weighed), {**metrics, **more}

        return rule

    def weights(self, tasks: int) -> list[float]:
        """The weight of the gradient after each inner step, 0 where it is not taken."""
        steps, scale = self.inner.max_steps, self.tamper_weight / tasks
        return [
            scale * weight if (steps - 1 - i) % self.evaluate_every == 0 else 0.0
            for i, weight in enumerate(step_weights(steps, self.decay))
        ]

    def mapping_plan(self, model: Model, context: Context) -> Plan:
        """Random Mapping: cross entropy of benign answers, and hidden states on harmful rows moved towards random
        vectors."""
        rows = _answered(context.splits.harmful["defense"], "harmful")
        plan = Plan(
            model=model,
            data=_answered(context.splits.benign["defense"], "benign"),
            prepare=GivenAnswers(max_length=self.max_length),
            objective=language,
            optim=self.mapping,
            seed=context.seed,
        )
        draw = endless(rows, self.mapping.per_device_train_batch_size, seed=context.seed)

        def harmful(step: int) -> Batch:
            return answer_batch(model, [(row, row.response or "") for row in draw(step)], max_length=self.max_length)

        table = random_table(model.network, seed=context.seed)
        return add(with_batch(plan, "mapping", harmful), 1.0, mapped(table, self.mode), on="mapping")

    def _attackers(self, model: Model, reference: Reference, benign: Examples, context: Context) -> Attackers:
        rows = _answered(context.splits.harmful["defense"], "harmful")
        known, heldout = held_out(rows, self.heldout_share, seed=context.seed)
        size, limit = self.optim.per_device_train_batch_size, self.max_length
        if self.resistance == "dpo":
            probe = preference_probe(model, reference, heldout, batch_size=size, beta=self.beta, max_length=limit)
        else:
            probe = entropy_probe(model, heldout, batch_size=size, mode=self.mode, max_length=limit)
        return Attackers(
            model=model,
            context=among(context, known, benign),
            attacks=self.adversaries,
            shares=self.shares,
            optim=self.inner,
            rate_factors=self.rate_factors,
            switch_share=self.switch_share,
            tasks=self.tasks,
            max_length=limit,
            probes=[probe, *([self._repnoise(model, context)] if self.repnoise_at == "inner_eval" else [])],
        )

    def _repnoise(self, model: Model, context: Context) -> Probe:
        removal = Removal(
            removal_weight=self.noise_weight,
            ascent_weight=self.ascent_weight,
            max_length=self.max_length,
            quirks=self.mode == "reference",
        )
        plan = removal_plan(model, context, removal=removal, optim=self.optim, name="tar")
        step = follow(plan, self.optim.per_device_train_batch_size)
        return lambda number: [step(number)]

    def _within_bound(self, tampering: TamperResult) -> bool:
        if self.lower_bound is None or not tampering.probed:
            return True
        value = sum(tampering.weighed) if self.mode == "reference" else sum(tampering.probed) / len(tampering.probed)
        return value >= self.lower_bound


def _answered(rows: Examples, role: str) -> list[Example]:
    answered = [row for row in rows if row.response]
    if not answered:
        raise HoldfastError(f"tar: no {role} row of the defense split has a `response`; map a column to it")
    return answered
