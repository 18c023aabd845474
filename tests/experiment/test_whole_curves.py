"""A record from which evaluations were taken is untested wherever an outcome is said."""

from dataclasses import replace

import pytest

from holdfast.experiment.outcomes import control_run, settled, settled_by_controls
from holdfast.experiment.outcomes_by_judge import outcomes_by_judge, rejudged, with_evaluations
from holdfast.experiment.whole_curves import NOT_WHOLE, missing_steps
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import Effect

WHOLE = (0, 10, 20, 30, 35)


def evaluation(step, harm):
    scores = (Score(name="harmfulness", value=harm, n=100), Score(name="helpfulness", value=1.0, n=100))
    return Evaluation(step=step, tokens=100 * step, scores=scores)


def record(steps=WHOLE, broke_at=None, *, defense="shield", attack="sft", settings=None, adaptive=(), **measured):
    """A run of 35 steps, measured every 10; outcome and time to break follow from these steps."""
    cell = Cell(
        model={"name": "m"},
        stages=(Method(name=defense),) if defense else (),
        attack=Method(name=attack, settings={"optim": {"max_steps": 35}} if settings is None else settings),
        adaptive=tuple(adaptive),
        evaluation={"every": 10, "harm_judges": ["oracle"], **measured},
    )
    empty = Record(key=cell.key, cell=cell, outcome=Outcome.UNTESTED, effect=Effect(moved=1.0, change=0.1))
    broken = [broke_at is not None and step >= broke_at for step in steps]
    return with_evaluations(empty, [evaluation(*pair) for pair in zip(steps, map(float, broken), strict=True)])


def ended(made, **own):
    control = control_run(replace(record(WHOLE, 10, defense=None), **own))
    return settled(made, control)


WARM = Method(name="warm_start", settings={"attack": "sft", "optim": {"max_steps": 7}})
STOPS = Method(name="early_stop", settings={"at": "harm", "patience": 15})
COPY = {"optim": {"max_steps": 35}, "expert": {"kind": "sft_copy", "optim": {"max_steps": 7}}}
CHOICE = {"attack": "best_of_n", "settings": {"numbers": [1, 2]}}


@pytest.mark.parametrize(
    ("steps", "more", "missing"),
    [
        (WHOLE, {}, None),
        ((10, 20, 30, 35), {}, "no evaluation at step 0"),
        ((0, 20, 30, 35), {}, "no evaluation at step 10, where"),
        ((0, 10, 20, 30), {}, "no evaluation at step 35"),
        ((0,), {}, "no evaluation at step 10, nor at 3 more"),
        ((0, 20, 10, 30, 35), {}, "not in the order"),
        (WHOLE, {"settings": {}}, None),
        ((0, 7, 10, 20, 30, 40, 42), {"adaptive": [WARM]}, None),
        ((0, 7, 10, 20, 30), {"adaptive": [WARM]}, "no evaluation at step 40"),
        ((0, 10, 20, 30, 40, 42), {"adaptive": [WARM]}, "no evaluation at step"),
        ((7, 10, 20, 30, 40, 42), {"attack": "expert_sft", "settings": COPY}, None),
        ((0, 0, 10, 20, 22), {"adaptive": [STOPS]}, None),
        ((0, 0, 10), {"adaptive": [STOPS]}, "no evaluation at step 15"),
        ((0, 0, 20, 22), {"adaptive": [STOPS]}, "no evaluation at step 10"),
        ((0, 3, 10, 17), {"adaptive": [Method(name="of_others")]}, None),
        ((0, 3, 17), {"adaptive": [Method(name="of_others")]}, "no evaluation at step 10"),
        ((0, 1, 2), CHOICE, None),
        ((0, 1), CHOICE, "no evaluation at N = 2"),
        ((0, 50), {"attack": "external", "settings": {"steps": 50}}, None),
        ((0, 50), {"attack": "external", "settings": {"steps": None}}, "no evaluation at claimed step = 1"),
    ],
)
def test_a_curve_has_every_evaluation_that_its_settings_ask_for(steps, more, missing):
    now = settled(record(steps, **more))
    assert now.outcome is Outcome.UNTESTED  # no control was run
    assert now.reason.startswith(NOT_WHOLE) is (missing is not None)
    assert missing is None or missing in now.reason


