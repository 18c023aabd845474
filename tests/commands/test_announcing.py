"""What `holdfast run` says of a grid before it begins."""

import pytest

from holdfast.commands.jobs import announce
from holdfast.config import parse_grid


def said(capsys, **optim):
    grid = {"model": "sandbox", "defenses": ["none"], "attacks": [{"sft": {"optim": {"max_steps": 9, **optim}}}]}
    announce(parse_grid(grid, "grid.yaml"))
    written = capsys.readouterr()
    return " ".join((written.out + written.err).split())


def test_a_warm_up_that_the_schedule_does_not_have_is_said(capsys):
    assert "sft: optim.warmup_steps 3 has no effect" in said(capsys, warmup_steps=3)


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "cosine", "linear"])
def test_nothing_is_said_of_a_warm_up_that_the_schedule_has(capsys, schedule):
    assert "warning" not in said(capsys, warmup_steps=3, lr_scheduler_type=schedule)
