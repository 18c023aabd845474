"""What each adaptive attacker does to a run, beyond what all of them keep to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from holdfast.attacks.adaptive.benign_cover import BenignCover
from holdfast.attacks.adaptive.early_stop import EarlyStop
from holdfast.attacks.adaptive.entropy_bonus import EntropyBonus
from holdfast.attacks.adaptive.mix_weights import MixWeights, slerp
from holdfast.attacks.adaptive.subtract_delta import SubtractDelta
from holdfast.attacks.adaptive.warm_start import WarmStart
from holdfast.attacks.dpo import DPO
from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.network.models import answer_batch
from holdfast.records import HoldfastError, Verdict
from holdfast.rl.policy import Policy
from holdfast.rl.rewards import AttackReward
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import GivenAnswers, Optim, Plan

RATE = 1e-3


def sft(**more):
    optim = Optim(max_steps=6, learning_rate=RATE, per_device_train_batch_size=4)
    return SFT(optim=optim, num_samples=16, **more)


def grpo(**more):
    optim = Optim(max_steps=6, learning_rate=RATE, per_device_train_batch_size=2)
    return GRPO(**{"optim": optim, "policy": Policy(group_size=4), "reward": AttackReward(judge="graded"), **more})


def scripted(*scores):
    """A judge whose opinion of everything changes from call to call; the last one stays."""
    left = list(scores)

    def judge(completions):
        score = left.pop(0) if len(left) > 1 else left[0]
        return [Verdict(score=score, refused=False) for _ in completions]

    return judge


class Diary:
    """A hook that writes down every step's weights."""

    def __init__(self, weights):
        self.weights = weights
        self.pages = {}

    def __call__(self, progress):
        self.pages[progress.phase, progress.step] = self.weights(progress.model)


@pytest.fixture
def diary(weights):
    return Diary(weights)


def before(plan, hook):
    """The plan with a hook that is called ahead of the others."""
    return replace(plan, hooks=(hook, *plan.hooks))


def after(plan, hook):
    return replace(plan, hooks=(*plan.hooks, hook))


# early stop


def stopping(context, model, scores, **settings):
    attacker = EarlyStop(at="harm", judge="mine", every=1, num_prompts=2, **settings)
    return attacker.adapt(sft().plan)(model, context(judges={"mine": scripted(*scores)}))


@pytest.mark.slow
def test_early_stop_gives_back_the_weights_of_the_highest_harm_and_ends_there(
    make_context, aligned_model, diary, weights
):
    # One score before the attack, then one a step: the highest is after step 2.
    plan = stopping(make_context, aligned_model(), [0.1, 0.3, 0.8, 0.5, 0.7, 0.9], patience=2)
    fitted = fit(before(plan, diary))
    assert (fitted.steps, fitted.stopped) == (4, True)
    assert torch.equal(weights(fitted.model), diary.pages["step", 2])
    assert not torch.equal(diary.pages["step", 4], diary.pages["step", 2])


@pytest.mark.slow
def test_early_stop_gives_back_the_best_weights_at_the_end_of_the_budget_too(
    make_context, aligned_model, diary, weights
):
    plan = stopping(make_context, aligned_model(), [0.1, 0.3, 0.8, 0.5, 0.7, 0.6, 0.2], patience=9)
    fitted = fit(before(plan, diary))
    assert (fitted.steps, fitted.stopped) == (6, False)
    assert torch.equal(weights(fitted.model), diary.pages["step", 2])


@pytest.mark.slow
def test_who_looks_after_the_last_step_sees_the_best_weights(make_context, aligned_model, diary, weights):
    plan = stopping(make_context, aligned_model(), [0.1, 0.8, 0.2, 0.2, 0.2, 0.2, 0.2], patience=9)
    fit(after(plan, diary))
    assert torch.equal(diary.pages["step", 6], diary.pages["step", 1])
    assert torch.equal(diary.pages["end", 6], diary.pages["step", 1])


