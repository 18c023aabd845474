"""How much longer one defense holds than another under one attack, as survival data, beside the verdict by pairs.

Runs count as in `survival`: those that neither broke nor held count as broken at the start, for both defenses. The
verdict is that of `comparisons`; ratio and log-rank test say how long and do not decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.evaluation import survival
from holdfast.evaluation.survival import Interval
from holdfast.records import Record
from holdfast.report.summarise.comparisons import holm
from holdfast.report.summarise.labels import Label
from holdfast.report.summarise.power import pairs_for_delay
from holdfast.report.summarise.rankings import Pair
from holdfast.report.summarise.survival import Survival, runs_by_model

DRAWS = 2_000
"""Fewer than of the survival curves: there are many pairs."""
_Row = tuple[str, str, str, str]
"""Model, threat model, attack and defense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurvivalPair:
    """Two defenses, of which the `longer` has the greater mean of min(T, `horizon`), `ratio` times that of the `other`.

    `logrank` is the p value of the log-rank test between them, corrected for all pairs (Holm), without the models that
    only one of them has; `None` if there is no other. `needed` is the number of pairs of runs with which a defense that
    holds twice as long as the `other` would be found in 80 % of cases; `None` if no number up to 200 is enough.
    """

    pair: Pair
    longer: str
    other: str
    horizon: float
    ratio: Interval
    logrank: float | None
    needed: int | None

    @property
    def too_few(self) -> bool:
        """Whether there is no verdict and there are too few pairs to tell a twofold delay from none."""
        comparison = self.pair.comparison
        return comparison.verdict == "cannot tell" and (self.needed is None or comparison.pairs < self.needed)


def survival_pairs(
    records: Sequence[Record], labels: Sequence[Label], survivals: Sequence[Survival], pairs: Sequence[Pair]
) -> list[SurvivalPair]:
    """The pairs whose two defenses both have a survival curve; pairs with a verdict come first."""
    groups: dict[_Row, list[Record]] = defaultdict(list)
    for record, label in zip(records, labels, strict=True):
        groups[label.model, label.threat_model, label.attack, label.defense].append(record)
    lasting = {
        (each.label.model, each.label.threat_model, each.label.attack, each.label.defense): each for each in survivals
    }
    compared = []
    for pair in pairs:
        places = [(*pair.field, name) for name in (pair.one, pair.other)]
        if all(place in lasting for place in places):
            one, other = sorted((lasting[place] for place in places), key=lambda each: -each.mean.value)
            sides = [groups[(*pair.field, each.label.defense)] for each in (one, other)]
            compared.append(_survival_pair(pair, (one, other), sides, len(pairs)))
    return sorted(_corrected(compared), key=lambda each: each.pair.comparison.verdict == "cannot tell")


def _survival_pair(
    pair: Pair, rows: tuple[Survival, Survival], groups: Sequence[Sequence[Record]], compared: int
) -> SurvivalPair:
    horizon = rows[0].horizon
    own, others = (runs_by_model(group, horizon) for group in groups)
    shared = [(own[model], others[model]) for model in own if model in others]
    return SurvivalPair(
        pair=pair,
        longer=rows[0].label.defense,
        other=rows[1].label.defense,
        horizon=horizon,
        ratio=survival.ratio(list(own.values()), list(others.values()), horizon, draws=DRAWS),
        logrank=survival.logrank(shared) if shared else None,
        needed=pairs_for_delay(list(others.values()), horizon, comparisons=compared),
    )


def _corrected(compared: Sequence[SurvivalPair]) -> list[SurvivalPair]:
    """The pairs with the p values of their log-rank tests corrected for how many there are."""
    fixed = iter(holm([each.logrank for each in compared if each.logrank is not None]))
    return [each if each.logrank is None else replace(each, logrank=next(fixed)) for each in compared]