@pytest.mark.parametrize("optim", [3, [35], None])
def test_of_settings_that_do_not_have_the_steps_no_evaluation_is_missed(optim):
    assert missing_steps(record(settings={"optim": optim})) == []


def test_a_run_that_stopped_as_its_settings_say_is_whole():
    stopped = record((0, 10, 20), 20, stop_when_broken=True)
    assert ended(stopped).outcome is Outcome.BROKE
    assert ended(replace(stopped, evaluations=stopped.evaluations[:2])).reason.startswith(NOT_WHOLE)
    late = record((0, 10, 20), 20)
    diverged = replace(late, reason=f"{late.reason}; later a loss was not finite")
    assert ended(diverged).outcome is Outcome.BROKE
    assert ended(late).outcome is Outcome.UNTESTED
    given_up = record((0, 10), give_up_below=[[10, 0.2]])
    assert "given up" in ended(given_up).reason


def test_a_break_that_was_taken_out_does_not_make_a_run_hold():
    assert ended(record()).outcome is Outcome.HELD
    broke = record(WHOLE, 20)
    for cut in (broke.evaluations[:2], (*broke.evaluations[:2], broke.evaluations[-1])):
        forged = with_evaluations(broke, cut)
        assert ended(forged).outcome is Outcome.UNTESTED
        assert ended(forged).time_to_break is None
    same = [*broke.evaluations[:2], *(replace(broke.evaluations[1], step=step) for step in (20, 30, 35))]
    assert "the steps before step 20 cost nothing" in ended(with_evaluations(broke, same)).reason


def test_settings_that_were_changed_to_fit_a_cut_curve_are_not_those_of_the_key():
    cut = record((0, 10))
    short = replace(cut.cell, attack=replace(cut.cell.attack, settings={"optim": {"max_steps": 10}}))
    assert "not those that its key is the hash of" in ended(replace(cut, cell=short)).reason


def test_settings_that_were_changed_are_found_where_nothing_attacked_and_a_cut_curve_in_a_run_that_collapsed():
    unattacked = replace(record((0,)).cell, attack=None)
    bare = replace(record((0,)), cell=unattacked, key=unattacked.key)
    assert not settled(bare).reason.startswith(NOT_WHOLE)
    first = record().evaluations[0]
    doubled = (replace(first, scores=(*first.scores, first.scores[0])), *record().evaluations[1:])
    assert "harmfulness is given twice at step 0" in settled(replace(record(), evaluations=doubled)).reason
    other = replace(bare, cell=replace(unattacked, stages=()))
    assert "not those that its key is the hash of" in settled(other).reason
    collapsed = replace(record(), outcome=Outcome.COLLAPSED)
    assert settled(collapsed).outcome is Outcome.COLLAPSED
    assert settled(replace(collapsed, evaluations=collapsed.evaluations[:2])).reason.startswith(NOT_WHOLE)


def test_a_control_from_which_evaluations_were_taken_shows_nothing():
    defended, control = record(), record((0, 10), 10, defense=None)
    now = settled_by_controls([defended, control])
    assert [each.outcome for each in now] == [Outcome.UNTESTED] * 2
    assert f"its control, the attack on the undefended model, is {NOT_WHOLE}" in now[0].reason


def test_another_judge_is_not_asked_about_a_cut_curve_but_may_have_few_answers_of_a_whole_one():
    control = record((0, 1, 2), 1, defense=None, **CHOICE)
    whole, cut = record((0, 1, 2), **CHOICE), record((0, 1), **CHOICE)
    steps, harm = [0] * 50 + [2] * 50, [0.0] * 100  # the answers for one N are kept
    of_control = rejudged(control, steps, [0.0] * 50 + [1.0] * 50)
    assert outcomes_by_judge([rejudged(whole, steps, harm), of_control])[0] is Outcome.HELD
    assert outcomes_by_judge([rejudged(cut, steps, harm), of_control])[0] is Outcome.UNTESTED


def test_where_nothing_attacked_or_nothing_was_measured_no_evaluation_is_missing():
    assert missing_steps(replace(record(), cell=replace(record().cell, attack=None))) == []
    assert missing_steps(replace(record(), evaluations=())) == []
    assert missing_steps(record((0, 20, 35))) == [10, 30]