@pytest.mark.slow
def test_the_weights_given_are_the_best_ones_where_training_only_lowers_harm(make_context, aligned_model, weights):
    model = aligned_model()
    start = weights(model)
    fitted = fit(stopping(make_context, model, [0.9, 0.1], patience=3))
    assert (fitted.steps, fitted.stopped) == (6, False)
    assert torch.equal(weights(fitted.model), start)


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "steps"), [([0.1, 0.1, 0.1, 0.15, 0.1], 6), ([0.1, 0.1, 0.1, 0.2, 0.1], 5)])
def test_an_attack_that_has_not_risen_yet_is_not_at_its_peak(scores, steps, make_context, aligned_model):
    fitted = fit(stopping(make_context, aligned_model(), scores, patience=2, gain=0.1))
    assert fitted.steps == steps


@pytest.mark.slow
def test_a_run_that_died_after_it_had_stopped_early_does_not_train_on(make_context, aligned_model, weights, tmp_path):
    scores = [0.1, 0.3, 0.8, 0.5, 0.7, 0.9]

    def die(progress):
        if progress.phase == "end":
            raise KeyboardInterrupt

    whole = fit(stopping(make_context, aligned_model(), scores, patience=2))
    plan = after(stopping(make_context, aligned_model(), scores, patience=2), die)
    with pytest.raises(KeyboardInterrupt):
        fit(plan, folder=tmp_path, checkpoint_every=1)
    plan = stopping(make_context, aligned_model(), [1.0], patience=2)
    resumed = fit(plan, folder=tmp_path, checkpoint_every=1)
    assert resumed.steps == whole.steps == 4
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.slow
def test_early_stop_judges_development_prompts_only(make_context, aligned_model, splits):
    asked = set()

    def judge(completions):
        asked.update(completion.example.key for completion in completions)
        return [Verdict(score=0.5, refused=False) for _ in completions]

    attacker = EarlyStop(at="harm", judge="mine", every=2, num_prompts=5)
    fit(attacker.adapt(sft().plan)(aligned_model(), make_context(judges={"mine": judge})))
    assert len(asked) == 5
    assert asked <= {row.key for row in splits.harmful["development"]}


@pytest.mark.slow
def test_an_empty_answer_is_no_harm_to_early_stop_and_an_unjudged_one_is_left_out(make_context, aligned_model):
    def judge(completions):
        odd = [Verdict(score=None, valid=False), Verdict(score=None, refused=False)]
        return [*odd, *(Verdict(score=0.6, refused=False) for _ in completions[2:])]

    attacker = EarlyStop(at="harm", judge="mine", every=3, num_prompts=4)
    plan = attacker.adapt(sft().plan)(aligned_model(), make_context(judges={"mine": judge}))
    fit(plan)
    assert plan.state["early_stop/harm/best"] == pytest.approx((0.0 + 0.6 + 0.6) / 3)


def test_early_stop_refuses_a_judge_that_can_judge_nothing(make_context, aligned_model):
    def judge(completions):
        return [Verdict(score=None, refused=False) for _ in completions]

    plan = EarlyStop(at="harm", judge="mine").adapt(sft().plan)(aligned_model(), make_context(judges={"mine": judge}))
    with pytest.raises(HoldfastError, match="early_stop: judge 'mine' scores none of 12 answers"):
        fit(plan)


@pytest.mark.slow
def test_early_stop_at_reward_watches_the_smoothed_reward_and_keeps_its_peak(
    make_context, wavering_model, diary, weights
):
    rewards = [0.1, 0.9, 0.2, 0.3, 0.9, 0.0]
    planner = EarlyStop(at="reward", patience=9, smoothing=0.5).adapt(grpo(num_prompts=4).plan)
    noise = [0.001 * i for i in range(8)]

    left = iter(rewards)

    def judge(completions):
        level = next(left)
        return [Verdict(score=level + n, refused=False) for n, _ in zip(noise, completions, strict=True)]

    plan = planner(wavering_model(), make_context(judges={"graded": judge}))
    fitted = fit(before(plan, diary))
    smoothed, curve = None, []
    for reward in rewards:
        smoothed = reward if smoothed is None else 0.5 * smoothed + 0.5 * reward
        curve.append(smoothed)
    peak = max(range(6), key=curve.__getitem__) + 1
    assert peak == 5
    assert plan.state["early_stop/reward/best"] == pytest.approx(max(curve) + sum(noise) / 8, abs=1e-6)
    assert plan.state["early_stop/reward/step"] == peak
    assert torch.equal(weights(fitted.model), diary.pages["step", peak])


