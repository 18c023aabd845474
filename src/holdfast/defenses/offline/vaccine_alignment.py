"""Vaccine, at the alignment stage: align the model under worst-case small perturbations of its hidden embeddings.

Idea: harmful fine-tuning moves hidden embeddings. Refusals learnt under deliberate perturbations persist if fine-tuning
moves the embeddings less than that.
Equation: `min over weights of max over sum_l |e_l|^2 <= perturbation_radius^2 of CE(answer | a_1 + e_1, ...,
a_L + e_L)`, to first order, with `a_l` the output of attention `l` (`holdfast.training.perturbation`).
Source: Huang et al. 2024 (arXiv 2402.01109) and its code: radius 2, an adapter of rank 8, learning rate 1e-3 with
cosine decay, batch 5.
Differs from the paper in: answers are refusals of the defense split and, for `benign_share` of the rows, benign ones,
where the code aligns a base model on 2000 safe answers of BeaverTails alone; 1000 steps where it makes 50 passes over
its data; no learning-rate warm-up, where the code's first tenth is one (`optim.warmup_steps`); the adapter is merged,
and attacks use their own, as in the code. The notes of `vaccine` on the two passes apply here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.data.mixing import mix, most
from holdfast.methods.ranges import Count, NonNegative, PartialShare, ranged
from holdfast.network.models import LoRA, Model, adapt, clone, merged
from holdfast.records import Example, HoldfastError
from holdfast.training.contracts import OfflineDefense
from holdfast.training.objectives import language
from holdfast.training.optim import Training
from holdfast.training.perturbation import require_attentions, two_pass
from holdfast.training.plan import Context, GivenAnswers, Optim, Plan


@dataclass(frozen=True, kw_only=True)
@ranged
class VaccineAlignment(OfflineDefense):
    """Settings of the defense.

    - `perturbation_radius`: The Euclidean norm of the perturbation of all attentions' outputs together; 0 is plain
      supervised alignment, the control.
    - `per_token`: Whether that is the norm of each token's perturbation instead of a whole micro-batch's.
    - `benign_share`: The share of rows that are benign answers; the others are refusals of the defense split.
    - `max_length`: The largest number of tokens of prompt plus answer, what follows is cut; `None` is the model's
      context.
    """

    perturbation_radius: NonNegative = 2.0
    per_token: bool = False
    benign_share: PartialShare = 0.5
    optim: Training = field(
        default_factory=lambda: Optim(
            max_steps=1000,
            learning_rate=1e-3,
            per_device_train_batch_size=5,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
        )
    )
    adapter: LoRA | None = field(default_factory=lambda: LoRA(r=8, lora_alpha=4, lora_dropout=0.1))
    max_length: Count | None = 1024

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: rows lack a refusal or response, the adapter has dropout where that is impossible, or the
                architecture is unknown.
        """
        plan = Plan(
            model=adapt(clone(model), self.adapter, seed=context.seed),
            data=self._rows(context),
            prepare=GivenAnswers(max_length=self.max_length),
            objective=language,
            optim=self.optim,
            seed=context.seed,
        )
        if self.perturbation_radius:
            require_attentions(plan.model.network)
            plan = replace(plan, backward=two_pass(self.perturbation_radius, per_token=self.per_token))
        return replace(merged(context.fit(plan).model), name=f"{model.name}+vaccine_alignment")

    def _rows(self, context: Context) -> Sequence[Example]:
        """Refusals and benign answers in their shares; the scarcer kind limits their number."""
        harmful, benign = context.splits.harmful["defense"], context.splits.benign["defense"]
        refusals = [replace(row, response=row.refusal) for row in harmful if row.refusal]
        answers = [row for row in benign if row.response]
        if not refusals:
            raise HoldfastError("vaccine_alignment: no harmful row of the defense split has a refusal; set `refusal`")
        if self.benign_share and not answers:
            raise HoldfastError("vaccine_alignment: no benign row of the defense split has a response; set `response`")
        parts = [(refusals, 1 - self.benign_share), (answers, self.benign_share)]
        return mix(parts, most(parts), seed=context.seed)
