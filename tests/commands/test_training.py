"""Training outside a run, as the terminal shows it."""

from dataclasses import dataclass

import pytest

from holdfast.commands.training_progress import shown_fit
from holdfast.training import fit
from holdfast.training.plan import Diverged


@dataclass(frozen=True)
class Planned:
    """Stands in for a plan, of which only the hooks are changed."""

    hooks: tuple = ()


def test_training_that_diverges_is_said_with_its_reason_and_goes_no_further(monkeypatch, capsys):
    def diverges(plan):
        assert len(plan.hooks) == 1
        raise Diverged(3, "the loss is nan")

    monkeypatch.setattr(fit, "fit", diverges)
    with pytest.raises(Diverged):
        shown_fit("a judge")(Planned())
    started, failed = (line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines())
    assert (started, failed) == ("started  a judge", "failed   a judge: the loss is nan at step 3")
