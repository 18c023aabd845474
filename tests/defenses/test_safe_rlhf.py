"""Safe RLHF: costs in the advantages of RL, weighed by a multiplier that dual ascent moves."""

import math
from dataclasses import replace

import pytest
import torch

from holdfast.attacks.policy_gradient import GRPO, PPO, ReinforcePlusPlus
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.safe_rlhf import COSTS, MULTIPLIER, SafeRLHF
from holdfast.network.critic import Critic
from holdfast.network.models import LoRA
from holdfast.records import HoldfastError, Verdict
from holdfast.rl.experience import Paid, Rollout
from holdfast.rl.policy import Policy, advantages
from holdfast.training.fit import fit
from repeated import repeated

PPO_POLICY = Policy(
    group_size=1, baseline="critic", critic=Critic(), kl_coef=0.2, kl_in="reward", kl_estimator="k1", kl_target=6.0
)


def rollout(*, sequences=6, targets=5, group_size=3, **more):
    """A rollout of noise; answers begin and end at different places."""
    mask = torch.zeros(sequences, targets)
    for i in range(sequences):
        mask[i, i % 2 : targets - i % 3] = 1
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    cost = Paid(draw(sequences), draw(sequences, targets))
    return Rollout(
        **{
            "rewards": draw(sequences),
            "group_size": group_size,
            "mask": mask.double(),
            "kl": draw(sequences, targets),
            "values": draw(sequences, targets),
            "further": {"cost": cost},
            **more,
        }
    )


@pytest.fixture
def plan(wavering_model, make_context, quick):
    """`plan(settings, steps=3)`: a short attack on the wavering model."""

    def build(settings, *, steps=3, optim=None, **more):
        short = replace(quick(settings, steps=steps), **more)
        short = replace(short, optim=replace(short.optim, **(optim or {})))
        return short.plan(wavering_model(), make_context())

    return build


def still(**more):
    """A defense whose multiplier stays where it is."""
    return SafeRLHF(**{"unbounded": True, "multiplier_learning_rate": 0.0, **more})


def started(defense, plan):
    plan.state[MULTIPLIER], plan.state["safe_rlhf/rollouts"] = math.log(defense.multiplier), 0.0
    return plan


def metrics_of(built):
    metrics = []
    hook = lambda progress: metrics.append(progress.metrics) if progress.phase == "step" else None  # noqa: E731
    return fit(replace(built, hooks=(*built.hooks, hook))), metrics


# credit


def test_groups_of_rewards_and_of_costs_are_normalised_apart_and_then_mixed(plan):
    given, defense = rollout(kl=None, values=None), still(multiplier=0.6)
    mixed = defense.credit(advantages(Policy(), {}), started(defense, plan(GRPO())))(given)["advantages"]

    def normalised(values):
        every = []
        for start in (0, 3):
            group = values[start : start + 3].tolist()
            mean = sum(group) / 3
            deviation = math.sqrt(sum((x - mean) ** 2 for x in group) / 2)
            every += [(x - mean) / (deviation + 1e-4) for x in group]
        return every

    pairs = zip(normalised(given.rewards), normalised(given.further["cost"].rewards), strict=True)
    assert mixed.tolist() == pytest.approx([(r - 0.6 * c) / 1.6 for r, c in pairs], rel=1e-5)


def token_advantages(scores, kl, values, mask, *, lam=0.95):
    """Whitened advantages and returns of one answer after the other, from the definition, by hand."""
    every, returns = torch.zeros_like(mask), torch.zeros_like(mask)
    for i in range(len(mask)):
        places = mask[i].nonzero().flatten().tolist()
        paid = [-kl[i, t].item() for t in places]
        paid[-1] += scores[i].item()
        own = [values[i, t].item() for t in places] + [0.0]
        deltas = [paid[k] + own[k + 1] - own[k] for k in range(len(places))]
        for k, t in enumerate(places):
            every[i, t] = sum(lam ** (j - k) * deltas[j] for j in range(k, len(places)))
            returns[i, t] = every[i, t] + own[k]
    kept = every[mask > 0]
    return (every - kept.mean()) / kept.std() * mask, returns