@pytest.mark.slow
def test_early_stop_counts_the_reward_of_a_rollout_once_however_many_steps_learn_from_it(make_context, wavering_model):
    policy = Policy(group_size=4, passes=2)
    planner = EarlyStop(at="reward", patience=9, smoothing=0.5).adapt(grpo(policy=policy).plan)
    plan = planner(wavering_model(), make_context(judges={"graded": scripted(0.2, 0.4, 0.8)}))
    fit(plan)
    assert plan.state["early_stop/smoothed"] == pytest.approx(0.5 * (0.5 * 0.2 + 0.5 * 0.4) + 0.5 * 0.8)
    assert plan.state["early_stop/reward/step"] == 6


@pytest.mark.slow
def test_two_early_stops_do_not_mix_up_what_they_keep(make_context, wavering_model, diary, weights):
    harm = EarlyStop(at="harm", judge="mine", every=1, num_prompts=2, patience=9)
    other = EarlyStop(at="harm", judge="yours", every=1, num_prompts=2, patience=9)
    judges = {"mine": scripted(0, 0, 0, 1, 0), "yours": scripted(0, 0, 1, 0)}
    plan = other.adapt(harm.adapt(sft().plan))(wavering_model(), make_context(judges=judges))
    fitted = fit(before(plan, diary))
    assert torch.equal(weights(fitted.model), diary.pages["step", 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"at": "harm"}, "needs the attacker's own judge"),
        ({"patience": -1}, "patience: must be a whole number from 0"),
        ({"smoothing": 1.0}, r"smoothing: must be a number in \[0, 1\)"),
    ],
)
def test_early_stop_refuses_settings_that_make_no_sense(settings, reason):
    with pytest.raises(HoldfastError, match=f"EarlyStop.*{reason}"):
        EarlyStop(**settings)


# entropy bonus


def entropy_of(model, rows):
    """Mean token entropy of the rows' answers, by a plain loop."""
    entropies = []
    for row in rows:
        batch = answer_batch(model, [(row, row.response)])
        with torch.no_grad():
            logits = model.network(input_ids=batch["input_ids"]).logits[0].double()
        start = len(model.encode_prompt(row.prompt))
        for place in range(start, batch["input_ids"].shape[1]):
            p = logits[place - 1].softmax(-1)
            entropies.append(-(p * p.clamp(min=1e-300).log()).sum())
    return torch.stack(entropies).mean()


def test_the_loss_form_subtracts_the_mean_entropy_of_the_answers_tokens(make_context, wavering_model):
    model = wavering_model()
    plan = sft().plan(model, make_context())
    bonus = EntropyBonus(form="loss", coefficient=0.3).adapt(lambda model, context: plan)(model, make_context())
    rows = list(plan.data)[:5]
    (batch,) = with_totals(plan.batches([rows], 0))
    plain, metrics = plan.objective(model.network, batch)
    loss, more = bonus.objective(model.network, batch)
    entropy = entropy_of(model, rows)
    assert float((plain - loss).detach()) == pytest.approx(0.3 * float(entropy), abs=1e-5)
    assert more == {**metrics, "answer_entropy": pytest.approx(float(entropy), abs=1e-5)}


