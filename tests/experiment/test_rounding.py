"""What saving a hardened model in its own type changes, measured by stand-ins."""

from types import SimpleNamespace

import pytest
import torch

from holdfast.evaluation.metric_settings import Metrics
from holdfast.experiment import rounding
from holdfast.records import Cell, Method, Score


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """`saved(weights, ready)`: what is written of weights that hardening made of ones, judges being `ready` or not."""

    def network(values):
        made = torch.nn.Linear(len(values), 1, bias=False)
        with torch.no_grad():
            made.weight.copy_(torch.tensor([values]))
        return SimpleNamespace(network=made)

    def written(weights, *, ready):
        task = SimpleNamespace(
            cell=Cell(model={"name": "m"}, stages=(Method(name="rmu"),)), depth=1, folder=tmp_path, source=None
        )
        scores = (Score(name="harmfulness", value=0.25, n=4),)
        stands_in = {
            **{"stored_type": lambda _: "bfloat16", "types_of": lambda *_: {}, "run_of": lambda _: tmp_path},
            **{"load_model": lambda *_: network([1.0, 1.0]), "load_splits": lambda _: None},
            **{"judge_of": lambda *_: None, "trained_judges": lambda _: ["a judge"]},
            "suite_of": lambda *_: SUITE,
            "replace": lambda suite, **changes: {**suite, **changes},
            "evaluate": lambda model, suite: (scores, []) if suite == BARE else pytest.fail("another suite"),
        }
        for name, value in stands_in.items():
            monkeypatch.setattr(rounding, name, value)
        monkeypatch.setattr(rounding.store, "finished", lambda folder: ready)
        return rounding.written(task, network(weights))

    return written


SUITE = {"metrics": Metrics(distinct=(1,)), "pairs": ("a pair",), "reference": "a model", "seed": 3}
BARE = {"metrics": Metrics(), "pairs": (), "reference": None, "seed": 3}


def test_hardening_that_rounding_changes_is_measured_before_it_as_soon_as_every_judge_is_there(saved):
    weights = [1.0 + 2**-9, 1.0]  # the first one is rounded to 1
    for ready in (True, False):
        precision = saved(weights, ready=ready)
        assert precision["moved"] == precision["rounded"] == pytest.approx(2**-9 / 2**0.5, rel=2e-3)
        assert ("scores" in precision) == ready
    assert [score["value"] for score in saved(weights, ready=True)["scores"]] == [0.25]


def test_hardening_that_the_type_holds_has_no_scores_of_its_own(saved):
    assert saved([1.5, 1.0], ready=True) == {"moved": pytest.approx(0.5 / 3.25**0.5), "rounded": 0.0}
