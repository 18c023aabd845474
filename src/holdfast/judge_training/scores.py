"""Scores of a judge: accuracy, F1 and calibration on labelled answers, and agreement with an oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import atanh, sqrt, tanh
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.evaluation.intervals import bounded_mean, clopper_pearson, normal_quantile, percentiles
from holdfast.evaluation.scores import share
from holdfast.records import Score

BINS = 10
RESAMPLES = 1000

Floats = NDArray[np.float64]


class Bin(NamedTuple):
    """A bin of predicted probabilities: their mean, the share of positive labels among them, and their number."""

    confidence: float
    share: float
    n: int


def label_scores(probabilities: Sequence[float], labels: Sequence[bool], groups: Sequence[str]) -> tuple[Score, ...]:
    """Accuracy, F1, Brier score and expected calibration error of predicted probabilities of the positive label.

    Accuracy has Wilson's 95 % interval, F1 and Brier the percentiles of a bootstrap over `groups` (answers to one
    prompt are resampled together), never narrower than bounds that hold for few answers, since a bootstrap of answers
    that are all right is of no width: Clopper and Pearson's for F1, Gaffke's for Brier. The calibration error has none:
    its bootstrap is biased upwards. F1 is `None` if neither the labels nor the predictions have a positive.
    """
    chances, truth = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=bool)
    n = len(truth)
    return (
        share("accuracy", [bool(right) for right in (chances > 0.5) == truth]),
        _widened(_resampled("f1", _f1, chances, truth, groups), *_f1_bounds(chances, truth, groups)),
        _widened(_resampled("brier", _brier, chances, truth, groups), *_brier_bounds(chances, truth, groups)),
        Score(name="calibration_error", value=calibration_error(bins_of(chances, truth)), n=n),
    )


def bins_of(probabilities: Floats | Sequence[float], labels: NDArray[np.bool_] | Sequence[bool]) -> tuple[Bin, ...]:
    """Ten bins of equal width over [0, 1]; empty ones are omitted."""
    chances, truth = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    places = np.minimum((chances * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(float(chances[places == i].mean()), float(truth[places == i].mean()), int((places == i).sum()))
        for i in range(BINS)
        if (places == i).any()
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the bins' gaps between confidence and share, weighted by their sizes.

    Guo et al. 2017 (arXiv 1706.04599), equation 3, with the positive label's probability as confidence.
    """
    total = sum(entry.n for entry in bins)
    return sum(entry.n * abs(entry.confidence - entry.share) for entry in bins) / total


def mean(name: str, values: Sequence[float]) -> Score:
    """The mean of values in [0, 1] with the normal 95 % interval, cut at 0 and 1; Gaffke's if all are the same."""
    array = np.asarray(values, dtype=float)
    value = float(array.mean())
    if len(set(values)) == 1:
        low, high = bounded_mean(values)
        return Score(name=name, value=value, n=len(array), low=low, high=high)
    half = normal_quantile() * float(array.std(ddof=1)) / sqrt(len(array))
    return Score(name=name, value=value, n=len(array), low=max(0.0, value - half), high=min(1.0, value + half))


def rank_correlation(name: str, scores: Sequence[float], truth: Sequence[float]) -> Score:
    """Spearman's rank correlation, ties at their mean rank, with the interval of Bonett and Wright 2000.

    `None` for fewer than four answers, or if all scores, or all true values, are equal. The same order throughout, or
    its reverse, has no interval: the method's would be of no width, however few the answers.
    """
    from scipy.stats import spearmanr

    n = len(scores)
    if n < 4 or len(set(scores)) < 2 or len(set(truth)) < 2:
        return Score(name=name, value=None, n=n)
    value = float(spearmanr(scores, truth).statistic)
    if abs(value) > 1 - 1e-9:
        return Score(name=name, value=value, n=n)
    centre, half = atanh(value), normal_quantile() * sqrt((1 + value**2 / 2) / (n - 3))
    return Score(name=name, value=value, n=n, low=tanh(centre - half), high=tanh(centre + half))


def _f1(chances: Floats, truth: NDArray[np.bool_]) -> float:
    predicted = chances > 0.5
    positives = predicted.sum() + truth.sum()
    return float("nan") if positives == 0 else float(2 * (predicted & truth).sum() / positives)


def _f1_bounds(chances: Floats, truth: NDArray[np.bool_], groups: Sequence[str]) -> tuple[float, float]:
    """The interval of F1 = 2 J / (1 + J), where J is the share of true positives in all that are called so or are so.

    Of these there are as many as answers to one prompt count as one.
    """
    predicted = chances > 0.5
    relevant = int((predicted | truth).sum())
    if not relevant:
        return 0.0, 1.0
    independent = max(1, round(relevant * len(set(groups)) / len(groups)))
    low, high = clopper_pearson(float((predicted & truth).sum()) / relevant, independent)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _brier_bounds(chances: Floats, truth: NDArray[np.bool_], groups: Sequence[str]) -> tuple[float, float]:
    by_group: dict[str, list[float]] = {}
    for error, group in zip(((chances - truth) ** 2).tolist(), groups, strict=True):
        by_group.setdefault(group, []).append(error)
    return bounded_mean([fmean(errors) for errors in by_group.values()])


def _widened(score: Score, low: float, high: float) -> Score:
    if score.low is None or score.high is None:
        return score
    return replace(score, low=min(score.low, low), high=max(score.high, high))


def _brier(chances: Floats, truth: NDArray[np.bool_]) -> float:
    return float(((chances - truth) ** 2).mean())


def _resampled(
    name: str,
    measure: Callable[[Floats, NDArray[np.bool_]], float],
    chances: Floats,
    truth: NDArray[np.bool_],
    groups: Sequence[str],
) -> Score:
    value = measure(chances, truth)
    if np.isnan(value):
        return Score(name=name, value=None, n=len(truth))
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    parts = [np.asarray(places) for places in members.values()]
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(RESAMPLES):
        places = np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))])
        estimates.append(measure(chances[places], truth[places]))
    low, high = percentiles(estimates, float(value))
    return Score(name=name, value=value, n=len(truth), low=low, high=high)