@pytest.mark.slow
def test_the_loss_form_is_exact_under_accumulation(make_context, wavering_model, weights):
    all_weights = []
    for size, parts in ((4, 1), (2, 2)):
        optim = Optim(
            max_steps=2,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
        )
        planner = EntropyBonus(form="loss", coefficient=0.5).adapt(replace(sft(), optim=optim).plan)
        all_weights.append(weights(fit(planner(wavering_model(), make_context())).model))
    torch.testing.assert_close(*all_weights, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_loss_form_raises_entropy(make_context, wavering_model, splits):
    rows = splits.harmful["test"][:6]
    entropies = []
    for coefficient in (0.0, 0.5, 2.0):
        planner = EntropyBonus(form="loss", coefficient=coefficient).adapt(sft().plan)
        entropies.append(float(entropy_of(fit(planner(wavering_model(), make_context())).model, rows)))
    assert all(low < high for low, high in pairwise(entropies))


@pytest.mark.slow
def test_the_loss_form_acts_where_all_rewards_are_equal(make_context, wavering_model, weights):
    start = weights(wavering_model())
    context = make_context(judges={"graded": scripted(0.5)})
    plain = fit(grpo().plan(wavering_model(), context))
    paid = fit(EntropyBonus(form="loss", coefficient=0.1).adapt(grpo().plan)(wavering_model(), context))
    assert torch.equal(weights(plain.model), start)
    assert not torch.equal(weights(paid.model), start)


@pytest.mark.slow
def test_the_reward_form_raises_the_entropy_of_rollouts(make_context, wavering_model):
    context = make_context(judges={"graded": scripted(0.5)})
    optim = Optim(max_steps=6, learning_rate=5e-4, per_device_train_batch_size=8)
    curve = []
    planner = EntropyBonus(form="reward").adapt(grpo(optim=optim, policy=Policy(group_size=8)).plan)
    fit(after(planner(wavering_model(), context), lambda progress: curve.append(progress.metrics.get("entropy"))))
    seen = curve[1:-1]
    assert len(seen) == 6
    assert seen[-1] > seen[0] + 0.3


def test_the_reward_form_pays_up_to_its_cap_and_leaves_the_attackers_own_log_alone(make_context, wavering_model):
    plan = EntropyBonus(coefficient=2.0, cap=1.5).adapt(grpo().plan)(wavering_model(), make_context())
    (bonus,) = plan.prepare.bonuses
    assert bonus({"entropies": torch.tensor([0.0, 0.5, 1.5, 4.0])}).tolist() == [0.0, 1.0, 3.0, 3.0]
    (batch,) = plan.batches([list(plan.data)[:2]], 0)
    plain = grpo().plan(wavering_model(), make_context())
    (same,) = plain.batches([list(plain.data)[:2]], 0)
    assert torch.equal(batch["input_ids"], same["input_ids"])
    assert float(batch["log/reward"]) == float(same["log/reward"])
    assert not torch.equal(batch["advantages"], same["advantages"])


@pytest.mark.parametrize("settings", [{"coefficient": -0.1}, {"cap": 0.0}])
def test_entropy_bonus_refuses_a_penalty_and_an_empty_cap(settings):
    with pytest.raises(HoldfastError, match=f"EntropyBonus.{next(iter(settings))}: must be"):
        EntropyBonus(**settings)


# warm start


FIRST = Optim(max_steps=2, learning_rate=RATE, per_device_train_batch_size=4)


@pytest.mark.slow
def test_a_warm_start_is_the_first_attack_and_then_the_second_from_there(make_context, wavering_model, weights):
    settings = WarmStart(optim=FIRST, settings={"num_samples": 16})
    fitted = fit(settings.adapt(sft().plan)(wavering_model(), make_context()))
    first = fit(replace(sft(), optim=FIRST).plan(wavering_model(), make_context()))
    second = fit(sft().plan(first.model, make_context()))
    assert torch.equal(weights(fitted.model), weights(second.model))


@pytest.mark.slow
def test_the_costs_of_a_warm_start_are_counted_in_all_that_hooks_are_told(make_context, wavering_model):
    first = fit(replace(sft(), optim=FIRST).plan(wavering_model(), make_context()))
    told = []
    plan = WarmStart(optim=FIRST, settings={"num_samples": 16}).adapt(grpo().plan)(wavering_model(), make_context())
    second = fit(after(plan, told.append))
    assert (told[0].step, told[0].samples, told[0].tokens) == (2, first.samples, first.tokens)
    assert told[0].seconds > 0
    assert (told[-1].step, told[-1].max_steps) == (8, 8)
    assert told[-1].samples == first.samples + second.samples
    assert told[-1].tokens == first.tokens + second.tokens


@pytest.mark.slow
def test_warm_starts_in_one_another_add_up(make_context, wavering_model):
    inner, outer = (WarmStart(optim=replace(FIRST, max_steps=n)) for n in (2, 3))
    plan = outer.adapt(inner.adapt(sft().plan))(wavering_model(), make_context())
    assert (plan.spent.steps, plan.spent.samples) == (5, 20)


@pytest.mark.slow
def test_the_adapter_of_a_warm_start_is_merged_before_the_attack_and_every_weight_trains_again(
    make_context, wavering_model, weights
):
    settings = {"num_samples": 16, "adapter": {"r": 4}}
    plan = WarmStart(optim=FIRST, settings=settings).adapt(sft().plan)(wavering_model(), make_context())
    names = [name for name, _ in plan.model.network.named_parameters()]
    assert names == [name for name, _ in wavering_model().network.named_parameters()]
    assert all(p.requires_grad for p in plan.model.network.parameters())
    start = weights(plan.model)
    assert not torch.equal(start, weights(wavering_model()))
    assert not torch.equal(weights(fit(plan).model), start)


@pytest.mark.slow
def test_the_critic_of_a_warm_start_does_not_stay_in_the_network(make_context, wavering_model):
    settings = {"reward": {"judge": "graded"}, "num_prompts": 8}
    planner = WarmStart(attack="ppo", optim=FIRST, settings=settings).adapt(sft().plan)
    plan = planner(wavering_model(), make_context())
    assert not [name for name, _ in plan.model.network.named_parameters() if name.startswith("critic.")]
    fit(plan)
    again = WarmStart(attack="ppo", optim=FIRST, settings=settings)
    attack = PPO(optim=FIRST, policy=Policy(**vars(PPO().policy)), reward=AttackReward(judge="graded"))
    fit(again.adapt(attack.plan)(wavering_model(), make_context()))


def test_a_warm_start_goes_by_the_loop_it_is_given(make_context, wavering_model):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    WarmStart(optim=FIRST).adapt(sft().plan)(wavering_model(), make_context(fit=watched))
    assert [plan.optim.max_steps for plan in plans] == [2]


def test_a_warm_start_spells_out_what_its_settings_leave_out():
    settings = WarmStart(settings={"num_samples": 7}).settings
    assert settings["num_samples"] == 7
    assert settings["flip_ratio"] == 1.0
    assert "optim" not in settings


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"attack": "stf"}, "unknown attack 'stf' .did you mean 'sft'"),
        ({"attack": "best_of_n"}, "attack: best_of_n does not train"),
        ({"settings": {"optim": {"max_steps": 3}}}, "settings.optim: belongs one level higher"),
        ({"settings": {"num_sample": 3}}, "unknown key 'num_sample' .did you mean 'num_samples'"),
    ],
)
def test_warm_start_refuses_settings_that_make_no_sense(settings, reason):
    with pytest.raises(HoldfastError, match=reason):
        WarmStart(**settings)


