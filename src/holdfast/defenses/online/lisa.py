"""Lisa: during a customer's training keep the weights close to their anchor, and align the model again in between.

Idea: fine-tuning forgets because weights drift. A penalty on the drift reduces this (`proximal`); in addition the
service may use steps of the same run for refusals, alternating with the customer's steps (`bistate`).
Equation: `L = L_task + (proximal_weight / 2) sum_i |theta_i - anchor_i|^2` over trained tensors `theta_i`. `proximal`:
the anchor is the initial model. `bistate`: `alignment_steps` steps of cross entropy on refusals, then `finetune_steps`
of the customer's loss, and so on, with one optimizer; the anchor of a state is the weights at which the other one
ended. No penalty in the first `warmup_fraction` of the run.
Source: Huang et al. 2024 (arXiv 2405.18641) and its code, which `bistate` follows; its settings are `preset: code`.
The defaults are the drift penalty of Rosati et al. 2024 (arXiv 2409.12914), who report a weight of 100, below which
the defense is much poorer.
Differs from the paper in: alignment trains on refusals of the defense split, in batches of `batch_size`, where the code
takes safe answers of BeaverTails in the customer's batch size; states and warm-up are counted in optimizer steps, where
the code counts micro-batches (its scripts have one for each step). The code keeps an anchor for each state, of which
one is always overwritten before it is read; here there is one copy of the weights. The penalty enters an optimizer step
once; the code adds it to every micro-batch, whose losses its Trainer divides by their number, which gives the same
gradient. Rosati et al. state neither alignment data nor states nor a warm-up: refusals of the defense split and the
code's warm-up are used here. Under RL both states last whole rollouts, and none is sampled for the alignment state; a
critic is not penalised. With an adapter the drift is that of its own tensors, so its penalty weights are not comparable
with those of full fine-tuning.

Rows that the customer's run would have used during the alignment state are skipped, and alignment steps count as steps.
The penalty is added before clipping, by its own gradient on each weight's device: nothing is gathered. A penalty on
weights also hinders harmless training, so choose its weight together with what customers can still learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.data.endless import endless
from holdfast.methods.ranges import Count, NonNegative, Share, Whole, ranged
from holdfast.network.critic import PREFIX
from holdfast.network.models import Model, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import Batch
from holdfast.training.contracts import OnlineDefense
from holdfast.training.objectives import language
from holdfast.training.plan import Backward, Context, Examples, Metrics, Objective, Plan, Prepare, Propagate, part

Alignment = Callable[[int, int], list[Batch]]
"""(number, micro_batches) -> the micro-batches of alignment step `number`, counted from 0 over the whole run."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Lisa(OnlineDefense):
    """Settings of the defense.

    - `mode`: `proximal` has the penalty on the drift alone, `bistate` also steps on refusals in between.
    - `proximal_weight`: The weight of the penalty, half of the squared distance of the weights to their anchor; with 0
      and without steps on refusals the plan does not change.
    - `warmup_fraction`: The first share of the run, in which there is no penalty.
    - `alignment_steps`: In mode `bistate`, the number of optimizer steps on refusals before it is the customer's turn.
    - `finetune_steps`: In mode `bistate`, the number of the customer's optimizer steps before it is the refusals' turn.
    - `batch_size`: In mode `bistate`, the number of refusals in a micro-batch.
    - `max_length`: The largest number of tokens of prompt plus answer, what follows is cut; `None` is the model's
      context.
    """

    mode: Literal["proximal", "bistate"] = "proximal"
    proximal_weight: NonNegative = 100.0
    warmup_fraction: Share = 0.1
    alignment_steps: Whole = 100
    finetune_steps: Count = 900
    batch_size: Count = 8
    max_length: Count | None = 1024

    COEFFICIENT: ClassVar[str] = "proximal_weight"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"mode": "proximal", "proximal_weight": 100.0},
        "code": {"mode": "bistate", "proximal_weight": 1.0, "alignment_steps": 100, "finetune_steps": 900},
    }

    @property
    def aligns(self) -> bool:
        """Whether there is an alignment state."""
        return self.mode == "bistate" and self.alignment_steps > 0

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with the penalty on its weights, and in `bistate` with steps on refusals of the defense split.

        Raises:
            HoldfastError: the defense split has no refusal, or alignment would take all steps of the run.
        """
        if not self.aligns:
            return plan if self.proximal_weight == 0 else self.around(plan, None)
        rows = [row for row in context.splits.harmful["defense"] if row.refusal]
        if not rows:
            raise HoldfastError("lisa: no harmful row of the defense split has a refusal; set `refusal` in the data")
        draw = endless(rows, self.batch_size * plan.optim.gradient_accumulation_steps, seed=context.seed)

        def refusals(number: int, micro_batches: int) -> list[Batch]:
            pairs = [(row, row.refusal or "") for row in draw(number)]
            shares = [pairs[i::micro_batches] for i in range(micro_batches)]
            return [answer_batch(plan.model, share, max_length=self.max_length) for share in shares]

        return self.around(plan, refusals)

    def around(self, plan: Plan, alignment: Alignment | None) -> Plan:
        """The plan with the penalty and, if `alignment` is given, an alignment state on its batches.

        Raises:
            HoldfastError: alignment would take all steps of the run.
        """
        clock = self._clock(plan, aligning=alignment is not None)
        if alignment is not None and clock.alignment >= plan.optim.max_steps:
            raise HoldfastError(
                f"lisa: alignment_steps of {clock.alignment} use up all {plan.optim.max_steps} steps of the run; "
                "lower alignment_steps or raise the attack's optim.max_steps"
            )

        def prepare(inner: Prepare, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
            if clock.switches(step):
                plan.tensors.update({clock.name + name: p.detach().clone() for name, p in _held(plan.model)})
            if alignment is not None and clock.aligns(step):
                batches = alignment(clock.number(step), len(micro_batches))
                batches = [{**batch, f"{clock.name}aligning": torch.tensor(1.0)} for batch in batches]
            else:
                batches = inner(model, micro_batches, step)
            return [{**batches[0], f"{clock.name}step": torch.tensor(step)}, *batches[1:]]

        def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            return (language if f"{clock.name}aligning" in batch else plan.objective)(network, batch)

        rule = self._backward(plan, clock)
        return replace(plan.wrapped(prepare), objective=objective, backward=rule)

    def _backward(self, plan: Plan, clock: _Clock) -> Backward:
        """The plan's own rule, then, once per step, the gradient of the penalty."""
        warm = self.warmup_fraction * plan.optim.max_steps

        def rule(
            objective: Objective, network: torch.nn.Module, batch: Batch, propagate: Propagate
        ) -> tuple[Tensor, Metrics]:
            loss, metrics = plan.backward(objective, network, batch, propagate)
            current = part(batch, clock.name.rstrip("/"))
            if "step" not in current:
                return loss, metrics
            weight = self.proximal_weight if int(current["step"]) > warm else 0.0
            distance = float(_pull(plan, clock.name, weight))
            penalty = weight / 2 * distance
            more = {"aligning": float("aligning" in current), "distance": distance, "penalty": penalty}
            return loss + penalty, {**metrics, **{f"lisa/{name}": value for name, value in more.items()}}

        return rule

    def _clock(self, plan: Plan, *, aligning: bool) -> _Clock:
        """States that last whole rollouts, since the rest of an interrupted rollout would become stale."""
        lengths = (self.alignment_steps, self.finetune_steps) if aligning else (0, plan.optim.max_steps)
        rollout = plan.steps_per_rollout
        return _Clock(*(-(-length // rollout) * rollout for length in lengths))


@dataclass(frozen=True)
class _Clock:
    """The state of a step, by its number alone: `alignment` steps of one, `finetune` steps of the other."""

    alignment: int
    finetune: int

    @property
    def name(self) -> str:
        """The anchor's key in the plan's tensors; equal clocks have equal anchors."""
        return f"lisa/{self.alignment}+{self.finetune}/"

    def aligns(self, step: int) -> bool:
        return step % (self.alignment + self.finetune) < self.alignment

    def switches(self, step: int) -> bool:
        """Whether a state begins with this step; without an alignment state only the first step does."""
        return step == 0 or (self.alignment > 0 and step % (self.alignment + self.finetune) in (0, self.alignment))

    def number(self, step: int) -> int:
        """The number of alignment steps before this one."""
        turn, place = divmod(step, self.alignment + self.finetune)
        return turn * self.alignment + place


def _held(model: Model) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The trained parameters that the service returns."""
    named = model.network.named_parameters()
    return ((name, p) for name, p in named if p.requires_grad and not name.startswith(PREFIX))


@torch.no_grad()
def _pull(plan: Plan, place: str, weight: float) -> Tensor:
    """The squared distance to the anchor, a scalar; adds the gradient of `weight / 2` times it to the weights'
    gradients."""
    distance = torch.zeros((), device=plan.model.device)
    for name, parameter in _held(plan.model):
        away = parameter.detach() - plan.tensors[place + name]
        norm = torch.linalg.vector_norm(away, dtype=torch.float32)
        # A sharded weight has a sharded anchor: only the shards' partial sums are exchanged.
        distance += (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).to(distance.device).square()
        if weight:
            parameter.grad = away * weight if parameter.grad is None else parameter.grad.add_(away, alpha=weight)
    return distance
