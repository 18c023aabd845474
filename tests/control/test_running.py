"""A run on disk: what is finished stays, what failed is tried again, names of others stay text."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.records import HoldfastError


def silent(*_: Any) -> None:
    pass


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Arms that were trained, by a trainer that only writes down a curve."""
    from holdfast.control import learning

    trained: list[str] = []

    def train(cell: Any, expert: Any, on_progress: Any) -> dict[str, Any]:
        trained.append(f"{cell.arm.label} {cell.seed}")
        rows = [
            {
                **{"step": step, "alpha": 1.0, "learner_return": 10.0 + step, "learner_sd": 0.0, "learner_episodes": 2},
                **{"behavior_return": 9.0 if step else None, "behavior_episodes": min(step, 1)},
            }
            for step in (0, 30, 60)
        ]
        more = {"expert_actions": 0, "evaluation_steps": 4, "cloning_error": None, "steps": 60, "seconds": 0.1}
        return {"curve": rows, "hand_over": 0 if expert is None else 12, **more}

    monkeypatch.setattr(learning, "train", train)
    return trained


@pytest.mark.slow
def test_a_finished_run_trains_nothing_when_it_is_run_again(make_control, counted, tmp_path):
    from holdfast.control.running import run

    control = make_control(seeds=[0, 1])
    first = run(control, tmp_path, workers=0, news=silent)
    assert counted == ["plain 0", "dai 0", "plain 1", "dai 1"]
    assert run(control, tmp_path, workers=0, news=silent) == first
    assert len(counted) == 4
    assert len(list(tmp_path.glob("experts/*/record.json"))) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_it_had_not_finished(make_control, counted, tmp_path, monkeypatch):
    from holdfast.control import learning
    from holdfast.control.running import run

    train = learning.train

    def killed(cell: Any, expert: Any, on_progress: Any) -> Any:
        if counted:
            raise KeyboardInterrupt
        return train(cell, expert, on_progress)

    monkeypatch.setattr(learning, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_control(), tmp_path, workers=0, news=silent)
    monkeypatch.setattr(learning, "train", train)
    results = run(make_control(), tmp_path, workers=0, news=silent)
    assert counted == ["plain 0", "dai 0"]
    assert [record["outcome"] for _, record in results.cells] == ["done", "done"]


@pytest.mark.slow
def test_a_cell_that_failed_is_a_row_with_its_reason_and_is_tried_again(make_control, counted, tmp_path, monkeypatch):
    from holdfast.control import learning
    from holdfast.control.running import run
    from holdfast.control.tables import cell_rows, gain_rows

    train = learning.train

    def failing(cell: Any, expert: Any, on_progress: Any) -> Any:
        if expert is not None:
            raise ValueError("no such thing")
        return train(cell, expert, on_progress)

    monkeypatch.setattr(learning, "train", failing)
    results = run(make_control(), tmp_path, workers=0, news=silent)
    rows = cell_rows(results)
    assert [(row["arm"], row["outcome"]) for row in rows] == [("plain", "done"), ("dai", "failed")]
    assert rows[1]["reason"] == "ValueError: no such thing"
    assert gain_rows(results) == []
    monkeypatch.setattr(learning, "train", train)
    results = run(make_control(), tmp_path, workers=0, news=silent)
    assert counted == ["plain 0", "dai 0"]
    assert {row["quantity"] for row in gain_rows(results)} == {"gain_early", "gain_final", "lead_early", "lead_final"}


def test_a_cell_whose_numbers_break_down_is_a_row_and_final(make_control, counted, tmp_path, monkeypatch):
    from holdfast.control import learning
    from holdfast.control.running import run
    from holdfast.training.plan import Diverged

    def diverging(cell: Any, expert: Any, on_progress: Any) -> Any:
        counted.append("tried")
        raise Diverged(3, "rewards not finite")

    monkeypatch.setattr(learning, "train", diverging)
    for _ in range(2):
        results = run(make_control(arms=["plain"]), tmp_path, workers=0, news=silent)
    assert counted == ["tried"]
    assert results.cells[0][1]["outcome"] == "diverged"


