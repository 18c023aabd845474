"""Call methods and check the types of their results; errors name the method.

A method of another package may follow the form of its protocol (`holdfast.training.contracts`) and still return a wrong
type or raise an unhelpful exception: the error then names the row and its package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.evaluation.evaluate import Judged, Suite
from holdfast.methods.tables import one_line, row_of
from holdfast.network.models import Model
from holdfast.records import Evaluation, HoldfastError, Judge
from holdfast.training.contracts import (
    AdaptiveAttacker,
    JudgeSettings,
    Keep,
    OfflineDefense,
    OnlineDefense,
    SamplingAttack,
    TrainingAttack,
)
from holdfast.training.plan import Context, Plan, Planner

NOTE = "raised in "
"""Beginning of a note that names the method in which an exception was raised."""


def plan_of(attack: TrainingAttack, model: Model, context: Context) -> Plan:
    """The attack on `model` as a plan. All functions here raise `HoldfastError` for a result of the wrong type."""
    with _named(attack, "plan"):
        plan = attack.plan(model, context)
    return _require(plan, Plan, attack, "plan")


def adapted(attacker: AdaptiveAttacker, planner: Planner) -> Planner:
    """The planner modified by an adaptive attacker."""
    with _named(attacker, "adapt"):
        around = attacker.adapt(planner)
    if not callable(around):
        raise _wrong(attacker, "adapt", around, "a planner, (model, context) -> Plan")

    def checked(model: Model, context: Context) -> Plan:
        with _named(attacker, "adapt"):
            plan = around(model, context)
        return _require(plan, Plan, attacker, "adapt")

    return checked if around is not planner else planner


def constrained(defense: OnlineDefense, plan: Plan, context: Context) -> Plan:
    """The plan with an online defense."""
    with _named(defense, "constrain"):
        other = defense.constrain(plan, context)
    return _require(other, Plan, defense, "constrain")


def hardened(defense: OfflineDefense, model: Model, context: Context) -> Model:
    """The model, hardened."""
    with _named(defense, "harden"):
        other = defense.harden(model, context)
    return _require(other, Model, defense, "harden")


def judge_from(settings: JudgeSettings) -> Judge:
    """The judge of its settings.

    Raises:
        HoldfastError: another package's `judge` raised an exception or did not return a function; names the row.
    """
    try:
        judge = settings.judge()
    except HoldfastError:
        raise
    except Exception as error:
        if type(settings).__module__.startswith("holdfast."):
            raise
        raise HoldfastError(
            f"{row_of(type(settings))}: `judge` raised {type(error).__name__}: {one_line(error)}"
        ) from error
    if not callable(judge):
        raise _wrong(settings, "judge", judge, "a judge, completions -> a Verdict each")
    return judge


def curve_of(
    attack: SamplingAttack, model: Model, suite: Suite, context: Context, *, keep: Keep
) -> Iterator[tuple[Evaluation, list[Judged]]]:
    """The evaluations of an attack that does not train, at increasing cost."""
    last = 0
    with _named(attack, "curve"):
        points = attack.curve(model, suite, context, keep=keep)
        if not isinstance(points, Iterator):
            raise _wrong(attack, "curve", points, "an iterator of (Evaluation, list of Judged)")
        for point in points:
            evaluation, judged = point if isinstance(point, tuple) and len(point) == 2 else (point, None)
            if not isinstance(evaluation, Evaluation) or not _all_judged(judged):
                raise _wrong(attack, "curve", point, "(Evaluation, list of Judged) each time")
            if evaluation.step <= last:
                raise _wrong(attack, "curve", f"step {evaluation.step} after {last}", "steps that rise from 1")
            last = evaluation.step
            yield evaluation, judged


def origin(error: BaseException) -> str:
    """The method in which an exception was raised, as the beginning of a message; empty if unknown."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(NOTE)]
    return f"{notes[0].removeprefix(NOTE)}: " if notes else ""


def _all_judged(judged: Any) -> bool:
    return isinstance(judged, list) and all(isinstance(one, Judged) for one in judged)


def _require(value: Any, wanted: Callable[..., Any], settings: Any, method: str) -> Any:
    if not isinstance(value, wanted):  # type: ignore[arg-type]
        raise _wrong(settings, method, value, f"a `{wanted.__name__}`")
    return value


def _wrong(settings: Any, method: str, value: Any, wanted: str) -> HoldfastError:
    return HoldfastError(f"{row_of(type(settings))}: `{method}` gave back {value!r:.60}; it has to give {wanted}")


@contextmanager
def _named(settings: Any, method: str) -> Iterator[None]:
    """Add a note with the method's name to exceptions of another package's method, but not of ours."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception as error:
        if not type(settings).__module__.startswith("holdfast."):
            error.add_note(f"{NOTE}`{method}` of {row_of(type(settings))}")
        raise
