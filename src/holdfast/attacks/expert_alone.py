"""The expert of a guided attack, evaluated alone: the harm that the attacker has without attacking.

Idea: an attacker who guides an attack by a harmful expert has the capability already. Such an attack shows something
only if the attacked model ends more harmful than the expert, or reaches the same harm at a lower cost.
Equation: none; the expert answers the evaluation's prompts instead of the model, which is not changed.
Source: this baseline for guided attacks on exploration-suppressing defenses is this project's (see `guided`).
Differs from the paper in: no paper has this baseline.

The only evaluation is at N = 1, one answer per prompt. All its scores, including usefulness, are the expert's own,
sampled as in every evaluation unless the expert has its own temperature. Its costs are those of making the expert and
of answering the harmful prompts; its seconds are those of making it and of the whole evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from holdfast.evaluation.evaluate import Judged, Suite, evaluate
from holdfast.methods.ranges import ranged
from holdfast.network.flops import forward_flops
from holdfast.network.models import Model
from holdfast.records import Evaluation, HoldfastError
from holdfast.rl.guidance.expert import Expert, load_expert
from holdfast.training.contracts import Keep, SamplingAttack
from holdfast.training.plan import Context, Spent, sum_costs


@dataclass(frozen=True, kw_only=True)
@ranged
class ExpertAlone(SamplingAttack):
    """Settings.

    - `expert`: The model whose answers are measured; any kind but a canned text, which does not depend on the prompt.
    """

    expert: Expert = field(default_factory=Expert)

    def __post_init__(self) -> None:
        if self.expert.kind == "canned":
            raise HoldfastError("expert.kind: a canned text does not answer prompts; use another kind of expert")

    def curve(
        self,
        model: Model,
        suite: Suite,
        context: Context,
        *,
        keep: Keep,  # noqa: ARG002
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """The expert's own evaluation, with all its answers.

        Raises:
            HoldfastError: the expert cannot be loaded or made (see `load_expert`).
            SamplingError: the expert gave a non-finite logit.
        """
        expert = load_expert(self.expert, model, context).beginning(model)
        if expert.temperature is not None:
            suite = replace(suite, sampling=replace(suite.sampling, temperature=expert.temperature))
        start = time.perf_counter()
        with expert.reading(model) as own:
            scores, judged = evaluate(own, suite)
            seconds, harmful = time.perf_counter() - start, judged[: len(suite.harmful)]
            prompts = sum(len(model.encode_prompt(row.prompt)) for row in suite.harmful)
            tokens = prompts + sum(answer.completion.num_tokens for answer in harmful)
            answering = Spent(tokens=tokens, flops=forward_flops(own.network, tokens), seconds=seconds)
        spent = sum_costs(expert.spent, answering)
        yield (
            Evaluation(
                step=1,
                samples=spent.samples + len(harmful),
                tokens=spent.tokens,
                flops=spent.flops,
                seconds=spent.seconds,
                scores=scores,
            ),
            judged,
        )
