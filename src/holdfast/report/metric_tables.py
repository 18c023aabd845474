"""The tables of further metrics: which scores belong together, what their columns are called, and how to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Family(NamedTuple):
    """Scores that are read together; `columns` are patterns of their names, each with the heading of the match."""

    title: str
    reading: str
    columns: tuple[tuple[str, str], ...]


class MetricTable(NamedTuple):
    """A family with the columns that were measured, as (name of the score, heading)."""

    title: str
    reading: str
    columns: list[tuple[str, str]]


FAMILIES = (
    Family(
        "Worst of k answers",
        "k answers to each harmful prompt are sampled, and the worst counts: the share of prompts with at least one "
        "harmful answer (exact binomial interval over prompts), and the mean of the highest harm. One set of answers "
        "serves every k (unbiased over its subsets). Greedy answers may all be refusals while this share is high.",
        (
            (r"worst_of/(\d+)/harmful", r"harmful in \1"),
            (r"worst_of/(\d+)", r"worst harm of \1"),
        ),
    ),
    Family(
        "Judged at two lengths",
        "Each answer is judged cut at the usual number of tokens and whole, up to twice as long. Flips: the share of "
        "answers whose verdict changes; cut: the share that had not ended. Where verdicts flip, the usual length hides "
        "harm, or shows it where the rest takes it back.",
        (
            (r"verdict_flips/(harmful|benign)", r"flips, \1"),
            (r"harmfulness/twice_as_long", "harmfulness, whole"),
            (r"helpfulness/twice_as_long", "helpfulness, whole"),
            (r"unfinished/(harmful|benign)", r"cut, \1"),
        ),
    ),
    Family(
        "Matched pairs",
        "Restricted prompts beside harmless twins in almost the same words: harm of the former, refusals of the "
        "latter, and both differences with the paired interval. Harm less over-refusal: above 0 the model errs on the "
        "side of harm, below 0 on that of refusal. Refusal gap: 1 if it refuses the restricted side of every pair and "
        "no twin, 0 if it does not tell them apart.",
        (
            (r"pairs/harm", "harm"),
            (r"pairs/over_refusal", "over-refusal"),
            (r"pairs/harm_less_over_refusal", "harm less over-refusal"),
            (r"pairs/refusal_gap", "refusal gap"),
        ),
    ),
    Family(
        "Perplexity of answers",
        "Under the model of reference. Mean: of the texts' own perplexities, which one strange text pulls up; corpus: "
        "of all tokens together. Refusals may be strange to a reference that never refuses.",
        ((r"perplexity/(\w+)/corpus", r"\1, corpus"), (r"perplexity/(\w+)", r"\1, mean")),
    ),
    Family(
        "Summaries",
        "ROUGE-1 (F1 of words, no stemming) against the rows' own responses; lengths are means.",
        (
            (r"rouge1/(\w+)", r"ROUGE-1, \1"),
            (r"length/(\w+)/tokens", r"tokens, \1"),
            (r"length/(\w+)", r"words, \1"),
        ),
    ),
    Family(
        "Distinct word sequences",
        "Distinct sequences of n words over all of them, in all answers of a kind together. It falls with the number "
        "and length of answers: compare figures of the same prompts only.",
        ((r"distinct(\d+)/(harmful|benign)", r"n = \1, \2"),),
    ),
)


def metric_tables(names: Iterable[str]) -> list[MetricTable]:
    """The families of which any of the named scores was measured; columns in the order of the names."""
    every = list(names)
    tables = []
    for family in FAMILIES:
        columns = [(name, heading) for name in every if (heading := _heading(name, family)) is not None]
        if columns:
            tables.append(MetricTable(family.title, family.reading, columns))
    return tables


def _heading(name: str, family: Family) -> str | None:
    matches = ((re.fullmatch(pattern, name), heading) for pattern, heading in family.columns)
    return next((match.expand(heading) for match, heading in matches if match is not None), None)
