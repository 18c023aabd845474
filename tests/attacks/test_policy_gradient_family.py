"""PPO, REINFORCE++ and the variants of GRPO: what their settings do to a run."""

from dataclasses import replace

import pytest
import torch

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive.warm_start import WarmStart
from holdfast.attacks.policy_gradient import DAPO, GRPO, PPO, RLOO, DrGRPO, ReinforcePlusPlus
from holdfast.defenses.offline.reward_neutralization import RewardNeutralization
from holdfast.defenses.offline.tar import TAR
from holdfast.defenses.offline.token_buncher import TokenBuncher
from holdfast.losses.credit import whiten
from holdfast.losses.policy_gradient import group_advantages
from holdfast.methods.settings import plain, typed
from holdfast.network.critic import PREFIX, Critic
from holdfast.network.models import LoRA
from holdfast.records import HoldfastError, Verdict
from holdfast.rl.experience import Rollout
from holdfast.rl.policy import GUARD_PATIENCE, Policy, advantages
from holdfast.rl.rewards import AttackReward
from holdfast.sandbox import grammar
from holdfast.training.fit import fit
from holdfast.training.plan import Diverged, Optim, Progress

FAMILY = [GRPO, DrGRPO, DAPO, RLOO, ReinforcePlusPlus, PPO]


@pytest.fixture
def plan(wavering_model, make_context, quick):
    """`plan(settings, seed=0)`: a short attack on the wavering model."""

    def build(settings, *, steps=3, seed=0, **policy):
        short = quick(settings, steps=steps, batch=4)
        short = replace(short, policy=replace(short.policy, **policy))
        return short.plan(wavering_model(), make_context(seed=seed))

    return build


def metrics_of(built):
    metrics = []
    hook = lambda progress: metrics.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
    fitted = fit(replace(built, hooks=(*built.hooks, hook)))
    return fitted, metrics


def test_each_row_of_the_family_is_in_the_table():
    listed = {row.target.rpartition(":")[2] for row in ATTACKS.values() if "policy_gradient" in row.target}
    assert listed == {cls.__name__ for cls in FAMILY}


def test_the_adaptive_weight_of_the_kl_follows_a_weighted_mean_where_another_drew_the_answers():
    policy = Policy(kl_coef=0.1, kl_in="reward", kl_target=1.0, kl_horizon=10)
    kl, mask = torch.tensor([[0.5, 0.5], [40.0, 40.0]]), torch.ones(2, 2)
    rollout = Rollout(rewards=torch.tensor([0.0, 1.0]), group_size=2, mask=mask, kl=kl)
    moved = []
    for weights in (None, torch.tensor([[2.0], [0.0]])):
        state = {"kl_coef": 0.1}
        advantages(policy, state)(replace(rollout, weights=weights))
        moved.append(state["kl_coef"])
    assert moved == pytest.approx([0.1 * (1 + 0.2 * 2 / 10), 0.1])


@pytest.mark.slow
def test_several_passes_and_minibatches_use_every_answer_once_a_pass(plan):
    built = plan(PPO(), steps=4, passes=2, minibatches=2, group_size=2)
    rows = built.data[:4]
    rollouts = [[tuple(map(tuple, b["input_ids"].tolist())) for b in built.batches([rows], s)]
                for s in range(8)]  # fmt: skip
    for start in (0, 4):
        first, second = (sorted(x for (part,) in rollouts[i : i + 2] for x in part) for i in (start, start + 2))
        assert first == second
        assert len(first) == 8
        assert all(len(part) == 4 for (part,) in rollouts[start : start + 4])
    assert sorted(x for (part,) in rollouts[:2] for x in part) != sorted(x for (part,) in rollouts[4:6] for x in part)


@pytest.mark.slow
def test_what_a_rollout_costs_is_counted_once_however_often_it_is_used(plan):
    one, four = (fit(plan(PPO(), steps=4, passes=passes)) for passes in (1, 4))
    assert four.samples == one.samples
    assert four.tokens < one.tokens


@pytest.fixture(params=[("head", None), ("separate", None), ("head", LoRA(r=4))], ids=["head", "separate", "LoRA"])
def ppo(request, wavering_model, make_context, quick):
    """`ppo(*hooks)`: eight steps of PPO over four rollouts, with one kind of critic."""
    kind, adapter = request.param

    def build(*hooks):
        settings = replace(quick(PPO(), steps=8), adapter=adapter)
        policy = replace(settings.policy, critic=Critic(kind=kind), passes=2, kl_horizon=100)
        made = replace(settings, policy=policy).plan(wavering_model(), make_context())
        return replace(made, hooks=(*made.hooks, *hooks))

    return build


