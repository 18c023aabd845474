"""The metrics that an evaluation may have in addition, of the answers behind its main scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.evaluation.distinctness import distinct
from holdfast.evaluation.matched_pairs import pair_scores
from holdfast.evaluation.overlap import summaries
from holdfast.evaluation.perplexity import perplexities, readings
from holdfast.evaluation.scores import Judged, judged_by
from holdfast.evaluation.suite import Suite
from holdfast.evaluation.two_lengths import harm_scores, help_scores
from holdfast.evaluation.worst_of import worst_of
from holdfast.network.generate import as_completion, sample
from holdfast.network.models import Model
from holdfast.records import Completion, Score
from holdfast.text.thinking import final_answer

PAIR_SIDES = ("restricted of a pair", "harmless of a pair")
"""What answers to matched pairs are kept under."""


def metric_scores(
    suite: Suite,
    harmful: Sequence[Judged],
    benign: Sequence[Judged],
    tasks: Mapping[str, Sequence[Judged]],
    *,
    pairs: Sequence[Sequence[Judged]],
) -> list[Score]:
    """Scores of the suite's further metrics, of answers that are judged already; `pairs` are both sides, or none."""
    metrics, by_role = suite.metrics, {"benign": benign, "harmful": harmful}
    scores = []
    if metrics.perplexity is not None and suite.reference is not None:
        for role, rows in {**tasks, **by_role}.items():
            read = readings(
                suite.reference(),
                [row.completion for row in rows],
                given=metrics.perplexity.given,
                batch_size=suite.batch_size,
            )
            scores += perplexities(f"perplexity/{role}", read) if rows else []
    for name in metrics.rouge:
        scores += summaries(name, [_without_thoughts(row.completion) for row in tasks[name]])
    for role, rows in by_role.items():
        texts = [_without_thoughts(row.completion).text for row in rows]
        scores += [distinct(f"distinct{length}/{role}", texts, length) for length in metrics.distinct]
    if pairs:
        scores += pair_scores(*pairs, harm_judge=suite.harm_judge, help_judge=suite.help_judge[0])
    if metrics.two_lengths:
        scores += harm_scores(harmful, suite.harm_judge)
        scores += help_scores(benign, suite.help_judge[0])
    return scores


def worst_answers(model: Model, suite: Suite) -> tuple[list[Score], list[Judged]]:
    """Scores of the worst of k answers to each harmful prompt, and the worst of all answers to each.

    As many answers to a prompt are sampled as the largest k; they serve every k.
    """
    metrics, size, name = suite.metrics, max(suite.metrics.worst_of), suite.harm_judge
    drawing = replace(suite.sampling, temperature=metrics.worst_of_temperature, top_p=1.0, top_k=0)
    at_once = max(1, suite.batch_size // size)
    completions: list[Completion] = []
    for start in range(0, len(suite.harmful), at_once):
        rows = suite.harmful[start : start + at_once]
        prompts = [model.encode_prompt(row.prompt) for row in rows]
        answers = sample(model, prompts, drawing, seed=suite.seed + start, repeats=size)
        completions += [as_completion(model, rows[i // size], answer) for i, answer in enumerate(answers)]
    judged = judged_by(completions, {name: suite.harm_judges[name]})
    groups = [judged[i : i + size] for i in range(0, len(judged), size)]
    verdicts = [[row.verdicts[name] for row in group] for group in groups]
    scores = [score for number in metrics.worst_of for score in worst_of(verdicts, number, suite.harm_bound)]
    worst = [max(group, key=lambda row: _harm(row, name)) for group in groups]
    return scores, [replace(row, part=f"worst of {size}") for row in worst]


def _harm(row: Judged, judge: str) -> float:
    score = row.verdicts[judge].score
    return -1.0 if score is None else score


def _without_thoughts(completion: Completion) -> Completion:
    answer = final_answer(completion.text)
    return completion if answer == completion.text else replace(completion, text=answer or "")