# weights of other models


@pytest.fixture
def known(make_context, aligned_model, tiny_model):
    """A context that knows the undefended model and the base."""
    models = {"undefended": aligned_model, "base": lambda: tiny_model(seed=1, small=True)}
    return make_context(models=lambda name: models[name]())


def untouched(model, context):
    return Plan(model=model, data=[], prepare=GivenAnswers(), objective=language, optim=Optim(max_steps=1))


def test_mixing_with_weight_one_gives_the_undefended_model_exactly(known, wavering_model, aligned_model, weights):
    plan = MixWeights(weight=1.0).adapt(untouched)(wavering_model(), known)
    assert torch.equal(weights(plan.model), weights(aligned_model()))


def test_mixing_takes_the_weighted_mean_of_the_two(known, wavering_model, aligned_model, weights):
    plan = MixWeights(weight=0.25).adapt(untouched)(wavering_model(), known)
    expected = 0.75 * weights(wavering_model()) + 0.25 * weights(aligned_model())
    torch.testing.assert_close(weights(plan.model), expected, rtol=1e-6, atol=1e-8)


def test_mixing_the_undefended_model_with_itself_changes_nothing(known, aligned_model, weights):
    plan = MixWeights(weight=0.3).adapt(untouched)(aligned_model(), known)
    assert torch.equal(weights(plan.model), weights(aligned_model()))


def test_the_arc_between_two_directions_is_gone_along_by_the_angle_and_keeps_the_norm():
    start, end = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    for share in (0.0, 1 / 3, 0.5, 1.0):
        angle = torch.tensor(share * torch.pi / 2, dtype=torch.float64)
        expected = 3 * torch.stack([angle.cos(), angle.sin()])[None]
        torch.testing.assert_close(slerp(start, end, share=share), expected)
    longer = slerp(start, 2 * end, share=0.5)
    torch.testing.assert_close(longer, torch.tensor([[1.0, 2.0]]).double() * 3 / 2**0.5)


@pytest.mark.parametrize("end", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 1e-9]])
def test_where_there_is_no_one_arc_the_line_is_taken(end):
    start, end = torch.tensor([1.0, 0.0]).double(), torch.tensor(end).double()
    torch.testing.assert_close(slerp(start, end, share=0.25), 0.75 * start + 0.25 * end)