def test_tokens_are_credited_with_both_streams_the_kl_charged_in_one_and_paid_in_the_other(plan):
    given, defense, built = rollout(group_size=1), still(multiplier=0.6), plan(PPO())
    assert built.state["kl_coef"] == 0.2
    credited = defense.credit(advantages(PPO_POLICY, built.state), started(defense, built))(given)
    cost = given.further["cost"]
    paid, returns = token_advantages(given.rewards, 0.2 * given.kl, given.values, given.mask)
    charged, cost_returns = token_advantages(cost.rewards, -0.2 * given.kl, cost.values, given.mask)
    torch.testing.assert_close(credited["advantages"], (paid - 0.6 * charged) / 1.6, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(credited["returns"] * given.mask, returns)
    torch.testing.assert_close(credited["cost/returns"] * given.mask, cost_returns)


def test_what_the_attack_adapts_moves_with_its_rewards_alone(plan):
    built, given, defense = plan(PPO()), rollout(group_size=1), still()
    alone = dict(built.state)
    advantages(PPO_POLICY, alone)(given)
    assert alone["kl_coef"] != built.state["kl_coef"]
    defense.credit(advantages(PPO_POLICY, built.state), started(defense, built))(given)
    assert built.state["kl_coef"] == alone["kl_coef"]


def test_the_reward_form_pays_the_reward_less_the_price_and_nothing_else(plan):
    given, defense = rollout(kl=None, values=None), still(multiplier=0.6, form="reward")
    own = advantages(Policy(), {})
    credited = defense.credit(own, started(defense, plan(GRPO())))(given)["advantages"]
    priced = given.rewards - 0.6 * given.further["cost"].rewards
    torch.testing.assert_close(credited, own(replace(given, rewards=priced))["advantages"])


@pytest.mark.parametrize("form", ["advantage", "reward"])
def test_an_answer_whose_cost_is_unknown_is_neither_charged_nor_spared(form, plan):
    costs = torch.tensor([0.2, float("nan"), 0.4, 0.9, 0.9, 0.9])
    rewards = torch.tensor([0.5, 0.5, 0.5, 0.1, 0.2, 0.3])
    given = rollout(rewards=rewards, kl=None, values=None, further={"cost": Paid(costs, None)})
    defense, built = still(multiplier=2.0, form=form), plan(GRPO())
    credited = defense.credit(advantages(Policy(), {}), started(defense, built))(given)["advantages"]
    assert credited.isfinite().all()
    assert credited[0] > credited[2]
    if form == "advantage":
        assert credited[1] == 0
        assert credited[0] > 0 > credited[2]
    assert built.tensors[COSTS].tolist() == costs[~costs.isnan()].tolist()


# multiplier


def test_the_multiplier_follows_the_mean_of_the_last_costs_and_waits_for_its_time(plan):
    defense = SafeRLHF(threshold=0.25, multiplier=0.5, multiplier_learning_rate=0.3, window=5, delay=2)
    built, xi, every = started(defense, plan(GRPO())), math.log(0.5), []
    charged = defense.credit(lambda given: {"advantages": given.rewards}, built)
    for step in range(8):
        costs = torch.rand(3)
        given = rollout(sequences=3, rewards=torch.zeros(3), kl=None, values=None, further={"cost": Paid(costs, None)})
        credited = charged(given)
        every += costs.tolist()
        spent = sum(every[-5:]) / len(every[-5:])
        if step >= 2:
            xi = min(xi + 0.3 * (spent - 0.25) * math.exp(xi), math.log(5.0))
        assert float(credited["log/episode_cost"]) == pytest.approx(spent, rel=1e-5)
        assert float(credited["log/multiplier"]) == pytest.approx(math.exp(xi), rel=1e-5)
        assert built.state[MULTIPLIER] == pytest.approx(xi, rel=1e-5)


def test_the_multiplier_moves_before_the_policy_learns_from_the_costs_that_moved_it(plan):
    defense = SafeRLHF(threshold=0.1, multiplier=1.0, multiplier_learning_rate=0.5)
    costs = torch.tensor([1.0, 0.0, 0.5])
    given = rollout(sequences=3, rewards=torch.zeros(3), kl=None, values=None, further={"cost": Paid(costs, None)})
    credited = defense.credit(lambda given: {"advantages": given.rewards}, started(defense, plan(GRPO())))(given)
    moved = math.exp(0.5 * 0.4)
    torch.testing.assert_close(credited["advantages"], -moved * costs / (1 + moved))


def test_a_rollout_without_any_known_cost_moves_nothing(plan):
    defense = SafeRLHF(threshold=0.1)
    built = started(defense, plan(GRPO()))
    nothing = torch.full((6,), float("nan"))
    given = rollout(kl=None, values=None, further={"cost": Paid(nothing, None)})
    credited = defense.credit(advantages(Policy(), {}), built)(given)
    assert built.state[MULTIPLIER] == 0.0
    torch.testing.assert_close(credited["advantages"], advantages(Policy(), {})(given)["advantages"] / 2)


# runs


@pytest.mark.slow
def test_where_the_cost_is_the_reward_at_price_one_nothing_is_learnt(plan, make_context, weights):
    built = plan(GRPO())
    before = weights(built.model)
    defense = SafeRLHF(threshold=0.5, multiplier=1.0, multiplier_learning_rate=0.0)
    fitted, metrics = metrics_of(defense.constrain(built, make_context()))
    assert torch.equal(weights(fitted.model), before)
    assert all(m["reward"] == m["cost"] for m in metrics)
    assert any(m["reward_std"] > 0 for m in metrics)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [GRPO, PPO, *repeated(ReinforcePlusPlus)])