@pytest.mark.slow
def test_ppo_goes_on_from_a_checkpoint_with_its_critic_and_its_kl_weight(ppo, weights, tmp_path):
    def kill(progress):
        if progress.step == 6:
            raise KeyboardInterrupt

    def critic_of(built):
        return torch.cat([p.flatten() for n, p in built.model.network.named_parameters() if n.startswith(PREFIX)])

    whole = ppo()
    fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(ppo(kill), folder=tmp_path, checkpoint_every=4)
    resumed = ppo()
    assert resumed.state["kl_coef"] == 0.2
    fit(resumed, folder=tmp_path, checkpoint_every=4)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert torch.equal(critic_of(resumed), critic_of(whole))
    assert resumed.state == whole.state
    assert whole.state["kl_coef"] != 0.2


@pytest.mark.slow
def test_a_critic_learns_what_answers_are_worth(plan):
    critic = Critic(kind="separate", coef=1.0, clip=None)
    built = plan(PPO(), steps=40, kl_coef=0.0, kl_target=None, ratio_guard=None, critic=critic)
    _, metrics = metrics_of(replace(built, optim=replace(built.optim, learning_rate=1e-3)))
    losses = [step["value_loss"] for step in metrics]
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])


@pytest.mark.slow
def test_a_critic_with_a_learning_rate_of_its_own_learns_at_that_rate_and_the_policy_at_its_own(plan):
    built = plan(PPO(), critic=Critic(kind="separate", learning_rate=0.0, coef=1.0))
    critic = {n: p.detach().clone() for n, p in built.model.network.named_parameters() if n.startswith(PREFIX)}
    policy = {n: p.detach().clone() for n, p in built.model.network.named_parameters() if not n.startswith(PREFIX)}
    network = fit(built).model.network
    assert all(torch.equal(dict(network.named_parameters())[name], weight) for name, weight in critic.items())
    assert any(not torch.equal(dict(network.named_parameters())[name], weight) for name, weight in policy.items())


@pytest.mark.slow
def test_a_run_whose_ratio_keeps_exploding_ends_as_diverged_with_its_step(plan):
    built = plan(PPO(), steps=2 * GUARD_PATIENCE, ratio_guard=1e-6)
    with pytest.raises(Diverged, match=f"exploded at step {GUARD_PATIENCE}"):
        fit(built)


def test_a_single_explosion_is_left_out_and_the_run_goes_on(plan):
    built = plan(PPO())
    (hook,) = built.hooks
    for step, guarded in enumerate([1.0] * (GUARD_PATIENCE - 1) + [0.0] + [1.0] * (GUARD_PATIENCE - 1)):
        at = Progress(phase="step", step=step, max_steps=99, model=built.model, metrics={"guarded": guarded})
        assert hook(at) is None


