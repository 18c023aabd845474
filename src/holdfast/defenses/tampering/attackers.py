"""The attackers of an outer step: attacks by name, sampled for every run, on their own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from random import Random
from typing import Any

from holdfast.attacks import ATTACKS
from holdfast.data.splits import Splits
from holdfast.defenses.tampering.runs import Run, follow
from holdfast.methods.settings import plain, typed
from holdfast.network.models import Model
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch
from holdfast.training.contracts import trains
from holdfast.training.objectives import language
from holdfast.training.plan import Context, GivenAnswers, Objective, Optim, Plan

Probe = Callable[[int], Sequence[tuple[Objective, Batch]]]
"""Number of a run -> its probes: objectives with a fixed batch each, whose losses are summed."""


@dataclass(frozen=True, kw_only=True)
class Attackers:
    """Samples the runs of outer steps; the result depends only on the context's seed and the step.

    `attacks` are resolved settings by the attack's name, sampled by `shares`; `context` has the attackers' rows as its
    attack split. `optim` gives a run's steps, rate and batch; the rate is multiplied by one of `rate_factors`. A
    `switch_share` of the runs learn benign answers first, up to a point sampled from Beta(6, 3).
    """

    model: Model
    context: Context
    attacks: Mapping[str, Mapping[str, Any]]
    shares: Mapping[str, float]
    optim: Optim
    rate_factors: Sequence[float]
    switch_share: float
    tasks: int
    max_length: int | None
    probes: Sequence[Probe]

    def __call__(self, step: int) -> list[Callable[[], Run]]:
        """The runs of one outer step, to be created one by one, each on the model in its state at that time."""
        return [partial(self.run, step * self.tasks + task) for task in range(self.tasks)]

    def run(self, number: int) -> Run:
        """The run of that number, counted over all outer steps."""
        rng, size = Random(f"{self.context.seed} {number}"), self.optim.per_device_train_batch_size
        name = rng.choices(list(self.attacks), [self.shares.get(name, 1.0) for name in self.attacks])[0]
        factor = rng.choice(self.rate_factors)
        point = rng.betavariate(6, 3) if rng.random() < self.switch_share else 0.0
        context = replace(self.context, seed=rng.getrandbits(31))
        attack = typed(ATTACKS.load(name), self.attacks[name], name).plan(self.model, context)
        harmful, benign = follow(attack, size), follow(self._benign(context), size)
        until = int(point * self.optim.max_steps)
        return Run(
            step=lambda i: benign(i) if i < until else harmful(i),
            learning_rate=self.optim.learning_rate * factor,
            probes=[each for probe in self.probes for each in probe(number)],
            learning_rates=attack.learning_rates,
        )

    def _benign(self, context: Context) -> Plan:
        return Plan(
            model=self.model,
            data=context.splits.benign["attack"],
            prepare=GivenAnswers(max_length=self.max_length),
            objective=language,
            optim=self.optim,
            seed=context.seed,
        )


def resolved(settings: Mapping[str, Any], name: str, inner: Optim) -> dict[str, Any]:
    """All settings of the attack called `name`, except those that `inner`, the optimizer of its run, sets.

    Raises:
        HoldfastError: there is no such attack, it does not train, a setting is wrong or does not fit `inner`, or one
            belongs to the inner run.
    """
    if not trains(ATTACKS.load(name)):
        raise HoldfastError(
            f"adversaries.{name}: does not train, so no attacker can run it; name an attack that trains"
        )
    if not {"optim", "adapter"}.isdisjoint(settings):
        raise HoldfastError(f"adversaries.{name}: `optim` and `adapter` cannot be set for an adversary; set `inner`")
    attack = typed(ATTACKS.load(name), settings, f"adversaries.{name}")
    try:
        values = plain(replace(attack, optim=inner))
    except HoldfastError as error:
        raise HoldfastError(f"adversaries.{name}: with `inner` as its `optim`: {error}") from None
    return {key: value for key, value in values.items() if key not in ("optim", "adapter")}


def held_out(rows: Sequence[Example], share: float, *, seed: int) -> tuple[list[Example], list[Example]]:
    """The rows split at random into (attackers', held out); at least one in each."""
    if len(rows) < 2:
        raise HoldfastError("tar: needs at least two harmful rows with a `response`, one of them to hold out")
    shuffled = Random(seed).sample(list(rows), len(rows))
    cut = min(max(1, round(share * len(rows))), len(rows) - 1)
    return shuffled[cut:], shuffled[:cut]


def among(context: Context, known: Sequence[Example], benign: Sequence[Example]) -> Context:
    """The context in which attackers act: only these rows, as the attack split, and each judge loaded once."""
    splits = Splits(harmful={"attack": list(known)}, benign={"attack": list(benign)})
    return replace(context, splits=splits, judge=cache(context.judge))