def test_a_dear_cost_drives_down_what_the_attacker_is_paid_for(attack, plan, make_context):
    def long(completions):
        return [Verdict(score=min(c.num_tokens / 24, 1.0), refused=False) for c in completions]

    last = {}
    for multiplier in (0.0, 4.0):
        policy = replace(
            attack().policy,
            group_size=4,
            passes=1,
            minibatches=1,
            kl_coef=0.0,
            kl_target=None,
            critic=Critic(lam=1.0) if attack is PPO else None,
        )
        built = plan(attack(), steps=16, optim={"learning_rate": 3e-3, "max_grad_norm": 1.0}, policy=policy)
        experience = replace(built.prepare, reward=lambda completions: [v.score for v in long(completions)])
        defense = SafeRLHF(threshold=0.1, multiplier=multiplier, multiplier_learning_rate=0.0)
        context = make_context(judges={"classifier": long})
        _, metrics = metrics_of(defense.constrain(replace(built, prepare=experience), context))
        last[multiplier] = sum(m["reward"] for m in metrics[-4:]) / 4
    assert last[4.0] < last[0.0] - 0.2


@pytest.mark.slow
def test_the_multiplier_and_the_costs_are_among_the_metrics_of_every_rollout(plan, make_context):
    _, metrics = metrics_of(SafeRLHF(threshold=0.2).constrain(plan(GRPO()), make_context()))
    assert len(metrics) == 3
    for step in metrics:
        assert {"multiplier", "episode_cost", "cost", "cost_std"} <= set(step)
        assert 0 < step["multiplier"] <= 5


@pytest.mark.slow
def test_ppo_gets_a_critic_of_costs_that_learns_and_does_not_leave_the_service(plan, make_context):
    built = SafeRLHF(threshold=0.2).constrain(plan(PPO(), steps=4), make_context())
    before = built.model.network.critic.further["cost"].head.weight.detach().clone()
    fitted, metrics = metrics_of(built)
    assert math.isfinite(metrics[0]["cost/value_loss"])
    assert not torch.equal(fitted.model.network.critic.further["cost"].head.weight, before)
    with built.released(fitted.model) as released:
        assert not any("critic" in name for name in released.network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "form"), [(GRPO, "advantage"), (PPO, "reward")])
