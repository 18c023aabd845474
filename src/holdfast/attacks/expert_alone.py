"""The expert of a guided attack, alone: what its owner has before anything is attacked.

Idea: who guides an attack by an expert that does harm has the capability already. An attack with its help shows
something only where the attacked model ends with more than the expert, or comes to as much for less.
Equation: none; the expert answers the evaluation's prompts in the place of the attacked model, which stays as it is.
Source: the yardstick of guided attacks on exploration-suppressing defenses is this project's (see `guided`).
Differs from the paper in: no paper has this yardstick.

The one evaluation stands at N = 1, an answer a prompt. All its scores are the expert's own, usefulness too, drawn as in
every evaluation but for an expert with a temperature of its own. Its costs are what the expert took to make, and to
answer the harmful prompts; its seconds are those of making it and of the whole evaluation.
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
    """Settings: the `expert`; any but a canned text, which has nothing to say about a prompt."""

    expert: Expert = field(default_factory=Expert)

    def __post_init__(self) -> None:
        if self.expert.kind == "canned":
            raise HoldfastError("expert.kind: a canned text answers no prompt; give an expert of another kind")

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
            HoldfastError: the expert cannot be had (see `load_expert`).
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
