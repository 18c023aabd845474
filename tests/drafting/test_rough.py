"""How long work takes before any of it has run: what more of it is takes longer, and nothing is loaded."""

import pytest

from holdfast import experiment
from holdfast.config import parse_grid
from holdfast.drafting import rough
from holdfast.drafting.rough import rough_time
from holdfast.records import Cell


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch, tmp_path):
    """A core of a billion operations a second."""
    monkeypatch.setattr(rough, "operations_per_second", lambda: 2e9)
    monkeypatch.setattr(rough.os, "cpu_count", lambda: 2)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "empty"))


def rough_of(values, folder, *, at_once=1, kind=None, **changes):
    pieces = experiment.outlook(parse_grid(values(**changes), "test"), folder).pieces
    return rough_time([piece for piece in pieces if kind in (None, piece.kind)], at_once)


def seconds(*args, **changes):
    return rough_of(*args, **changes).seconds


@pytest.mark.parametrize(
    "more",
    [
        {"attacks": [{"sft": {"num_samples": 16, "optim": {"max_steps": 400, "per_device_train_batch_size": 4}}}]},
        {"attacks": [{"grpo": {"reward": {"judge": "keyword"}}}]},
        {"evaluation": {"num_prompts": 400}},
        {"seeds": [0, 1, 2]},
        {"defenses": ["none", "reward_neutralization"]},
        {"models": [{"sandbox": {"size": "large"}}]},
    ],
)
def test_more_work_takes_longer(values, tmp_path, more):
    assert seconds(values, tmp_path, **more) > 1.5 * seconds(values, tmp_path)


def test_a_step_of_sft_takes_six_operations_for_each_weight_and_token_and_a_fixed_part(values, tmp_path):
    of = [
        {"sft": {"num_samples": 16, "optim": {"max_steps": steps, "per_device_train_batch_size": 4}, "adapter": None}}
        for steps in (10, 11)
    ]
    measured = {"every": 1000, "max_new_tokens": 8}
    ten, eleven = (seconds(values, tmp_path, kind="cell", attacks=[one], evaluation=measured) for one in of)
    weights = 2 * 128 * (4 * 128 + 3 * 256)
    assert eleven - ten == pytest.approx(0.05 + 6 * weights * 4 * 8 / 1e9)


def test_an_attack_that_does_not_train_takes_its_one_evaluation(values, tmp_path):
    none = seconds(values, tmp_path, kind="cell", attacks=["none"])
    assert 0 < none < seconds(values, tmp_path, kind="cell", attacks=[{"grpo": {"reward": {"judge": "keyword"}}}])


def test_what_runs_at_once_shares_the_time_but_the_longest_piece_does_not(values, tmp_path):
    one, two = (seconds(values, tmp_path, at_once=count, seeds=[0, 1, 2, 3], kind="cell") for count in (1, 2))
    assert two == pytest.approx(one / 2)
    assert seconds(values, tmp_path, at_once=2, kind="cell") == pytest.approx(one / 4)


def test_nothing_to_do_takes_no_time():
    assert rough_time([], 2) == (0.0, False, ())


def test_a_chain_of_pieces_takes_the_sum_of_its_parts_however_many_run_at_once(values, tmp_path):
    one, many = (seconds(values, tmp_path, at_once=count) for count in (1, 16))
    assert many == pytest.approx(one), "base, aligned model and cell wait for each other"


def test_a_step_learns_from_its_minibatch_only(values, tmp_path):
    policy = {"group_size": 4, "passes": 1, "minibatches": 1, "max_new_tokens": 8}
    grpo = {"reward": {"judge": "keyword"}, "optim": {"max_steps": 8, "per_device_train_batch_size": 8}}
    whole, parts = (
        seconds(values, tmp_path, kind="cell", attacks=[{"grpo": {**grpo, "policy": {**policy, "minibatches": count}}}])
        for count in (1, 4)
    )
    assert parts < whole


@pytest.mark.parametrize(
    ("more", "at_least"),
    [
        ({}, False),
        ({"attacks": ["none"]}, False),
        ({"attacks": [{"best_of_n": {"reward": {"judge": "keyword"}}}], "evaluation": {"num_prompts": 128}}, True),
        ({"defenses": ["none", "repnoise"]}, False),
        ({"defenses": ["none", "tar"]}, True),
    ],
)
def test_work_that_the_rule_leaves_out_makes_the_time_a_lower_bound(values, tmp_path, more, at_least):
    assert rough_of(values, tmp_path, **more).at_least is at_least


def test_a_model_of_ones_own_counts_by_its_weights_and_an_unseen_one_by_a_billion(monkeypatch):
    models = [{"kind": "pretrained", "name": path, "settings": {"path": path}} for path in ("small", "unseen")]
    monkeypatch.setattr(rough, "_seen", lambda path, revision: {"small": 10**6}.get(path))
    assert [rough._weights(Cell(model=model)) for model in models] == [1e6, 1e9]


def test_a_model_whose_size_is_not_known_is_named_and_the_sandbox_never_is(values, tmp_path, monkeypatch):
    monkeypatch.setattr(rough, "_seen", lambda path, revision: {"org/small": 10**6}.get(path))
    models = ["sandbox", {"path": "org/small"}, {"path": "org/unseen"}]
    assert rough_of(values, tmp_path, models=models).unseen == ("org/unseen",)
    assert rough_of(values, tmp_path).unseen == ()
