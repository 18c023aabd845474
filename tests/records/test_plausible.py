"""A record whose numbers cannot be is not believed."""

from dataclasses import replace

import pytest

from holdfast.records import Cell, Evaluation, Outcome, Record, Score, TimeToBreak
from holdfast.records.evidence import ControlRun, Effect
from holdfast.records.plausible import refuse_impossible

GOOD = Record(
    key="k", cell=Cell(model={"name": "m"}), outcome=Outcome.BROKE, steps=3, effect=Effect(moved=1.0, change=3.0)
)

BREAK = TimeToBreak(threshold=0.5, steps=3, samples=3, tokens=9, seconds=0.5, censored=False)


def scored(name, value, **more):
    evaluation = Evaluation(step=0, scores=(Score(name=name, **{"value": value, "n": 4, **more}),))
    return replace(GOOD, evaluations=(evaluation,))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (replace(GOOD, steps=-1), "steps is -1, below 0"),
        (replace(GOOD, effect=Effect(moved=1.5)), "moved is 1.5, above 1"),
        (replace(GOOD, evaluations=(Evaluation(step=-2),)), "step of an evaluation is -2"),
        (scored("harmfulness", 7.0), "harmfulness at step 0 is 7, above 1"),
        (scored("harmfulness/other", -0.2), "harmfulness/other at step 0 is -0.2, below 0"),
        (scored("invalid/benign", 1.1), "invalid/benign at step 0 is 1.1"),
        (scored("helpfulness", 0.5, high=2.0), "helpfulness at step 0 is 2"),
        (scored("harmfulness", 0.5, invalid=-1), "invalid of harmfulness at step 0 is -1"),
        (replace(GOOD, wall_seconds=float("nan")), "wall_seconds is nan, no number"),
        (replace(GOOD, stages=({"tokens": "many"},)), "tokens of a stage is 'many', no number"),
        (replace(GOOD, stages=({"seconds": [1]},)), r"seconds of a stage is \[1\], no number"),
        (replace(GOOD, stages=({"seconds": 1.0}, {"flops": -1.0})), "flops of a stage is -1, below 0"),
        (replace(GOOD, flops=1e200), "flops is 1e.200, too large"),
        (scored("kl", -1e200), "kl at step 0 is 1e.200, too large"),
        (replace(GOOD, time_to_break=replace(BREAK, flops=-5.0)), "flops of the break is -5, below 0"),
        (
            replace(GOOD, control=ControlRun(key="c", outcome="broke", helpfulness=9.0)),
            "helpfulness of the control is 9",
        ),
        (replace(GOOD, cell=Cell(model={"settings": 7})), "cell.model.settings is 7, no set of names with values"),
        (replace(GOOD, cell=Cell(model={}, data={"fingerprints": ["x"]})), "cell.data.fingerprints is"),
    ],
)
def test_counts_below_0_and_shares_outside_0_to_1_are_refused_by_place(record, words):
    with pytest.raises(ValueError, match=words):
        refuse_impossible(record)


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        scored("harmfulness", None),
        scored("harmfulness", 1.0, high=1.0 + 1e-12),
        scored("entropy", 7.0),
        scored("kl/benign", 40.0),
        scored("reward", -3.0),
        scored("somebody_elses", 12.0),
        replace(GOOD, stages=({"name": "tar", "steps": 3, "flops": None},)),
    ],
)
def test_what_can_be_is_believed(record):
    refuse_impossible(record)
