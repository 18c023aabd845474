"""The model card of a hardened model."""

from dataclasses import replace

import pytest

from holdfast.commands.cards import model_card
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score


def record(helpfulness, stages=()):
    scores = () if helpfulness is None else (Score(name="helpfulness", value=helpfulness, n=40, low=0.0, high=1.0),)
    cell = Cell(
        model={"name": "some-model", "settings": {}},
        stages=stages,
        constraints=(),
        attack=None,
        adaptive=(),
        data={"fingerprints": {"harmful": "abc123"}},
        evaluation={},
        judges={},
    )
    evaluation = Evaluation(step=0, samples=0, tokens=0, seconds=0.0, scores=scores)
    stage = {"name": "some_defense", "steps": 7, "tokens": 8, "seconds": 9.0}
    return Record(key="k", cell=cell, outcome=Outcome.HELD, evaluations=(evaluation,), stages=(stage,) * len(stages))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.8, 0.76, "changed by -0.040, on 40 prompts: 95% of what it was."),
        (0.8, 0.4, "50% of what it was. **Hardening cost more than a tenth of helpfulness.**"),
        (0.0, 0.1, "changed by +0.100, on 40 prompts; it was 0 before."),
        (None, 0.5, "The change of benign helpfulness was not measured."),
    ],
)
def test_a_card_says_what_hardening_did_to_benign_answers(before, after, said):
    assert said in model_card(record(before), record(after, (Method(name="some_defense"),)))


def test_a_card_states_method_settings_cost_and_data():
    card = model_card(record(1.0), record(1.0, (Method(name="some_defense", settings={"strength": 3}),)))
    for part in ("`some_defense`", '"strength": 3', "7 steps, 8 tokens, 9 s", "abc123"):
        assert part in card


ROUNDED = {"storage": "bfloat16", "master": "float32", "compute": "float32", "moved": 0.01, "rounded": 0.002}


def test_a_card_names_the_types_of_numbers_and_what_rounding_took():
    after = record(0.8, (Method(name="some_defense"),))
    unrounded = {"name": "helpfulness", "value": 0.9, "n": 40, "low": 0.8, "high": 1.0}
    stage = {**after.stages[0], "precision": {**ROUNDED, "scores": [unrounded]}}
    card = model_card(record(0.8), replace(after, stages=(stage,)))
    assert "Stored in bfloat16; hardening trained float32 weights and computed in float32." in card
    assert "0.2 of the change" in card
    assert "| score | before | after, not rounded | after | n |" in card
    assert "| helpfulness | 0.800 (0.000 to 1.000) | 0.900 (0.800 to 1.000) | 0.800 (0.000 to 1.000) | 40 |" in card


def test_a_card_says_so_where_storing_rounded_nothing():
    after = record(0.8, (Method(name="some_defense"),))
    stage = {**after.stages[0], "precision": {**ROUNDED, "storage": "float32", "rounded": 0.0}}
    card = model_card(record(0.8), replace(after, stages=(stage,)))
    assert "Storing did not round the weights." in card
    assert "| score | before | after | n |" in card


def test_a_card_of_a_copy_says_that_it_was_only_rounded():
    after = record(0.8, (Method(name="rounded"),))
    precision = {"storage": "float32", "compute": "float32", "moved": 0.08, "rounded": 0.0}
    stage = {**after.stages[0], "precision": precision}
    card = model_card(record(0.8), replace(after, stages=(stage,)))
    assert "Stored in float32. The last stage trained nothing: it rounded the weights by 0.08 of their norm." in card


def test_a_card_of_a_model_that_answers_nothing_says_so():
    before, stages = record(0.9), (Method(name="some_defense"),)
    said = model_card(before, record(0.3, stages))
    assert "**This model is useless, however much it refuses: the model is of no use: helpfulness 0.30 of 0.90" in said
    assert "Useless" not in model_card(before, record(0.8, stages))


def test_a_card_says_what_each_stage_trained():
    after = record(1.0, (Method(name="some_defense"),))
    part = {"parameters": 1200, "of": 30000, "tensors": ["model.layers.*.mlp.experts.down_proj"]}
    stages = ({**after.stages[0], "trained": [part]},)
    card = model_card(record(1.0), replace(after, stages=stages))
    assert "- some_defense: 1,200 of 30,000 weights, in `model.layers.*.mlp.experts.down_proj`" in card
    assert "Trained:" not in model_card(record(1.0), after)


def test_a_score_without_an_interval_or_a_value_is_in_the_card_all_the_same():
    few = (Score(name="distinct", value=0.5, n=2), Score(name="helpfulness", value=None, n=0))
    before, after = record(0.8), record(0.8, (Method(name="some_defense"),))
    curve = (replace(after.evaluations[0], scores=few),)
    card = model_card(replace(before, evaluations=curve), replace(after, evaluations=curve))
    assert "| distinct | 0.500 | 0.500 | 2 |" in card
    assert "| helpfulness | not measured | not measured | 0 |" in card