ROLLOUT = Rollout(
    rewards=torch.tensor([1.0, 0.0, 0.5, 0.5]),
    group_size=2,
    mask=torch.tensor([[0.0, 1, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]),
    kl=torch.tensor([[9.0, 0.1, 0.2], [9, 0.3, 9], [0.1, 0.1, 0.1], [9, 9, 0.5]]),
)


def test_a_kl_penalty_in_the_reward_is_summed_over_an_answer_before_groups_are_compared():
    policy = Policy(group_size=2, kl_coef=0.1, kl_in="reward", kl_estimator="k1", scale="none")
    paid = torch.tensor([1.0 - 0.03, 0.0 - 0.03, 0.5 - 0.03, 0.5 - 0.05])
    expected = group_advantages(paid, 2, scale="none")
    torch.testing.assert_close(advantages(policy, {})(ROLLOUT)["advantages"], expected)


def test_reinforce_plus_plus_whitens_each_tokens_reward_to_come_over_the_batch():
    policy = ReinforcePlusPlus().policy
    to_come = torch.zeros(4, 3)
    for i in range(4):
        last = int(ROLLOUT.mask[i].nonzero().max())
        for t in range(3):
            if ROLLOUT.mask[i, t]:
                penalty = sum(float(ROLLOUT.kl[i, u]) for u in range(t, last + 1))
                to_come[i, t] = float(ROLLOUT.rewards[i]) - policy.kl_coef * penalty
    expected = whiten(to_come, ROLLOUT.mask) * ROLLOUT.mask
    torch.testing.assert_close(advantages(policy, {})(ROLLOUT)["advantages"], expected)


def test_an_answer_without_a_reward_moves_neither_policy_nor_critic():
    values = torch.randn(4, 3)
    unpaid = replace(ROLLOUT, rewards=torch.tensor([1.0, 0.0, float("nan"), 0.5]), values=values)
    tensors = advantages(PPO().policy, {})(unpaid)
    assert (tensors["advantages"][2] == 0).all()
    assert torch.equal(tensors["returns"][2], values[2])
    assert tensors["advantages"].isfinite().all()


@pytest.mark.parametrize(
    "bad",
    [
        {"baseline": "critic"},
        {"critic": Critic()},
        {"kl_target": 6.0},
        {"kl_target": 6.0, "kl_coef": 0.1},
        {"kl_estimator": "full", "kl_coef": 0.1},
        {"passes": 0},
        {"minibatches": 0},
        {"ratio": "sequence", "baseline": "batch"},
        {"ratio": "sequence", "baseline": "critic", "critic": Critic()},
        {"ratio": "sequence", "dual_clip": 3.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(bad):
    with pytest.raises(HoldfastError):
        Policy(**bad)


SMALL = Optim(max_steps=4, per_device_train_batch_size=3)


@pytest.mark.parametrize(
    "made",
    [
        *(lambda m=m: m(policy=replace(m().policy, minibatches=4), optim=SMALL) for m in (PPO, TokenBuncher)),
        lambda: RewardNeutralization(policy=Policy(minibatches=4), optim=SMALL),
        lambda: WarmStart(attack="reinforce++", optim=SMALL),
        lambda: TAR(adversaries={"reinforce++": {}}, inner=SMALL),
    ],
)
def test_fewer_prompts_than_minibatches_are_refused_before_anything_runs(made):
    with pytest.raises(HoldfastError, match=r"policy\.minibatches: is 4, and a batch of 3 prompts"):
        made()


def test_a_preset_brings_its_settings_and_what_is_given_beside_it_wins():
    settings = typed(PPO, {"preset": "tokenbuncher", "policy": {"minibatches": 2}}, "ppo")
    assert (settings.policy.critic.kind, settings.policy.critic.learning_rate) == ("separate", 1e-5)
    assert (settings.policy.minibatches, settings.policy.ratio_guard) == (2, None)
    with pytest.raises(HoldfastError, match=r"unknown preset 'tokenbunch' \(did you mean 'tokenbuncher'"):
        typed(PPO, {"preset": "tokenbunch"}, "ppo")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "full"])
def test_every_estimator_of_the_kl_can_be_paid_in_the_reward(plan, estimator):
    fitted, metrics = metrics_of(plan(PPO(), kl_estimator=estimator))
    assert fitted.steps == 3
    assert abs(metrics[0]["sequence_kl"]) < 1e-4  # the policy has not moved yet


def test_an_attack_with_a_capability_mixes_its_prompts_in_and_pays_them_by_their_own_judge(
    wavering_model, make_context, splits, quick
):
    exam = {name: grammar.exams(name, 30, seed=0)["exam"] for name in ("attack", "test")}
    asked = []

    def judge(name):
        def known(completions):
            asked.extend((name, done.example.domain) for done in completions)
            return [Verdict(score=0.5, refused=False) for _ in completions]

        return known

    context = replace(make_context(), splits=replace(splits, tasks={"exam": exam}), judge=judge)
    paid = AttackReward(judge="keyword", capability_judge="exam")
    attack = replace(quick(GRPO(), steps=2, batch=6), num_prompts=None, reward=paid, capability="exam")
    built = attack.plan(wavering_model(), context)
    domains = [row.domain for row in built.data]
    assert domains.count("exam") == pytest.approx(2 * (len(domains) - domains.count("exam")), abs=2)
    fit(built)
    assert {name for name, domain in asked if domain == "exam"} == {"exam"}
    assert {name for name, domain in asked if domain != "exam"} == {"keyword"}


@pytest.mark.parametrize(
    "bad",
    [
        {"capability": "exam"},
        {"reward": {"capability_judge": "exam"}},
        {"capability": "exam", "task": "benign", "reward": {"capability_judge": "exam"}},
    ],
)
def test_a_capability_without_its_judge_or_beside_a_customer_s_task_is_refused(bad):
    with pytest.raises(HoldfastError, match="capability"):
        typed(GRPO, bad, "grpo")


def test_settings_without_a_capability_are_those_of_earlier_cells():
    assert not {"capability", "capability_share"} & set(plain(GRPO()))
    assert "capability_judge" not in plain(GRPO())["reward"]
