"""Benign-looking fine-tuning: benign rows in the place of harmful ones.

Idea: a service may look at what customers train on. Rows that are mostly harmless look harmless, and fine-tuning on
nothing but harmless rows is known to wear refusals down as well.
Equation: `round(share n)` of the attack's `n` rows, drawn by seed, are replaced by as many different benign rows.
Source: Qi et al. 2023 (arXiv 2310.03693), for harmful rows among benign ones and for benign data sets alone.
Differs from the paper in: the number of rows and of steps stays what the attack's own settings say, so that runs of all
shares cost the same.

Only for attacks that train on given answers: a benign row has no preference, and a reward for harm has nothing to pay
for on a benign prompt.
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
    """Settings: the `share` of rows that are benign, in [0, 1]; at 1 nothing harmful is trained on at all.

    With one seed, the rows replaced at a smaller share are among those replaced at a larger one.
    """

    share: Share = 0.9

    KNOBS: ClassVar[Mapping[str, Knob]] = {"share": Range(low=0.0, high=1.0)}

    @property
    def needs(self) -> LearnsFrom | None:
        """What the attack has to learn from."""
        return "answers" if self.share else None

    def adapt(self, planner: Planner) -> Planner:
        """The attack with benign rows among its own."""
        if self.share == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            plan = planner(model, context)
            if not isinstance(plan.prepare, GivenAnswers):
                raise HoldfastError(
                    "benign_cover: benign rows teach given answers, and this attack does not train on any; use sft"
                )
            rows, number = list(plan.data), round(self.share * len(plan.data))
            cover = [row for row in context.splits.benign["attack"] if row.response]
            if len(cover) < number:
                raise HoldfastError(
                    f"benign_cover: {number} benign rows with an answer are wanted and the attack split has "
                    f"{len(cover)}; lower share or the attack's num_samples, or add data"
                )
            chosen = random.Random(f"{context.seed} cover")
            places = chosen.sample(range(len(rows)), len(rows))[:number]
            for place, row in zip(places, chosen.sample(cover, len(cover)), strict=False):
                rows[place] = row
            return replace(plan, data=rows)

        return adapted