@pytest.mark.slow
def test_the_files_of_a_run_hold_every_measurement_and_names_of_others_as_text(make_control, counted, tmp_path):
    from holdfast.control.page import write
    from holdfast.control.running import run

    odd = "<script>alert(1)</script>"
    control = make_control(name="<script>", arms=["plain", {"dai": None, "label": odd}], seeds=[0, 1])
    written = write(run(control, tmp_path, workers=0, news=silent), tmp_path)
    assert {path.name for path in written} == {
        *("curves.csv", "gains.csv", "pairs.csv", "cells.csv", "experts.csv"),
        *("figure.svg", "figure.png", "report.html"),
    }
    curves = (tmp_path / "curves.csv").read_text().splitlines()
    assert curves[0].startswith("task,algorithm,arm,seed,step,alpha,learner_return")
    assert len(curves) == 1 + 4 * 3
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_experts_of_two_qualities_that_are_one_checkpoint_share_a_line_in_the_figure(make_control):
    from holdfast.control.figure import chart
    from holdfast.control.plans import cells
    from holdfast.control.running import ControlResults

    arms = ["plain", {"dai": {}}, *({"dai": {"expert": name}, "label": name} for name in ("medium", "poor"))]
    control = make_control(arms=arms)
    point = {"step": 0, "learner_return": 1.0, "behavior_return": 1.0, "behavior_episodes": 1}
    record = {"outcome": "done", "curve": [point], "hand_over": 0}
    qualities = {name: {"return": value} for name, value in (("good", 374.0), ("medium", 190.0), ("poor", 190.0))}
    experts = {"InvertedPendulum-v5": {"outcome": "done", "qualities": qualities}}
    results = ControlResults(control=control, cells=[(cell, record) for cell in cells(control)], experts=experts)
    spec = str(chart(results).to_dict())
    assert "expert (medium, poor)" in spec
    assert "expert (good)" in spec
    assert "expert (poor)" not in spec


def test_cells_depend_on_what_changes_them_and_on_no_label(cell_of):
    key = cell_of("dai").key
    assert cell_of({"dai": {}, "label": "other"}).key == key
    assert cell_of({"dai": {"noise": "before"}}).key != key
    assert cell_of("dai", steps=61).key != key
    assert cell_of("dai", expert={"episodes": 3}).key != key
    plain = cell_of("plain").key
    assert cell_of("plain", expert={"episodes": 3}).key == plain
    assert cell_of("plain", schedule={"kind": "constant"}).key == plain


@pytest.mark.slow
def test_an_expert_is_read_back_as_it_was_trained(small, tmp_path):
    import numpy as np

    from holdfast.control.experts import load, train
    from holdfast.control.plans import ExpertPlan

    plan = ExpertPlan(
        task="Reacher-v5",
        algorithm="td3",
        learner=small,
        controller=None,
        seed=9,
        steps=120,
        checkpoints=2,
        episodes=2,
        random_episodes=2,
    )
    record = train(plan, tmp_path, silent)
    assert record["trained_steps"] == 120
    assert [row["step"] for row in record["checkpoints"]] == [60, 120]
    assert record["random"]["return"] < 0
    for quality, known in record["qualities"].items():
        assert known["length"] == 50
        act = load(plan, tmp_path, quality)
        actions = act(np.zeros((3, 10)))
        assert actions.shape == (3, 2)
        np.testing.assert_array_equal(actions, act(np.zeros((3, 10))))
    best = max(record["checkpoints"], key=lambda row: row["return"])
    assert record["qualities"]["good"]["step"] == best["step"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": {"Hoper-v5": {}}}, r"tasks: no environment is called 'Hoper-v5' \(did you mean 'Hopper"),
        ({"tasks": {"CartPole-v1": {}}}, "tasks: observations or actions of CartPole-v1 are not bounded"),
        ({"tasks": {"Reacher-v5": {"controller": "pendulum"}}}, "no controller 'pendulum'; known: pendulum for Inv"),
        ({"arms": [{"dai": {"expert": "poor"}}]}, "hand-made expert of InvertedPendulum-v5 has no poor version"),
        ({"arms": ["cloning"], "schedule": {"kind": "success"}}, "arms: cloning: with the schedule `success`"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(values, message, make_control, counted, tmp_path):
    from holdfast.control.running import run

    with pytest.raises(HoldfastError, match=message):
        run(make_control(**values), tmp_path, workers=0, news=silent)
    assert not list(tmp_path.rglob("*.json"))


def test_a_machine_without_the_extra_is_told_how_to_get_it(make_control, tmp_path, monkeypatch):
    import sys

    from holdfast.control.running import run

    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(HoldfastError, match=r"stable_baselines3.*pip install 'holdfast-llm\[control\]'"):
        run(make_control(), tmp_path, workers=0, news=silent)
