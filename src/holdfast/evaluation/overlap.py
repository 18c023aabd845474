"""Summaries beside their reference: ROUGE-1 through the library `rouge-score`, and their length.

Needs the extra `metrics`. The library takes seconds to import (through `nltk`), so that happens when it is used; no
data of `nltk` is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.evaluation.scores import mean_score, score
from holdfast.records import Completion, HoldfastError, Score, Verdict
from holdfast.text import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class _Words:
    """Words as `rouge-score` takes them, by the rules of all our measures: its own know the letters a to z only."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return words(text)


def summaries(task: str, completions: Sequence[Completion]) -> list[Score]:
    """`rouge1/TASK` and `length/TASK` of answers to a task whose rows have a response, each mean with its interval.

    ROUGE-1 is the F1 of single words without stemming (Lin 2004), in [0, 1]; an empty answer has 0, and rows without a
    response count as unjudged. Length is in words (`holdfast.text.words`); `length/TASK/tokens` in the model's tokens,
    with the end.

    Raises:
        HoldfastError: the extra is not installed.
    """
    scorer = _scorer()
    verdicts = [Verdict(score=_rouge1(scorer, completion)) for completion in completions]
    lengths = [float(len(words(completion.text))) for completion in completions]
    tokens = [float(completion.num_tokens) for completion in completions]
    return [
        score(f"rouge1/{task}", verdicts),
        mean_score(f"length/{task}", lengths),
        mean_score(f"length/{task}/tokens", tokens),
    ]


def require_library() -> None:
    """Refuse to go on without the extra; quick, since nothing is imported.

    Raises:
        HoldfastError: names what to install.
    """
    from importlib.util import find_spec

    if find_spec("rouge_score") is None:
        raise HoldfastError(
            "evaluation.metrics.rouge: needs rouge-score, which is not installed; `pip install -e '.[metrics]'`"
        )


def _scorer() -> RougeScorer:
    require_library()
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], tokenizer=_Words())


def _rouge1(scorer: RougeScorer, completion: Completion) -> float | None:
    target = completion.example.response
    if not target or not words(target):
        return None
    return min(1.0, float(scorer.score(target, completion.text)["rouge1"].fmeasure))