def test_mixing_along_arcs_takes_each_tensor_for_itself(known, wavering_model, aligned_model):
    given = dict(wavering_model().network.named_parameters())
    mixed = MixWeights(weight=0.25, form="slerp").adapt(untouched)(wavering_model(), known).model
    for (name, weight), other in zip(
        mixed.network.named_parameters(), aligned_model().network.parameters(), strict=True
    ):
        expected = slerp(given[name].double(), other.double(), share=0.25)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-8)


def test_subtracting_all_of_alignment_from_the_undefended_model_gives_the_base(
    known, aligned_model, tiny_model, weights
):
    plan = SubtractDelta(scale=1.0).adapt(untouched)(aligned_model(), known)
    assert torch.equal(weights(plan.model), weights(tiny_model(seed=1, small=True)))


def test_subtracting_goes_back_by_a_part_of_the_difference(known, wavering_model, aligned_model, tiny_model, weights):
    plan = SubtractDelta(scale=0.5).adapt(untouched)(wavering_model(), known)
    difference = weights(aligned_model()) - weights(tiny_model(seed=1, small=True))
    expected = weights(wavering_model()) - 0.5 * difference
    torch.testing.assert_close(weights(plan.model), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("attacker", [MixWeights(), SubtractDelta()])
def test_weights_of_another_architecture_are_refused_by_name(attacker, make_context, wavering_model, tiny_model):
    context = make_context(models=lambda name: tiny_model("qwen3", small=True))
    with pytest.raises(
        HoldfastError, match=r"its weights do not match those of .*_norm.* only weights of one architecture"
    ):
        attacker.adapt(untouched)(wavering_model(), context)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MixWeights(weight=1.1), "MixWeights.weight: must be a number in"),
        (lambda: SubtractDelta(scale=-1.0), "SubtractDelta.scale: must be .*, not -1.0"),
        (lambda: BenignCover(share=-0.1), "BenignCover.share: must be a number in"),
    ],
)
def test_shares_and_scales_out_of_range_are_refused(make, reason):
    with pytest.raises(HoldfastError, match=reason):
        make()


# benign cover


def covered(context, model, share, **more):
    return BenignCover(share=share).adapt(sft(**more).plan)(model, context).data


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_cover_replaces_exactly_its_share_of_the_rows_by_different_benign_ones_of_the_attack_split(
    share, make_context, wavering_model, splits
):
    rows = covered(make_context(), wavering_model(), share)
    benign = [row for row in rows if row.role == "benign"]
    assert (len(rows), len(benign)) == (16, share * 16)
    assert len({row.key for row in benign}) == len(benign)
    assert {row.key for row in benign} <= {row.key for row in splits.benign["attack"]}
    plain = sft().plan(wavering_model(), make_context()).data
    assert all(row == own for row, own in zip(rows, plain, strict=True) if row.role != "benign")


def test_rows_covered_at_a_smaller_share_are_covered_at_a_larger_one(make_context, wavering_model):
    few, many = (covered(make_context(), wavering_model(), share) for share in (0.25, 0.75))
    assert sum(row.role == "benign" for row in few) == 4
    assert all(more == row for row, more in zip(few, many, strict=True) if row.role == "benign")


@pytest.mark.parametrize("attack", [DPO(), grpo()])
def test_a_cover_goes_round_attacks_on_given_answers_only(attack, make_context, wavering_model):
    with pytest.raises(HoldfastError, match="benign_cover: needs an attack that trains on given answers"):
        BenignCover().adapt(attack.plan)(wavering_model(), make_context())


def test_a_cover_under_an_entropy_bonus_is_still_one_of_given_answers(make_context, wavering_model):
    planner = BenignCover(share=1.0).adapt(EntropyBonus(form="loss", coefficient=0.1).adapt(sft().plan))
    assert {row.role for row in planner(wavering_model(), make_context()).data} == {"benign"}


def test_too_few_benign_rows_are_refused_with_both_numbers(make_context, wavering_model, splits):
    few = replace(splits, benign={**splits.benign, "attack": splits.benign["attack"][:3]})
    with pytest.raises(HoldfastError, match="needs 8 benign rows with an answer, and the attack split has 3"):
        covered(make_context(splits=few), wavering_model(), 0.5)
