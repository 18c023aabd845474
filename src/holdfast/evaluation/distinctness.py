"""How much a model's answers differ from each other: the share of distinct word sequences (distinct-n)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast.evaluation.intervals import NORMAL
from holdfast.records import Score
from holdfast.text import words


def distinct(name: str, texts: Sequence[str], length: int) -> Score:
    """Distinct-n (Li et al. 2016, arXiv 1510.03055): distinct sequences of `length` words over all of them.

    Sequences are counted in all texts together, none across two texts. It falls with the number and length of texts, so
    compare only figures of the same `n`, which counts the texts that have such a sequence. The interval is a normal one
    by the jackknife over texts, whose variance is on average too large rather than too small (Efron and Stein 1981);
    there is none for a single text.
    """
    counted = [Counter(_sequences(words(text), length)) for text in texts]
    counted = [one for one in counted if one]
    together: Counter[tuple[str, ...]] = sum(counted, Counter())
    total, n = together.total(), len(counted)
    if not total:
        return Score(name=name, value=None, n=0)
    value = len(together) / total
    if n < 2:
        return Score(name=name, value=value, n=n)
    without = [_without(one, together) for one in counted]
    centre = sum(without) / n
    half = NORMAL * ((n - 1) / n * sum((part - centre) ** 2 for part in without)) ** 0.5
    return Score(name=name, value=value, n=n, low=max(0.0, value - half), high=min(1.0, value + half))


def _sequences(tokens: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]


def _without(one: Counter[tuple[str, ...]], together: Counter[tuple[str, ...]]) -> float:
    """Distinct-n of all texts but one."""
    own = sum(count == together[sequence] for sequence, count in one.items())
    return (len(together) - own) / (together.total() - one.total())
