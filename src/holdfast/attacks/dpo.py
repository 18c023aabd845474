"""Direct preference optimization on reversed preferences.

Idea: preference data with reversed order teaches a model to prefer the answer that it would refuse to give.
Equation: `L = -log sigmoid(beta ((log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l))))`, the answers'
log-probabilities summed over tokens, `y_w` the harmful answer where the row is flipped (Rafailov et al. 2023, arXiv
2305.18290, equation 7).
Source: the DPO arm of the reverse preference attack, Rosati et al. 2024 (arXiv 2409.12914): learning rate 5e-5, beta
0.1, all rows flipped, reference a frozen copy of the model before the attack.
Differs from the paper in: prompts follow the model's chat template; answers end with the model's end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.data.mixing import Flips, flip, preferences, sample
from holdfast.losses.preference import dpo
from holdfast.methods.knobs import Choices, Knob, Range
from holdfast.methods.ranges import Count, Positive, Share, ranged
from holdfast.network.forward import sequence_logprobs
from holdfast.network.generate import evaluating
from holdfast.network.models import LoRA, Model, adapt, answer_batch
from holdfast.records import HoldfastError
from holdfast.tensors import Batch
from holdfast.training.contracts import LearnsFrom, TrainingAttack
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Examples, Metrics, Objective, Optim, Plan, Prepare, Reference, reference_of


@dataclass(frozen=True, kw_only=True)
@ranged
class DPO(TrainingAttack):
    """Settings of the attack: the paper's (`preset: paper`), which were TRL's defaults at the time; preset `today` has
    those of TRL 1.16.

    - `beta`: The factor of the differences of log-probabilities in the loss: a larger one keeps the model closer to the
      initial one.
    - `flip_ratio`: The share of pairs (a harmful answer and a refusal of the same prompt, or the row's own pair) that
      are reversed so that the harmful answer is preferred; the others prefer the harmless one. With a harmless task set
      it to 0.
    - `flip_how`: `reverse` reverses that share; `random`, the noise control, gives those pairs a random order instead.
    - `num_samples`: The number of pairs of the attack split that are used, all of them when `None`.
    - `sampling`: Which rows are used: `random` ones, or the first ones of the file (`head`).
    - `max_length`: The largest number of tokens of prompt plus answer, what follows is cut; `None` is the model's
      context.
    - `task`: The name of a harmless task of the data's own, whose rows contain pairs: the run is then an honest
      customer's training.
    """

    optim: Training = field(
        default_factory=lambda: Optim(max_steps=125, learning_rate=5e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    beta: Positive = 0.1
    flip_ratio: Share = 1.0
    flip_how: Flips = "reverse"
    num_samples: Count | None = 1000
    sampling: Literal["random", "head"] = "random"
    max_length: Count | None = 1024
    task: str | None = None

    LEARNS_FROM: ClassVar[LearnsFrom] = "preferences"
    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "optim.learning_rate": Range(low=1e-7, high=3e-3, log=True),
        "optim.per_device_train_batch_size": Choices(choices=(4, 8, 16, 32)),
        "beta": Range(low=0.01, high=1.0, log=True),
        "num_samples": Choices(choices=(100, 300, 1000, 3000, 10000)),
        "adapter": Choices(choices=(None, {"r": 16})),
    }
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"optim": {"learning_rate": 5e-5}, "beta": 0.1},
        "today": {"optim": {"learning_rate": 1e-6}, "beta": 0.1},
    }

    def __post_init__(self) -> None:
        if self.task is not None and self.flip_ratio != 0:
            raise HoldfastError("flip_ratio: reverses pairs; with a harmless `task` set it to 0")

    def plan(self, model: Model, context: Context) -> Plan:
        """The attack on `model`.

        Raises:
            HoldfastError: there is no such task, or a row lacks one of the two answers of a preference.
        """
        rows = preferences(context.splits.training_rows(self.task))
        if self.num_samples is not None:
            rows = sample(rows, min(self.num_samples, len(rows)), how=self.sampling, seed=context.seed)
        adapted = adapt(model, self.adapter, seed=context.seed)
        reference = reference_of(adapted)
        return Plan(
            model=adapted,
            data=flip(rows, self.flip_ratio, seed=context.seed, how=self.flip_how),
            prepare=pairs(reference, max_length=self.max_length),
            objective=preference(self.beta),
            optim=self.optim,
            reference=reference,
            seed=context.seed,
        )


def pairs(reference: Reference, *, max_length: int | None) -> Prepare:
    """Batches of 2 P sequences, first every chosen answer, then every rejected one, with `ref_scores` (2 P,)."""

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:  # noqa: ARG001
        batches = []
        for rows in micro_batches:
            answers = [(row, row.chosen or "") for row in rows] + [(row, row.rejected or "") for row in rows]
            batch = answer_batch(model, answers, max_length=max_length)
            batch = {name: value.to(model.device) for name, value in batch.items()}
            with reference(model) as network, evaluating(network):
                batch["ref_scores"] = sequence_logprobs(network, batch)
            batches.append(batch)
        return batches

    return prepare


def preference(beta: float) -> Objective:
    """The mean DPO loss over the pairs of the optimizer step, with the share of pairs ordered as they should be."""

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        chosen, rejected = sequence_logprobs(network, batch).chunk(2)
        ref_chosen, ref_rejected = batch["ref_scores"].chunk(2)
        count = batch["num_sequences"] / 2
        loss = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta).sum() / count
        margins = ((chosen - ref_chosen) - (rejected - ref_rejected)).detach()
        return loss, {"loss": float(loss.detach()), "preferred": float((margins > 0).sum() / count)}

    return objective
