"""`holdfast control run` and the files that it reads."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from holdfast.config import CONTROL_PRESETS, load_control, presets
from holdfast.records import HoldfastError

TASKS = "tasks:\n  InvertedPendulum-v5: {steps: 60, controller: pendulum}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: {}\n", "tasks: expected `ENVIRONMENT: {steps: 10000}` lines"),
        (TASKS + "sede: 3\n", "unknown key 'sede' .did you mean 'seeds'"),
        (TASKS + "learner: {batch: 3}\n", "learner: unknown key 'batch' .did you mean 'batch_size'"),
        (TASKS.replace("steps", "step"), "tasks.InvertedPendulum-v5: unknown key 'step' .did you mean 'steps'"),
        (TASKS + "arms: [dia]\n", "arms: no arm 'dia' .did you mean 'dai'"),
        (TASKS + "arms: [{plain: {noise: before}}]\n", "arms.plain: unknown key 'noise'; known: none"),
        (
            TASKS + "arms: [{dai: {noise: never}}]\n",
            "arms.dai: noise: input should be 'after' or 'before', not 'never'",
        ),
        (TASKS + "arms: []\n", "arms: empty; name at least one, such as plain"),
        (TASKS + "arms: [dai, dai]\n", "arms: two are called 'dai'"),
        (TASKS + "schedule: {start: 2}\n", "schedule.start: must be a number in .0, 1., not 2"),
        (TASKS + "seeds: [1000]\n", "expert.seed: 1000 is also a learner's seed"),
        (TASKS.replace("60", "0"), "tasks.InvertedPendulum-v5: .*steps: must be a whole number from 1 to .*, not 0"),
        (TASKS + "algorithms: [ppo]\n", "algorithms.0: input should be 'td3' or 'sac', not 'ppo'"),
        (TASKS + "algorithms: []\n", "algorithms: must have at least one entry"),
        (TASKS + "evaluation: {early: 0}\n", "evaluation.early: must be a number in .0, 1., not 0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_key(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(HoldfastError, match=rf"^{path}: .*{message}") as refused:
        load_control(path)
    assert "\n" not in str(refused.value)


def test_the_presets_are_read_and_have_the_papers_tasks():
    names = presets(CONTROL_PRESETS)
    assert set(names) == {"control", "double_pendulum", "smoke", "hopper", "humanoid"}
    tasks = {task for name in names for task in load_control(name).tasks}
    assert tasks >= {"InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Hopper-v5", "Humanoid-v5"}
    assert len(load_control("control").seeds) >= 5


def test_overrides_reach_every_setting():
    changed = "seeds=[7] tasks.Reacher-v5.steps=70 arms=[plain] learner.batch_size=8 schedule.kind=constant".split()
    control = load_control("control", changed)
    assert control.seeds == (7,)
    assert control.tasks["Reacher-v5"].steps == 70
    assert [arm.name for arm in control.arms] == ["plain"]
    assert (control.learner.batch_size, control.schedule.kind, control.schedule.start) == (8, "constant", 0.0)


def test_an_unknown_preset_is_refused_with_the_presets_that_there_are():
    with pytest.raises(HoldfastError, match=r"no such file and no preset of that name .did you mean 'hopper'"):
        load_control("hoper")


@pytest.mark.slow
def test_the_command_trains_in_processes_and_writes_its_page(tmp_path):
    from holdfast.cli import app

    (tmp_path / "mine.yaml").write_text(
        TASKS + "seeds: [0]\nlearner: {net_arch: [16, 16], batch_size: 16, learning_starts: 10}\n"
        "expert: {episodes: 1}\nevaluation: {every: 0.5, episodes: 2, random_episodes: 3}\n"
    )
    command = ["control", "run", str(tmp_path / "mine.yaml"), "--runs", str(tmp_path / "run"), "--workers", "2"]
    for times in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert result.output.count("started") == (0 if times else 3)
        assert "gain, early" in result.output
    assert (tmp_path / "run" / "report.html").exists()
