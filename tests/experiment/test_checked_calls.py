"""What a method gives back is looked at where it is called, and what it raises is told with its name."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from holdfast.evaluation.evaluate import Judged
from holdfast.experiment import checked_calls
from holdfast.experiment.work import failure
from holdfast.records import Evaluation, HoldfastError
from holdfast.training.contracts import (
    METHOD,
    AdaptiveAttacker,
    JudgeSettings,
    OfflineDefense,
    OnlineDefense,
    SamplingAttack,
    TrainingAttack,
    check,
)


@dataclass(frozen=True, kw_only=True)
class Every(TrainingAttack, SamplingAttack, AdaptiveAttacker, OnlineDefense, OfflineDefense, JudgeSettings):
    """A method of every kind, of another package, that gives back `given`, or raises it."""

    given: Any = None
    COEFFICIENT: ClassVar[str] = "given"

    def _give(self, *_: Any, **__: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    plan = curve = adapt = constrain = harden = judge = _give


def calls(given):
    """Each kind called once."""
    method = Every(given=given)
    return {
        "plan": lambda: checked_calls.plan_of(method, None, None),
        "adapt": lambda: checked_calls.adapted(method, lambda *_: None),
        "constrain": lambda: checked_calls.constrained(method, None, None),
        "harden": lambda: checked_calls.hardened(method, None, None),
        "judge": lambda: checked_calls.judge_from(method),
        "curve": lambda: list(checked_calls.curve_of(method, None, None, None, keep=None)),
    }


NAMES = list(calls(None))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [None, "wizard", 3])
def test_what_is_of_another_type_is_refused_by_class_and_method(name, given):
    with pytest.raises(HoldfastError) as error:
        calls(given)[name]()
    assert str(error.value).startswith(f"{__name__}:Every: `{name}` gave back {given!r}; it has to give ")


def test_a_planner_with_something_round_it_gives_a_plan():
    with pytest.raises(HoldfastError, match="`adapt` gave back None; it has to give a `Plan`"):
        checked_calls.adapted(Every(given=lambda model, context: None), lambda *_: None)(None, None)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([3], "gave back 3; it has to give"),
        ([(Evaluation(step=1), "text")], "it has to give \\(Evaluation, list of Judged\\)"),
        ([(Evaluation(step=1), [3])], "it has to give \\(Evaluation, list of Judged\\)"),
        ([(Evaluation(step=0), [])], "'step 0 after 0'; it has to give steps that rise"),
        ([(Evaluation(step=2), []), (Evaluation(step=2), [])], "'step 2 after 2'; it has to give steps that rise"),
    ],
)
def test_a_curve_is_of_evaluations_at_rising_steps(points, words):
    with pytest.raises(HoldfastError, match=words):
        calls(iter(points))["curve"]()


def test_a_curve_that_is_one_passes():
    judged = [Judged(completion=None, verdicts={})]
    points = [(Evaluation(step=1), judged), (Evaluation(step=4), [])]
    assert calls(iter(points))["curve"]() == points


@pytest.mark.parametrize("name", [name for name in NAMES if name != "judge"])
def test_what_another_packages_method_raises_is_told_with_its_name(name, tmp_path):
    with pytest.raises(RuntimeError) as error:
        calls(RuntimeError("no GPU\nhere"))[name]()
    assert failure(error.value, tmp_path) == f"`{name}` of {__name__}:Every: RuntimeError: no GPU here"


def test_what_another_packages_judge_raises_before_it_judges_is_one_line():
    with pytest.raises(HoldfastError, match=f"^{__name__}:Every: `judge` raised RuntimeError: no GPU here$"):
        calls(RuntimeError("no GPU\nhere"))["judge"]()


def test_what_it_says_itself_to_users_stays_as_it_is(tmp_path):
    with pytest.raises(HoldfastError) as error:
        calls(HoldfastError("give it a coefficient"))["plan"]()
    assert failure(error.value, tmp_path) == "give it a coefficient"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_told_with_what_to_lower(error, tmp_path):
    said = failure(error, tmp_path)
    assert said == f"out of memory: {str(error) or 'MemoryError'}; lower the batch sizes, or --workers on a shared GPU"


def test_a_judge_of_ours_that_cannot_be_made_says_why_itself():
    with pytest.raises(HoldfastError, match=r"^the reason$"):
        checked_calls.judge_from(Every(given=HoldfastError("the reason")))


def test_a_fault_of_ours_is_not_told_as_one_of_a_package(monkeypatch):
    monkeypatch.setattr(Every, "__module__", "holdfast.judges.every")
    with pytest.raises(KeyError):
        checked_calls.judge_from(Every(given=KeyError("a bug")))


@pytest.mark.parametrize(("kind", "method"), METHOD.items())
def test_a_method_that_a_class_leaves_out_never_does_nothing_in_silence(kind, method):
    left_out = dataclass(frozen=True)(type("LeftOut", (kind,), {"__annotations__": {}}))()
    arguments = inspect.signature(getattr(left_out, method)).parameters
    given = dict.fromkeys(arguments)
    with pytest.raises(NotImplementedError):
        getattr(left_out, method)(**given)


class Knobbed(OnlineDefense):
    COEFFICIENT: ClassVar[str] = "coef"
    KNOBS: ClassVar[Any] = {"coef": (0.0, 1.0)}
    coef: float = 0.1

    def constrain(self, plan, context):
        return plan


def test_a_knob_that_is_no_range_is_refused_by_its_name():
    with pytest.raises(
        HoldfastError, match=r"^row: KNOBS\['coef'\] is \(0\.0, 1\.0\); a knob is a `Range` or `Choices`"
    ):
        check(dataclass(frozen=True)(Knobbed), "row", kinds=(OnlineDefense,))
