"""Rehearse a cell: its methods make their plans over a model without weights, and nothing is trained.

A method's errors are reported here, before anything has run: rows without a refusal that it needs, a tensor that the
architecture lacks, a prompt that is too long. Errors that depend on the values of weights cannot be detected here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

from holdfast.data.splits import Splits
from holdfast.experiment.cell_settings import is_sandbox
from holdfast.experiment.checked_calls import adapted, constrained, curve_of, hardened, plan_of
from holdfast.experiment.methods import configured
from holdfast.experiment.world import context_of, suite_of
from holdfast.methods.ranges import with_place
from holdfast.network.anatomy import unwrapped
from holdfast.network.models import Model, clone
from holdfast.records import Cell, HoldfastError, Judge, Method
from holdfast.training.activation_memory import refuse_unboundable
from holdfast.training.contracts import trains
from holdfast.training.optim import refuse_unbuildable
from holdfast.training.plan import Context, Fitted, Plan, Planner
from holdfast.training.splitting import refuse_unsplittable

Returned = TypeVar("Returned")


@dataclass(kw_only=True)
class Rehearsal:
    """A cell over `twin`, a copy of its model without weights, which is not changed; `problems` its methods' errors.

    Each error is a line that begins with the grid's key. `hardened` has the twins after stages that were rehearsed for
    other cells, which this one's are added to.
    """

    cell: Cell
    twin: Model
    splits: Splits
    judge: Callable[[str], Judge]
    hardened: dict[str, Model] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Rehearse stages, attack and constraints, each on the result of the one before; returns the problems."""
        context = replace(context_of(self.cell, self.splits, self.judge, _untrained_fit), models=self._others)
        model = self._hardened(context)
        if self.cell.attack is not None:
            self._attack(self.cell.attack, clone(model), context)
        return self.problems

    def _hardened(self, context: Context) -> Model:
        """The twin after the stages, which are rehearsed once for all attacks on the same hardened model."""
        key = replace(self.cell, attack=None, adaptive=(), constraints=(), judges={}, seed=0).key
        if key not in self.hardened:
            model = self.twin
            for stage in self.cell.stages:
                harden = partial(hardened, configured(stage, "offline"), model, context)
                model = self._attempt(_key("defenses", stage), harden) or model
            self.hardened[key] = model
        return self.hardened[key]

    def _attack(self, method: Method, model: Model, context: Context) -> None:
        attack, where = configured(method, "attack"), _key("attacks", method)
        if not trains(attack):
            suite = suite_of(self.cell, self.splits, self.judge)
            self._attempt(where, lambda: next(curve_of(attack, model, suite, context, keep=_keep), None))
            return
        planner: Planner | None = partial(plan_of, attack)
        for around in self.cell.adaptive:
            if planner is not None:
                planner = self._attempt(
                    _key("attacks", around), partial(adapted, configured(around, "adaptive"), planner)
                )
        if planner is None:
            return
        # With adaptive attackers, any of them may refuse; the message says which.
        plan = self._attempt("attacks" if self.cell.adaptive else where, lambda: _buildable(planner(model, context)))
        for constraint in self.cell.constraints:
            if plan is not None:
                constrain = partial(constrained, configured(constraint, "online"), plan, context)
                plan = self._attempt(_key("defenses", constraint), constrain)
        if plan is not None:
            # A constraint's loss may not go with the attack's optimizer.
            self._attempt(where, partial(_buildable, plan))

    def _attempt(self, where: str, call: Callable[[], Returned]) -> Returned | None:
        """The result of a call; `None` if it is refused, or needs the values of weights."""
        try:
            return call()
        except HoldfastError as error:
            # An error that was caused by a library's error may be due to the missing values alone.
            if error.__cause__ is None or isinstance(error.__cause__, HoldfastError):
                self.problems.append(with_place(where, self._named(str(error))))
        except Exception:
            return None
        return None

    def _named(self, problem: str) -> str:
        """A problem of an architecture, with the model's name, since a grid may have several models."""
        kind = type(unwrapped(self.twin.network)).__name__
        return f"{self.twin.name}: {problem}" if problem.startswith(f"{kind}: ") else problem

    def _others(self, name: str) -> Model:
        if name == "undefended" or (name == "base" and is_sandbox(self.cell)):
            return clone(self.twin)
        return context_of(self.cell, self.splits, self.judge, _untrained_fit).models(name)


def _key(axis: str, method: Method) -> str:
    return f"{axis}.{method.name}"


def _untrained_fit(plan: Plan) -> Fitted:
    """Used instead of the training loop: returns the unchanged model."""
    return Fitted(model=_buildable(plan).model, steps=0, samples=0, tokens=0, seconds=0.0)


def no_judge(*_: Any) -> NoReturn:
    """Used instead of a judge that does not exist yet, or that has a problem itself."""
    raise RuntimeError("there is no such judge yet")


def _buildable(plan: Plan) -> Plan:
    refuse_unbuildable(plan.optim.optim)
    refuse_unsplittable(plan)
    refuse_unboundable(plan)
    return plan


def _keep(number: int, of: int, make: Callable[[], Any]) -> Any:  # noqa: ARG001
    return make()


def distinct_up_to_seed(cells: Sequence[Cell]) -> list[Cell]:
    """One of each group of cells that differ only in their seed, in order."""
    distinct: dict[str, Cell] = {}
    for cell in cells:
        distinct.setdefault(replace(cell, seed=0).key, cell)
    return list(distinct.values())
