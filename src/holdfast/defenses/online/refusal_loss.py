"""Refusal Loss: while somebody trains the model, go on teaching it to refuse.

Idea: whatever the customer's loss is, add the cross entropy of refusals of harmful prompts.
Equation: `L = L_attack + alpha * CE(refusal | harmful prompt)`, the attack's weight fixed at 1.
Source: the form in Rosati et al. 2024 (arXiv 2409.12914), alpha 100 in its main tables, after Qi et al. 2024 (arXiv
2406.05946), whose own mix is one mean over the tokens of both batches.
Differs from the paper in: plain cross entropy on refusal tokens, where the authors' code appears to reuse a masked
one that drops the first refusal token; under RL the term enters every optimizer step, never a value loss.

The constraint joins before clipping: with a large alpha and `max_grad_norm` 1 little is left of the attack's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.data.endless import endless
from holdfast.models import answer_batch
from holdfast.objectives import language
from holdfast.plan import Context, Plan, add, with_batch
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, with_totals


@dataclass(frozen=True, kw_only=True)
class RefusalLoss:
    """Settings: the weight `alpha` (0 leaves the plan as it is) and how many refusals go into each step."""

    alpha: float = 100.0
    batch_size: int = 8
    max_length: int | None = 1024

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise HoldfastError(f"refusal_loss: alpha is {self.alpha}; a negative weight would teach compliance")

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with refusals of the defense split added to its loss."""
        if self.alpha == 0:
            return plan
        rows = [row for row in context.splits.harmful["defense"] if row.refusal]
        if not rows:
            raise HoldfastError(
                "refusal_loss: no harmful row of the defense split has a refusal; set `refusal` in the data"
            )
        draw = endless(rows, self.batch_size, seed=context.seed)

        def refusals(step: int) -> Batch:
            pairs = [(row, row.refusal or "") for row in draw(step)]
            return with_totals([answer_batch(plan.model, pairs, max_length=self.max_length)])[0]

        return add(with_batch(plan, "refusal", refusals), self.alpha, language, on="refusal")