def test_no_critic_of_costs_is_attached_where_none_is_asked(attack, form, plan, make_context):
    built = SafeRLHF(threshold=0.2, form=form).constrain(plan(attack(), steps=1), make_context())
    assert not any("further" in name for name, _ in built.model.network.named_parameters())
    _, metrics = metrics_of(built)
    assert math.isfinite(metrics[0]["loss"])
    assert metrics[0]["multiplier"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("attack", [GRPO, PPO])
def test_how_a_step_is_cut_into_micro_batches_changes_neither_credit_nor_multiplier(attack, plan, make_context):
    runs = []
    for cut in (lambda rows: [rows], lambda rows: [[row] for row in rows]):
        built = SafeRLHF(threshold=0.2).constrain(plan(attack()), make_context())
        batches = built.batches(cut(built.data[:4]), 0)
        flat = torch.cat([b["advantages"].flatten()[b["advantages"].flatten() != 0] for b in batches])
        runs.append((flat, built.state[MULTIPLIER]))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-3, atol=1e-4)
    assert runs[0][1] == pytest.approx(runs[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("attack", [GRPO, PPO])
def test_it_works_with_an_adapter_accumulation_and_checkpointed_activations(attack, plan, make_context):
    optim = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": True}
    built = plan(attack(), steps=2, optim=optim, adapter=LoRA(r=4, lora_dropout=0.1))
    before = {name: p.detach().clone() for name, p in built.model.network.named_parameters()}
    fitted, metrics = metrics_of(SafeRLHF(threshold=0.2).constrain(built, make_context()))
    after = {name: p for name, p in fitted.model.network.named_parameters() if name in before}
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert any("lora" in name for name in moved)
    assert all("lora" in name or name.startswith("critic.") for name in moved)
    assert all(math.isfinite(step["loss"]) for step in metrics)


class Killed(Exception):
    """What a process dies of."""


@pytest.mark.slow
def test_multiplier_and_window_go_on_from_a_checkpoint(plan, make_context, tmp_path):
    def built(*hooks):
        made = SafeRLHF(threshold=0.2, window=24, delay=1).constrain(plan(GRPO(), steps=4), make_context())
        return replace(made, hooks=(*made.hooks, *hooks))

    def kill(progress):
        if progress.step == 3:
            raise Killed

    whole = built()
    fit(whole)
    with pytest.raises(Killed):
        fit(built(kill), folder=tmp_path, checkpoint_every=2)
    resumed = built()
    fit(resumed, folder=tmp_path, checkpoint_every=2)
    assert resumed.state == whole.state
    assert torch.equal(resumed.tensors[COSTS], whole.tensors[COSTS])


def test_it_finds_the_rollouts_inside_what_another_defense_put_round_them(plan, make_context):
    inner = RefusalLoss(alpha=1.0, batch_size=2).constrain(plan(GRPO(), steps=1), make_context())
    _, metrics = metrics_of(SafeRLHF(threshold=0.2).constrain(inner, make_context()))
    assert {"multiplier", "refusal/loss"} <= set(metrics[0])


# settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "threshold: is not set"),
        ({"threshold": 0.0}, "threshold: is 0.0"),
        ({"threshold": 1.0}, "threshold: is 1.0"),
        ({"threshold": 0.1, "multiplier": 9.0}, "above max_multiplier"),
        ({"threshold": 0.1, "window": 0}, "window"),
        ({"threshold": 0.1, "delay": -1}, "delay"),
        ({"threshold": 0.1, "multiplier_learning_rate": -0.1}, "multiplier_learning_rate"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad, message):
    with pytest.raises(HoldfastError, match="SafeRLHF") as error:
        SafeRLHF(**bad)
    assert message in str(error.value)


def test_an_unbounded_cost_has_a_threshold_of_0_unless_given():
    assert SafeRLHF(unbounded=True).threshold is None


def test_a_judge_without_unbounded_numbers_is_refused_by_name(plan, make_context):
    built = SafeRLHF(unbounded=True).constrain(plan(GRPO()), make_context())
    with pytest.raises(HoldfastError, match="'classifier' only has scores: set `unbounded` to false"):
        built.batches([built.data[:2]], 0)


def test_a_second_one_in_the_stack_is_refused(plan, make_context):
    defense = SafeRLHF(threshold=0.2)
    with pytest.raises(HoldfastError, match="twice"):
        defense.constrain(defense.constrain(plan(GRPO()), make_context()), make_context())


def test_an_attack_without_rollouts_is_refused_with_the_reason(plan, make_context):
    with pytest.raises(HoldfastError, match="safe_rlhf: acts on the advantages of sampled answers"):
        SafeRLHF(threshold=0.2).constrain(plan(SFT()), make_context())
