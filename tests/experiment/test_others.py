"""What a run needs of others is asked before rows are read and models are loaded, and what is checked is said."""

import pytest

from holdfast import experiment
from holdfast.config import parse_grid
from holdfast.experiment import others
from holdfast.experiment.grid import cells
from holdfast.records import HoldfastError

NOBODYS = "nobody-at-all/no-such-model"


@pytest.fixture
def judged(values):
    """A small grid with these further judges."""

    def build(**judges):
        evaluation = {**values()["evaluation"], "harm_judges": list(judges)}
        return parse_grid(values(judges=judges, evaluation=evaluation), "test")

    return build


def test_a_judge_s_unknown_id_is_refused_before_rows_are_read(judged, monkeypatch, news, tmp_path):
    monkeypatch.setattr(experiment, "check_data", lambda grid: pytest.fail("rows were read first"))
    grid = judged(mine={"classifier": {"path": NOBODYS, "harmful_label": 0}})
    with pytest.raises(HoldfastError, match=rf"judges\.mine: {NOBODYS}: there is no such folder, and no model of this"):
        experiment.run(grid, tmp_path, workers=0, news=news)
    assert [title for _, title, _ in news][1:] == [f"checking model id {NOBODYS}"]


@pytest.mark.parametrize(
    ("revision", "looked_up"),
    [("v2", [("an/id", "v2")]), (None, [("an/id", "v2"), ("an/id", None)])],  # another revision may not be there
)
def test_an_id_is_looked_up_once_at_each_revision_that_is_named(values, monkeypatch, revision, looked_up):
    asked = []
    monkeypatch.setattr(others, "refuse_unknown", lambda *given: asked.append(given))
    mine = {"classifier": {"path": "an/id", "harmful_label": 0, "revision": revision}}
    metrics = {"perplexity": {"path": "an/id", "revision": "v2"}}
    evaluation = {**values()["evaluation"], "harm_judges": ["mine"], "metrics": metrics}
    told = []
    others.refuse_missing(cells(parse_grid(values(judges={"mine": mine}, evaluation=evaluation), "test")), told.append)
    assert told == ["model id an/id at v2", "model id an/id"][: len(looked_up)]
    assert asked == looked_up


def test_what_is_checked_is_said_in_order_and_each_thing_once(judged, monkeypatch, news):
    monkeypatch.setattr("holdfast.experiment.beforehand._first_copy", lambda *_: None)
    experiment.check_requirements(cells(judged(mine={"keyword": {}})), 0, news=news)
    said, judges = [title.removeprefix("checking ") for _, title, _ in news], ["judge mine", "judge oracle"]
    assert said == ["rows", "model sandbox-llama-tiny, and the lengths of all prompts", *judges]
