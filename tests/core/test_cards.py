"""The model card of a hardened model."""

import pytest

from holdfast.cards import model_card
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
        (0.8, 0.4, "50% of what it was. **Hardening cost this model more than a tenth of its use.**"),
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
