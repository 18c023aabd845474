"""Run another attack for some steps first, such as SFT before RL.

Idea: defenses against RL suppress exploration; a few harmful answers, learnt by SFT, restore what RL then generalises.
A defense that holds against each attack alone may fail against the two in sequence.
Equation: none; the second attack starts from the weights at which the first one ended.
Source: the pipeline axis of TokenBuncher's adaptive attackers (arXiv 2508.20697), which names SFT before RL as the weak
point of its own defense; numbers of steps are not given there.
Differs from the paper in: the first attack meets the same constraints as the second, and all its costs are counted.

An adapter of the first attack is merged into the weights before the second one begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from holdfast.attacks import ATTACKS
from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import ranged
from holdfast.methods.settings import plain, typed
from holdfast.network.models import Model, clone, has_adapter, merged
from holdfast.records import HoldfastError
from holdfast.training.contracts import AdaptiveAttacker, LearnsFrom, learns_from, trains
from holdfast.training.plan import Context, Optim, Plan, Planner, as_is, sum_costs


@dataclass(frozen=True, kw_only=True)
@ranged
class WarmStart(AdaptiveAttacker):
    """Settings: the first attack. Those that are not given keep that attack's defaults.

    - `attack`: The name of the attack that runs first; it must be one that trains.
    - `optim`: The first attack's optimizer and schedule; with `max_steps` 0 there is no first attack.
    - `settings`: The first attack's other settings, by the names on its own page.
    """

    attack: str = "sft"
    optim: Optim = field(default_factory=lambda: Optim(max_steps=20, learning_rate=3e-5, per_device_train_batch_size=8))
    settings: Mapping[str, Any] = field(default_factory=dict)

    KNOBS: ClassVar[Mapping[str, Knob]] = {"optim.learning_rate": Range(low=1e-6, high=3e-3, log=True)}

    def __post_init__(self) -> None:
        if "optim" in self.settings:
            raise HoldfastError("settings.optim: belongs one level higher; set `warm_start.optim`")
        attack = self._attack()
        if self.optim.max_steps:
            replace(attack, optim=self.optim)  # refuses what does not fit together before anything runs
        resolved = plain(attack)
        # Written in full, so that a cell states everything that it depends on.
        object.__setattr__(self, "settings", {name: value for name, value in resolved.items() if name != "optim"})

    @property
    def first(self) -> LearnsFrom | None:
        """What the first attack trains on, under the same constraints; `None` if there is none."""
        return learns_from(self._attack()) if self.optim.max_steps else None

    def _attack(self) -> Any:
        cls = ATTACKS.load(self.attack)
        if not trains(cls):
            raise HoldfastError(f"attack: {self.attack} does not train, so the second attack cannot start from it")
        return typed(cls, self.settings, "settings")

    def adapt(self, planner: Planner) -> Planner:
        """The attack on the model at which the first one ended."""
        if self.optim.max_steps == 0:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            first = replace(self._attack(), optim=self.optim).plan(model, context)
            fitted = context.fit(first)
            with first.released(fitted.model) as released:
                own = _standalone(released, copy=first.released is not as_is)
            plan = planner(own, context)
            return replace(plan, spent=sum_costs(plan.spent, first.spent, fitted.spent))

        return adapted


def _standalone(model: Model, *, copy: bool) -> Model:
    """The model without an adapter, with every weight trainable; with `copy`, one that outlives the caller's
    context."""
    own = merged(model) if has_adapter(model) else clone(model) if copy else model
    own.network.requires_grad_(True)
    return own
