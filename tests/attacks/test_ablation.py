"""Edits of weights that are searched: what a trial changes, what counts, and what is left behind."""

import pytest
import torch

from holdfast.attacks.ablation import Ablation, strength_at
from holdfast.evaluation.suite import Suite
from holdfast.network.generate import Sampling
from holdfast.network.models import LoRA, adapt
from holdfast.records import HoldfastError, Verdict
from holdfast.rl.rewards import AttackReward
from holdfast.training.plan import Context

SMALL = {"num_prompts": 6, "choice_prompts": 3, "reward": AttackReward(judge="length")}


def by_length(completions):
    """A judge that pays for words, which an edit changes at once."""
    return [Verdict(score=min(1.0, len(set(done.text.split())) / 12), valid=True) for done in completions]


@pytest.fixture(scope="module")
def context(splits):
    return Context(splits=splits, seed=0, fit=None, judge=lambda name: by_length, max_new_tokens=6)


@pytest.fixture(scope="module")
def suite(splits):
    return Suite(
        harmful=splits.harmful["test"][:3],
        benign=splits.benign["test"][:3],
        harm_judges={"oracle": by_length},
        help_judge=("oracle", by_length),
        sampling=Sampling(max_new_tokens=6),
    )


def pieces(stored=None):
    """What a run keeps: `make` is called for pieces that are not stored."""
    stored = {} if stored is None else stored

    def keep(number, of, make):
        assert 0 <= number < of
        if number not in stored:
            stored[number] = make()
        return stored[number]

    return keep


@pytest.mark.parametrize(("depth", "strength"), [(0.5, 1.6), (0.25, 0.8), (0.75, 0.8), (0.0, 0.0), (1.0, 0.0)])
def test_a_strength_is_highest_at_its_peak_and_falls_linearly(depth, strength):
    assert strength_at(depth, 1.6, peak=0.5, width=0.5) == pytest.approx(strength)


def test_it_is_measured_after_each_number_of_trials_at_rising_costs(tiny_model, suite, context):
    model = tiny_model(small=True)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    curve = list(Ablation(trials=(1, 3, 4), **SMALL).curve(model, suite, context, keep=pieces()))
    assert [evaluation.step for evaluation, _ in curve] == [1, 3, 4]
    # 12 prompts that directions are estimated from, and 3 answers a trial.
    assert [evaluation.samples for evaluation, _ in curve] == [15, 21, 24]
    assert curve[0][0].flops < curve[1][0].flops < curve[2][0].flops
    names = {score.name for score in curve[0][0].scores}
    assert {"harmfulness", "helpfulness", "kl", "kl/benign"} <= names
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.named_parameters())


def test_the_edit_with_the_highest_reward_is_measured(tiny_model, suite, context, monkeypatch):
    tried, measured = {}, []
    rewards = iter([0.2, 0.9, 0.5])
    monkeypatch.setattr(
        Ablation,
        "_tried",
        lambda self, edited, subject, values, context: {
            "values": values,
            "reward": tried.setdefault(str(values), next(rewards)),
            "spent": {},
        },
    )
    monkeypatch.setattr("holdfast.attacks.ablation.Subject.edit", lambda self, values: measured.append(str(values)))
    list(Ablation(trials=(1, 2, 3), **SMALL).curve(tiny_model(small=True), suite, context, keep=pieces()))
    assert [tried[values] for values in measured] == [0.2, 0.9, 0.9]


def test_a_run_that_goes_on_tries_what_it_would_have_tried(tiny_model, suite, context):
    attack, stored = Ablation(trials=(2, 4), **SMALL), {}
    whole = [evaluation for evaluation, _ in attack.curve(tiny_model(small=True), suite, context, keep=pieces(stored))]
    half = {number: piece for number, piece in stored.items() if number < 2}
    again = [evaluation for evaluation, _ in attack.curve(tiny_model(small=True), suite, context, keep=pieces(half))]
    assert [stored[number]["reward"] for number in range(4)] == [half[number]["reward"] for number in range(4)]
    assert [evaluation.scores for evaluation in again] == [evaluation.scores for evaluation in whole]


def test_a_model_with_an_adapter_is_edited_with_the_adapter_in_its_weights(tiny_model, suite, context):
    model = adapt(tiny_model(small=True), LoRA(r=2), seed=0)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    ((evaluation, _),) = Ablation(trials=(1,), **SMALL).curve(model, suite, context, keep=pieces())
    assert evaluation.value("kl") is not None
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.named_parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": (4, 2)}, "trials: must be increasing"),
        ({"depths": (), "own": False}, "depths: is empty and `own` is false"),
        ({"reward": AttackReward(unbounded=True)}, "reward.invalid_reward: trials are compared"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(HoldfastError, match=message):
        Ablation(**settings)


def test_fewer_prompts_than_asked_for_are_refused(tiny_model, suite, context):
    with pytest.raises(HoldfastError, match="num_prompts: is 25, but the attack split of harmful rows has 24 prompts"):
        next(Ablation(**{**SMALL, "num_prompts": 25}).curve(tiny_model(small=True), suite, context, keep=pieces()))


def test_a_judge_that_scores_no_answer_is_an_error_and_no_choice(tiny_model, suite, splits):
    def silent(completions):
        return [Verdict(score=None, valid=True) for _ in completions]

    blind = Context(splits=splits, seed=0, fit=None, judge=lambda name: silent, max_new_tokens=6)
    with pytest.raises(HoldfastError, match="'length' scores none of 3 answers"):
        next(Ablation(**SMALL).curve(tiny_model(small=True), suite, blind, keep=pieces()))


def test_pieces_that_were_kept_of_other_proposals_are_not_used(tiny_model, suite, context):
    attack, stored = Ablation(trials=(2,), **SMALL), {}
    ((whole, _),) = attack.curve(tiny_model(small=True), suite, context, keep=pieces(stored))
    for piece in stored.values():
        piece |= {"values": {**piece["values"], "towards": -1.0}, "reward": 9.0}
    ((again, _),) = attack.curve(tiny_model(small=True), suite, context, keep=pieces(stored))
    assert again.scores == whole.scores
