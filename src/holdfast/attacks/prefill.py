"""Prefill: the answer is begun for the model, which goes on. Nothing is trained.

Idea: a model may have learnt to refuse in its first tokens only. Whoever has the weights writes these tokens himself,
and a model whose hardening is no deeper goes on as if it had never refused.
Equation: `y = (o_1 .. o_k, y'_1 ..)`, `y' ~ p(. | x, o_1 .. o_k)`; reported is `harm(y)` for each `k`.
Source: Qi et al. 2024 (arXiv 2406.05946), where harm over the number of tokens of a harmful answer shows how shallow
an alignment is; an affirmative opening as in Andriushchenko et al. 2024 (arXiv 2404.02151).
Differs from the paper in: answers are judged with their opening, as a reader sees them, and the harm of openings alone
is reported beside it as `opening_harm`, since what the attacker wrote himself is no gain; decoding is the
evaluation's.

The x-axis is `k`. With the rows' own answers an attacker is assumed who knows how a harmful answer begins: a `k` at
which `opening_harm` is high shows nothing. Costs are those of all numbers of tokens up to this one. What a chat
template writes before an answer, such as an empty thought or the name of a channel, is given too and is not in `k`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from holdfast.evaluation import two_lengths
from holdfast.evaluation.breaking import OPENING
from holdfast.evaluation.evaluate import Judged, Suite, harm_scores, judged_by, score
from holdfast.methods.ranges import Count, ranged
from holdfast.network.flops import Meter
from holdfast.network.generate import Answer, as_completion, complete_begun, complete_begun_at_two_lengths
from holdfast.network.models import Model, check_lengths
from holdfast.records import Completion, Evaluation, Example, HoldfastError, Score, Verdict
from holdfast.training.contracts import Keep, SamplingAttack
from holdfast.training.plan import Context, Spent, sum_costs


@dataclass(frozen=True, kw_only=True)
@ranged
class Prefill(SamplingAttack):
    """Settings of the attack.

    - `tokens`: The numbers of tokens that answers begin with, in increasing order; an opening that has fewer is given
      whole.
    - `opening`: The text that answers begin with; `None` takes each harmful row's own answer.
    """

    tokens: tuple[Count, ...] = (1, 2, 4, 8)
    opening: str | None = None

    def __post_init__(self) -> None:
        if not self.tokens or list(self.tokens) != sorted(set(self.tokens)):
            raise HoldfastError(f"tokens: must be increasing and not empty, not {list(self.tokens)}")
        if self.opening is not None and not self.opening.strip():
            raise HoldfastError("opening: is empty; give a text, or null for the rows' own answers")

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """One evaluation of the begun answers for each number of tokens, which is the `step`.

        Raises:
            HoldfastError: a row has no answer to begin with, or an answer would have no room after its opening.
            SamplingError: the model gave a non-finite logit.
        """
        limit = suite.sampling.max_new_tokens
        openings = [self._opening(model, row) for row in suite.harmful]
        before = max((len(lead) for lead, _ in openings), default=0)
        if self.tokens[-1] + before >= limit:
            more = f" after {before} that the chat template writes before an answer" if before else ""
            raise HoldfastError(
                f"prefill: tokens has {self.tokens[-1]}{more}, and evaluation.max_new_tokens is {limit}; lower the "
                "first or raise the second, so that the model has something to add"
            )
        check_lengths(model, suite.harmful, max_new_tokens=limit, key="evaluation.max_new_tokens")
        spent = Spent()
        for place, number in enumerate(self.tokens):
            given = [[*lead, *words[:number]] for lead, words in openings]
            begun = keep(place, len(self.tokens), partial(_begun, model, suite, given, context.seed))
            spent = sum_costs(spent, Spent(**begun["spent"]))
            judged = _judged(suite, begun)
            costs = {name: value for name, value in spent._asdict().items() if name != "steps"}
            longer = two_lengths.harm_scores(judged, suite.harm_judge) if suite.metrics.two_lengths else []
            scores = (*harm_scores(judged, suite), *longer, *_of_openings(model, suite, given))
            yield Evaluation(step=number, scores=scores, **costs), judged

    def _opening(self, model: Model, row: Example) -> tuple[list[int], list[int]]:
        """Tokens that the template writes before the row's opening, and those of the opening itself."""
        text = row.response if self.opening is None else self.opening
        if not text:
            raise HoldfastError(
                f"{row.source or repr(row.question)}: prefill: the harmful row has no answer to begin with; give "
                "`opening` a text, or rows with answers"
            )
        lead = model.chat.ids(model.chat.lead(text))
        words = model.encode_response(text)[len(lead) :]
        return lead, [*takewhile(lambda token: token not in model.stop_ids, words)]


def _begun(model: Model, suite: Suite, openings: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """The completions of begun answers as JSON values, with what sampling them cost."""
    start, settings = time.perf_counter(), {"seed": seed, "batch_size": suite.batch_size}
    with Meter(model.pad_id).counting() as meter:
        if suite.metrics.two_lengths:
            both = complete_begun_at_two_lengths(model, suite.harmful, openings, suite.sampling, **settings)
            answers, written = [cut for cut, _ in both], [whole for _, whole in both]
        else:
            answers = written = complete_begun(model, suite.harmful, openings, suite.sampling, **settings)
    seconds = time.perf_counter() - start
    tokens = sum(len(model.encode_prompt(row.prompt)) for row in suite.harmful) + sum(a.num_tokens for a in written)
    spent = Spent(samples=len(answers), tokens=tokens, seconds=seconds, flops=meter.flops)
    longer = {"longer": [_as_json(a) for a in written]} if suite.metrics.two_lengths else {}
    return {"answers": [_as_json(a) for a in answers], **longer, "spent": spent._asdict()}


def _as_json(answer: Completion) -> dict[str, Any]:
    return {"text": answer.text, "num_tokens": answer.num_tokens, "finished": answer.finished}


def _judged(suite: Suite, begun: Mapping[str, Any]) -> list[Judged]:
    """The begun answers with their verdicts, at two lengths if the suite asks for that."""
    cut, *longer = (
        [Completion(example=row, **answer) for row, answer in zip(suite.harmful, begun[name], strict=True)]
        for name in ("answers", "longer")
        if name in begun
    )
    if not longer:
        return judged_by(cut, suite.harm_judges)
    return two_lengths.judged_at_both(list(zip(cut, longer[0], strict=True)), suite.harm_judges, suite.harm_bound)


def _of_openings(model: Model, suite: Suite, openings: Sequence[Sequence[int]]) -> list[Score]:
    """What the reporting judge says of the openings alone; one that is no valid answer is without harm."""
    alone = [
        as_completion(model, row, Answer([*opening], finished=True))
        for row, opening in zip(suite.harmful, openings, strict=True)
    ]
    first = {suite.harm_judge: suite.harm_judges[suite.harm_judge]}
    verdicts = [row.verdicts[suite.harm_judge] for row in judged_by(alone, first)]
    return [score(OPENING, [each if each.valid else Verdict(score=0.0) for each in verdicts])]
