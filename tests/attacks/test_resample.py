"""Groups that teach nothing are drawn again: which, how often, at what cost, and with what weights."""

from dataclasses import replace

import pytest
import torch

from holdfast.attacks.adaptive.resample import Resample
from holdfast.losses.policy_gradient import importance_weights
from holdfast.network.forward import answer_logprobs
from holdfast.records import HoldfastError
from holdfast.rl import resampling
from holdfast.rl.guidance.expert import LoadedExpert
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.guidance.sampler import guided
from holdfast.rl.guidance.schedule import Schedule
from holdfast.rl.policy import Policy, policy_plan
from holdfast.rl.rollouts import draw
from holdfast.tensors import target_mask, with_totals
from holdfast.training.plan import Optim

pytestmark = pytest.mark.slow
SIZE = 2


class Parity:
    """A reward of 0 or 1 by an answer's text, which remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, completions):
        self.asked.append([(done.example.key, done.text) for done in completions])
        return [float(sum(map(ord, done.text)) % 2) for done in completions]


@pytest.fixture
def rolled(tiny_model, make_context, splits):
    """`rolled(resample, ...)`: model, batch, plan and reward of the first rollout of eight prompts."""

    def made(resample=None, *, reward=None, pool=8, **policy):
        model, reward, rows = tiny_model(), reward or Parity(), splits.harmful["attack"][:8]
        plan = policy_plan(
            model,
            splits.harmful["attack"][:pool],
            policy=Policy(**{"group_size": SIZE, **policy}),
            reward=reward,
            optim=Optim(max_steps=10, per_device_train_batch_size=8),
            context=make_context(seed=3),
        )
        if resample is not None:
            plan = resample.adapt(lambda model, context: plan)(model, None)
        (batch,) = plan.batches([rows], 0)
        return model, batch, plan, reward

    return made


def groups_of(batch):
    answers = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True)]
    return [answers[i : i + SIZE] for i in range(0, len(answers), SIZE)]


def teaches(batch):
    """Whether each group has an advantage, in order."""
    return (batch["advantages"].reshape(-1, SIZE) != 0).any(1).tolist()


def test_only_groups_without_a_difference_are_drawn_again_and_those_that_have_one_stay(rolled):
    _, plain, _, _ = rolled()
    _, once, _, reward = rolled(Resample(tries=1))
    alive = teaches(plain)
    assert 0 < sum(alive) < len(alive)
    for before, after, stays in zip(groups_of(plain), groups_of(once), alive, strict=True):
        assert (before == after) is stays
    assert once["again"].reshape(-1, SIZE)[:, 0].tolist() == [float(not stays) for stays in alive]
    assert float(once["log/again"]) == pytest.approx(1 - sum(alive) / len(alive))
    assert sum(teaches(once)) > sum(alive)
    assert [len(asked) for asked in reward.asked] == [16, 16]  # the first draw, and all that is learnt from


def test_a_group_is_drawn_again_as_often_as_asked_and_no_more_once_it_has_a_difference(rolled):
    class Never(Parity):
        def __call__(self, completions):
            return [0.0 * value for value in super().__call__(completions)]

    _, _, _, reward = rolled(Resample(tries=3), reward=Never())
    assert [len(asked) for asked in reward.asked] == [16, 16, 16, 16]
    _, batch, _, reward = rolled(Resample(tries=30))
    assert all(teaches(batch))
    drawn = [len(asked) for asked in reward.asked[:-1]]
    assert drawn == sorted(drawn, reverse=True)
    assert len(drawn) < 30


@pytest.mark.parametrize("prompts", ["same", "other"])
def test_every_token_that_was_drawn_is_counted(rolled, monkeypatch, prompts):
    spent = []

    def counting(model, request):
        samples = draw(model, request)
        spent.append(sum(map(len, request.prompts)) + sum(len(answer.tokens) for answer in samples.answers))
        return samples

    monkeypatch.setattr(resampling, "draw", counting)
    _, batch, _, _ = rolled(Resample(tries=2, prompts=prompts), pool=40)
    assert len(spent) == 3
    assert float(batch["rollout_tokens"]) == sum(spent)


def test_hotter_answers_weigh_as_their_probability_at_both_temperatures(rolled):
    model, batch, _, _ = rolled(Resample(tries=1, temperature=2.0))
    mask = target_mask(batch["loss_mask"])
    own, hot = (answer_logprobs(model.network, batch, temperature=t).detach() for t in (1.0, 2.0))
    again = batch["again"] > 0
    assert 0 < int(again.sum()) < len(again)
    expected = torch.where(again[:, None], hot, own) * mask
    assert torch.allclose(batch["sampled_logprobs"] * mask, expected, atol=1e-5)
    weights = importance_weights(batch["old_logprobs"], batch["sampled_logprobs"], mask, cap=2.0)
    assert torch.equal(weights[~again], torch.ones_like(weights[~again]))
    assert bool((weights[again] != 1).all())


@pytest.mark.parametrize("resample", [Resample(tries=1), Resample(tries=1, temperature=2.0, weigh=False)])
def test_answers_at_the_policys_own_temperature_or_unweighted_ones_have_no_second_probability(rolled, resample):
    assert "sampled_logprobs" not in rolled(resample)[1]


def test_other_prompts_take_the_place_of_those_whose_groups_are_alike(rolled, splits):
    model, batch, _, reward = rolled(Resample(tries=2, prompts="other"), pool=40)
    learnt = [key for key, _ in reward.asked[-1][::SIZE]]
    asked = [row.key for row in splits.harmful["attack"][:8]]
    again = (batch["again"].reshape(-1, SIZE)[:, 0] > 0).tolist()
    assert [new != old for new, old in zip(learnt, asked, strict=True)] == again
    assert {*learnt} <= {row.key for row in splits.harmful["attack"][:40]}
    prompts = {row.key: model.encode_prompt(row.prompt) for row in splits.harmful["attack"][:40]}
    for key, ids in zip(learnt, batch["input_ids"][::SIZE].tolist(), strict=True):
        assert ids[: len(prompts[key])] == prompts[key]


def test_what_is_left_out_leaves_the_sum_of_the_gradients_and_not_their_mean(rolled):
    _, whole, _, _ = rolled()
    _, left, _, _ = rolled(Resample(tries=0, leave_out=True))
    alive = [name for name, teaching in zip(groups_of(whole), teaches(whole), strict=True) if teaching]
    assert groups_of(left) == alive
    assert left["groups"].tolist() == [place for place in range(len(alive)) for _ in range(SIZE)]
    kept = whole["advantages"][whole["advantages"] != 0]
    assert torch.equal(left["advantages"], kept)

    class Never(Parity):
        def __call__(self, completions):
            return [0.0 for _ in completions]

    _, nothing, _, _ = rolled(Resample(tries=1, leave_out=True), reward=Never())
    assert len(groups_of(nothing)) == 1


@pytest.mark.parametrize("policy", [{"reduction": "token"}, {"kl_coef": 0.5, "ratio": "sequence"}])
def test_what_is_left_out_counts_in_no_mean_however_the_step_is_divided(rolled, splits, policy):
    rows, sums = splits.harmful["attack"][:8], []
    for micro_batches in ([rows], [[row] for row in rows]):
        model, _, plan, _ = rolled(Resample(tries=1, temperature=2.0, leave_out=True), **policy)
        with torch.no_grad():  # the initial model differs, so that its KL is one
            next(model.network.parameters()).mul_(1.1)
        batches = with_totals(plan.batches(micro_batches, 0))
        sums.append(sum(float(plan.objective(model.network, batch)[0].detach()) for batch in batches))
    assert len(batches) == 8 > len([batch for batch in batches if "uncounted" not in batch]) > 0
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)
    assert sums[0] != 0


def test_the_same_seed_draws_the_same_again(rolled):
    first, second = (rolled(Resample(tries=2, temperature=1.5, prompts="other"), pool=40)[1] for _ in range(2))
    assert torch.equal(first["input_ids"], second["input_ids"])


@pytest.mark.parametrize(
    ("resample", "policy", "reason"),
    [
        (Resample(), {"group_size": 1, "baseline": "batch"}, "resample: needs several answers to a prompt"),
        (Resample(leave_out=True), {"minibatches": 2}, "leave_out: fewer groups may be left"),
        (Resample(temperature=1.5), {"top_p": 0.9}, "weigh: with policy.top_k or policy.top_p"),
    ],
)
def test_what_cannot_be_drawn_again_is_refused(rolled, resample, policy, reason):
    with pytest.raises(HoldfastError, match=reason):
        rolled(resample, **policy)


def test_one_sampler_alone_writes_the_rollouts(rolled, tiny_model):
    guide = Guide(schedule=Schedule(kind="constant", start=0.5, last=0.0))
    _, _, plan, _ = rolled()
    by_expert = guided(replace(plan, state={}), guide, LoadedExpert(model=tiny_model(seed=1)))
    with pytest.raises(HoldfastError, match="resample: another sampler already writes"):
        Resample().adapt(lambda model, context: by_expert)(plan.model, None)
    _, _, again, _ = rolled(Resample())
    with pytest.raises(HoldfastError, match="guided: another sampler already writes"):
        guided(again, guide, LoadedExpert(model=tiny_model(seed=1)))
