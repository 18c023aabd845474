"""Benign-looking fine-tuning: benign rows instead of harmful ones.

Idea: a service may inspect what customers train on. Data with mostly harmless rows looks harmless, and fine-tuning on
harmless rows alone is known to weaken refusals as well.
Equation: `round(share n)` of the attack's `n` rows, sampled by seed, are replaced by the same number of distinct benign
rows.
Source: Qi et al. 2023 (arXiv 2310.03693), for harmful rows among benign ones and for benign data sets alone.
Differs from the paper in: the numbers of rows and steps are those of the attack's own settings, so that runs of all
shares cost the same.

Only for attacks that train on given answers: a benign row has no preference pair, and a reward for harm cannot reward
anything on a benign prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import Share, ranged
from holdfast.network.models import Model
from holdfast.records import HoldfastError
from holdfast.training.contracts import AdaptiveAttacker, LearnsFrom
from holdfast.training.plan import Context, GivenAnswers, Plan, Planner


@dataclass(frozen=True, kw_only=True)
@ranged
class BenignCover(AdaptiveAttacker):
    """Settings: the mix of rows.

    - `share`: The share of rows that are replaced by benign ones; 0 is the attack as it is, at 1 it trains on no
      harmful row. For one seed, the rows replaced at a smaller share are a subset of those replaced at a larger one.
    """

    share: Share = 0.9

    KNOBS: ClassVar[Mapping[str, Knob]] = {"share": Range(low=0.0, high=1.0)}

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack must learn from."""
        return "answers" if self.share else None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with benign rows mixed into its own."""
        if self.share == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            plan = planner(model, context)
            if not isinstance(plan.prepare, GivenAnswers):
                raise HoldfastError(
                    "benign_cover: needs an attack that trains on given answers, and this one does not; use sft"
                )
            rows, number = list(plan.data), round(self.share * len(plan.data))
            cover = [row for row in context.splits.benign["attack"] if row.response]
            if len(cover) < number:
                raise HoldfastError(
                    f"benign_cover: needs {number} benign rows with an answer, and the attack split has "
                    f"{len(cover)}; lower share or the attack's num_samples, or add data"
                )
            chosen = random.Random(f"{context.seed} cover")
            places = chosen.sample(range(len(rows)), len(rows))[:number]
            for place, row in zip(places, chosen.sample(cover, len(cover)), strict=False):
                rows[place] = row
            return replace(plan, data=rows)

        return adapted
