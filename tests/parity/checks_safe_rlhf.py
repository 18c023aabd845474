"""Golden checks of Safe RLHF, against its authors' code: credit, losses, the multiplier, whole training steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_case import Case, Check, of, shared_llama, tiny_llama, word
from torch import Tensor

from holdfast.data.splits import Splits
from holdfast.defenses.online.safe_rlhf import MULTIPLIER, SafeRLHF
from holdfast.losses.credit import token_rewards
from holdfast.losses.lagrangian import cost_model
from holdfast.losses.policy_gradient import kl_estimate, reduce, surrogate, value_loss
from holdfast.network.critic import Critic
from holdfast.network.generate import Answer
from holdfast.network.models import Model
from holdfast.records import Completion, Example, Verdict, user
from holdfast.rl import rollouts
from holdfast.rl.experience import Advantage, Paid, Rollout
from holdfast.rl.policy import Policy, advantages, policy_plan
from holdfast.tensors import masked_mean_per_sequence
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import Backward, Context, GivenAnswers, Optim, Plan, Progress, backprop


def credit(case: Case) -> None:
    """Token rewards and costs, their advantages and returns from the first answer token on, in the files' columns."""
    t, results = case.tensors, case.values["results"]
    start, actor, kl = results["start"], results["actor"], kl_of(case)
    whole = t["sequence_mask"].double()
    coef = actor["kl_coeff"]
    same(case, token_rewards(t["reward"], kl, whole, kl_coef=coef), t["rewards_with_kl"] * whole)
    same(case, token_rewards(t["cost"], -kl, whole, kl_coef=coef), t["costs_with_kl"] * whole)
    own = advantages(policy(case), {})
    paid, charged = own(rollout(case)), own(turned(rollout(case)))
    for computed, name in ((paid, "reward"), (charged, "cost")):
        same(case, computed["advantages"][:, start:], t[f"{name}_advantages"])
        same(case, computed["returns"][:, start:] * whole[:, start:], t[f"{name}_returns"])
        assert not computed["advantages"][:, :start].any()
    # Sums past this the code clips, and Holdfast does not.
    assert max(float(t[f"{name}s_with_kl"].abs().max()) for name in ("reward", "cost")) < actor["clip_range_score"]


def actor(case: Case) -> None:
    """The loss of the mixed advantages and its gradient, at the file's multiplier."""
    logprobs = case.tensors["new_log_probs"].clone().requires_grad_()
    loss = actor_loss(case, mixed(case), logprobs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case.expected["loss"], rel=case.tolerance("tensors"))
    same(case, logprobs.grad, case.tensors["actor_loss_grad"])


def shaped(case: Case) -> None:
    """Costs in the reward: the reward, its advantages, and their loss."""
    t = case.tensors
    multiplier, expected = next(
        (float(name.removeprefix("shaped_reward_lambda")), value)
        for name, value in t.items()
        if name.startswith("shaped_reward_lambda")
    )
    defense = SafeRLHF(unbounded=True, form="reward", multiplier=multiplier, multiplier_learning_rate=0)
    seen: list[Rollout] = []
    own = advantages(policy(case), {})

    def watched(given: Rollout) -> dict[str, Tensor]:
        seen.append(given)
        return own(given)

    advantage = defense.credit(watched, priced(case, defense))(rollout(case))["advantages"]
    same(case, seen[0].rewards, expected)
    whole, coef = t["sequence_mask"].double(), case.values["results"]["actor"]["kl_coeff"]
    same(case, token_rewards(seen[0].rewards, kl_of(case), whole, kl_coef=coef), t["shaped_rewards_with_kl"] * whole)
    start = case.values["results"]["start"]
    same(case, advantage[:, start:], t["shaped_advantages"])
    loss = actor_loss(case, advantage[:, start:])
    assert float(loss) == pytest.approx(case.values["results"][case.result], rel=case.tolerance("tensors"))


def critic(case: Case) -> None:
    """The clipped value loss and its gradient."""
    t, start = case.tensors, case.values["results"]["start"]
    values = t["new_reward_values"].clone().requires_grad_()
    mask = t["sequence_mask"].double()[:, start:]
    clip = case.expected["clip_range_value"]
    errors = value_loss(values, t["reward_returns"], t["reward_values"][:, start:], clip=clip)
    loss = reduce(errors, mask, reduction="sequence")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case.expected["loss"], rel=case.tolerance("tensors"))
    same(case, values.grad, t["critic_loss_grad"])


def multipliers(case: Case) -> None:
    """The multiplier after each rollout's costs, and the mean of the window that moved it."""
    for run in case.values["results"][case.result]:
        config, values = run["config"], []
        defense = SafeRLHF(
            unbounded=True,
            threshold=config["threshold"],
            multiplier=config["lambda_init"],
            multiplier_learning_rate=config["lambda_lr"],
            max_multiplier=config["lambda_max"] or 1e300,  # the setting has no "none"
            window=config["window"],
            delay=config.get("delay", 0),
        )
        plan = priced(case, defense)
        charged = defense.credit(lambda given: {"advantages": torch.zeros_like(given.rewards)}, plan)
        for costs in run["costs_per_step"]:
            paid = Paid(torch.tensor(costs), None)
            mask = torch.ones(len(costs), 1)
            logged = charged(Rollout(rewards=torch.zeros(len(costs)), group_size=1, mask=mask, further={"cost": paid}))
            log_multiplier = plan.state[MULTIPLIER]
            assert float(logged["log/multiplier"]) == pytest.approx(math.exp(log_multiplier), rel=1e-6)
            values.append((float(logged["log/episode_cost"]), log_multiplier, math.exp(log_multiplier)))
        expected = [(x["episode_cost"], x["log_lambda"], x["lambda"]) for x in run["trajectory"]]
        for ours, theirs in zip(values, expected, strict=True):
            # Both means are float32; the code takes the threshold off in it too.
            assert ours == pytest.approx(theirs, rel=case.tolerance("tensors"), abs=torch.finfo(torch.float32).eps)


def cost_models(case: Case) -> None:
    """A cost model's loss of its scores and the gradient, and how many pairs and signs it gets right."""
    t, expected = of(case, "cost_model."), case.expected
    kind = case.result.removeprefix("cost_model_loss_")
    scores = t["scores"].clone().requires_grad_()
    ends = t["attention_mask"].sum(1) - 1
    count, places = len(ends), torch.arange(scores.shape[1])
    first = (t["safer_ids"] != t["unsafer_ids"]).int().argmax(1) if kind == "token-wise" else ends
    outside = (places < first[:, None]) | (places > ends[:, None])
    safer, unsafer = (part.masked_fill(outside, math.nan) for part in scores[..., 0].split(count))
    signs = [torch.tensor(expected[f"{name}_sign"], dtype=scores.dtype) for name in ("safer", "unsafer")]
    loss = cost_model(safer, unsafer, *signs, regularization=expected["regularization"]).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["loss"], rel=case.tolerance("tensors"))
    same(case, scores.grad, t[f"{kind}.grad_scores"])
    last = [part.detach()[range(count), ends] for part in (safer, unsafer)]
    assert float((last[0] < last[1]).float().mean()) == pytest.approx(expected["accuracy"])
    right = torch.cat([(-costs).sign() == sign for costs, sign in zip(last, signs, strict=True)])
    assert float(right.float().mean()) == pytest.approx(expected["accuracy_sign"])


def training_steps(case: Case) -> None:
    """Whole steps of a run by the one loop: everything that the code logs, and the policy's weights after the last.

    The file holds the critics' heads as they are after the last step, their biases having begun at 0. Heads that end
    there are found by going back from where a run ends as far as it missed; a few runs do it.
    """
    expected = case.expected
    ends = heads = {name: case.tensors[f"rl_step.{name}_head"] for name in ("reward", "cost")}
    for _ in range(RUNS):
        steps, plan = trained(case, heads)
        head_weights = {name: critic.head.weight.detach() for name, critic in critics_of(plan).items()}
        missed = {name: end - head_weights[name] for name, end in ends.items()}
        heads = {name: head + missed[name] for name, head in heads.items()}
    allowed = case.tolerance("float32")
    assert max(float(gap.abs().max()) for gap in missed.values()) < allowed / 10
    for ours, theirs in zip(steps, expected["steps"], strict=True):
        wanted = {name.removeprefix("train/"): value for name, value in theirs.items()}
        assert {name: ours[name] for name in wanted} == pytest.approx(wanted, rel=allowed, abs=allowed / 10)
    weights = dict(plan.model.network.named_parameters())
    for name, value in of(case, "rl_step.actor_after.").items():
        torch.testing.assert_close(weights[name].detach(), value.double(), rtol=allowed, atol=allowed / 10)
    for name, sums in expected["actor_params_after"].items():
        value = weights[name].detach().double()
        assert float(value.norm()) == pytest.approx(sums["l2"], rel=allowed)
        assert float(value.abs().max()) == pytest.approx(sums["absmax"], rel=allowed)
        assert float(value.sum()) == pytest.approx(sums["sum"], abs=allowed * value.numel())


RUNS = 8
"""Each misses a tenth of what the one before missed."""


def trained(case: Case, heads: dict[str, Tensor]) -> tuple[list[dict[str, float]], Plan]:
    """What each step of the case's run logs, with the critics' heads as given, and the run after it."""
    steps: list[dict[str, float]] = [{} for _ in case.expected["steps"]]
    answers = {tuple(prompt): answer for prompt, answer in sequences(case)}
    rows = [Example(prompt=user(" ".join(map(word, prompt))), role="harmful") for prompt in answers]
    plan = constrained(case, rows, steps)
    for name, critic in critics_of(plan).items():
        critic.head.load_state_dict({"weight": heads[name], "bias": torch.zeros(1)})

    def recorded_answers(model: Model, prompts: Sequence[list[int]], *_: Any, **__: Any) -> list[Answer]:
        return [Answer(answers[tuple(prompt)], finished=True) for prompt in prompts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "sample", recorded_answers)
        fit(replace(plan, hooks=(logging(steps),)))
    for step in steps:
        step["max_generated_length"] = max(map(len, answers.values()))
    return steps, plan


def critics_of(plan: Plan) -> dict[str, Any]:
    first = plan.model.network.critic
    return {"reward": first, "cost": first.further["cost"]}


def constrained(case: Case, rows: list[Example], steps: list[dict[str, float]]) -> Plan:
    """The case's run: its models, its critics, its rewards and costs; what it computes goes to `steps`."""
    model = tiny_llama(case, "rl_step.ref_policy.")
    shared = shared_llama()
    reference = shared_llama().eval()
    reference.load_state_dict(of(case, "rl_step.ref_policy."))
    model.network.load_state_dict(shared.state_dict())
    # A KL is a small sum of large terms of both signs: float32 would leave in it how a machine happens to multiply.
    model.network.double()
    reference.double()
    rate = case.expected["sgd_lr_actor_and_critics"]
    optim = Optim(max_steps=len(steps), learning_rate=rate, per_device_train_batch_size=2, optim="sgd", max_grad_norm=0)
    judge = lambda name: charges(case, rows)  # noqa: E731
    context = Context(splits=Splits(harmful={}, benign={}), seed=0, fit=pytest.fail, judge=judge)
    plan = policy_plan(model, rows, policy=policy(case), reward=payments(case, rows), optim=optim, context=context)
    prepare = replace(plan.prepare, reference=lambda model: nullcontext(reference))
    coef = case.values["results"]["actor"]["kl_coeff"]
    prepare = replace(prepare, advantage=watching(prepare.advantage, steps, coef))
    settings = case.values["results"]["lambda_trajectories"][0]["config"]
    defense = SafeRLHF(
        unbounded=True,
        threshold=settings["threshold"],
        multiplier=settings["lambda_init"],
        multiplier_learning_rate=settings["lambda_lr"],
        max_multiplier=settings["lambda_max"],
        window=settings["window"],
    )
    return defense.constrain(replace(plan, prepare=prepare, backward=measuring(steps)), context)


def sequences(case: Case) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers without their padding."""
    t, start = of(case, "rl_step."), case.values["results"]["rl_step"]["prompt_len"]
    pairs = []
    for row, mask in zip(t["sequence"], t["attention_mask"], strict=True):
        pairs.append((row[:start][mask[:start]].tolist(), row[start:][mask[start:]].tolist()))
    return pairs


def payments(case: Case, rows: list[Example]) -> Callable[[Sequence[Completion]], list[float | None]]:
    rewards = iter(case.tensors["rl_step.rewards"].tolist())

    def reward(completions: Sequence[Completion]) -> list[float | None]:
        paid = next(rewards)
        return [paid[rows.index(completion.example)] for completion in completions]

    return reward


def charges(case: Case, rows: list[Example]) -> Callable[[Sequence[Completion]], list[Verdict]]:
    costs = iter(case.tensors["rl_step.costs"].tolist())

    def judge(completions: Sequence[Completion]) -> list[Verdict]:
        charged = next(costs)
        return [Verdict(score=0.5, logit=charged[rows.index(completion.example)]) for completion in completions]

    return judge


def watching(own: Advantage, steps: list[dict[str, float]], kl_coef: float) -> Advantage:
    """What the attack's own advantages are asked for: costs first, then rewards."""
    calls: list[str] = []

    def watched(given: Rollout) -> dict[str, Tensor]:
        tensors, name = own(given), ("cost", "reward")[len(calls) % 2]
        step = steps[len(calls) // 2]
        calls.append(name)
        for what, value in (("advantage", "advantages"), ("return", "returns")):
            step[f"{name}_{what}"] = mean(tensors[value], given.mask)
        assert given.values is not None
        assert given.kl is not None
        step[f"{name}_value"] = mean(given.values, given.mask)
        tokens = token_rewards(given.rewards, given.kl, given.mask, kl_coef=kl_coef)
        step[f"{name}_with_kl_penalty"] = float(tokens.sum(1).mean())
        return tensors

    return watched


def mean(values: Tensor, mask: Tensor) -> float:
    return float(masked_mean_per_sequence(values, mask).mean())


def measuring(steps: list[dict[str, float]]) -> Backward:
    """The plain rule, and the norm of the policy's own gradient."""
    done = iter(steps)

    def rule(objective: Any, network: Any, batch: Any, propagate: Any) -> Any:
        returned = backprop(objective, network, batch, propagate)
        grads = [p.grad for name, p in network.named_parameters() if not name.startswith("critic.")]
        next(done)["actor_grad_norm"] = float(torch.stack([g.double().norm() for g in grads]).norm())
        return returned

    return rule


def logging(steps: list[dict[str, float]]) -> Callable[[Progress], None]:
    names = {
        "reward_critic_loss": "value_loss",
        "cost_critic_loss": "cost/value_loss",
        "lambda": "multiplier",
        "episode_cost": "episode_cost",
        "reward": "reward",
        "cost": "cost",
        "kl_divergence": "sequence_kl",
        "mean_generated_length": "completion_tokens",
    }

    def hook(progress: Progress) -> None:
        if progress.phase == "step":
            step = steps[progress.step - 1]
            step |= {theirs: progress.metrics[ours] for theirs, ours in names.items()}
            step["actor_loss"] = progress.metrics["loss"] - step["reward_critic_loss"] - step["cost_critic_loss"]

    return hook


def policy(case: Case) -> Policy:
    """The case's PPO."""
    numbers = case.values["results"]["actor"]
    clip = numbers["clip_range_ratio"]
    return Policy(
        group_size=1,
        baseline="critic",
        critic=Critic(
            kind="separate",
            coef=1.0,
            clip=case.values["results"]["critic"]["clip_range_value"],
            gamma=numbers["gamma"],
            lam=numbers["gae_lambda"],
        ),
        whiten=False,
        clip_low=clip,
        clip_high=clip,
        reduction="sequence",
        kl_coef=numbers["kl_coeff"],
        kl_in="reward",
        kl_estimator="k1",
    )


def kl_of(case: Case) -> Tensor:
    return kl_estimate(case.tensors["log_probs"], case.tensors["ref_log_probs"], "k1")


def rollout(case: Case) -> Rollout:
    """The case's rollout; what comes before the answers is no target."""
    t = case.tensors
    mask = t["sequence_mask"].double()
    mask[:, : case.values["results"]["start"]] = 0
    cost = Paid(t["cost"], t["cost_values"])
    return Rollout(
        rewards=t["reward"], group_size=1, mask=mask, kl=kl_of(case), values=t["reward_values"], further={"cost": cost}
    )


def turned(given: Rollout) -> Rollout:
    """Costs in the place of rewards."""
    cost = given.further["cost"]
    assert given.kl is not None
    return replace(given, rewards=cost.rewards, values=cost.values, kl=-given.kl)


def priced(case: Case, defense: SafeRLHF) -> Plan:
    """A plan that holds the multiplier where the defense lets it begin."""
    model = tiny_llama(case, "rl_step.ref_policy.")
    state = {MULTIPLIER: math.log(defense.multiplier), "safe_rlhf/rollouts": 0.0}
    return Plan(model=model, data=[], prepare=GivenAnswers(), objective=language, optim=Optim(), state=state)


def mixed(case: Case) -> Tensor:
    """The advantages of answer tokens at the file's multiplier."""
    defense = SafeRLHF(unbounded=True, multiplier=case.values["results"]["actor"]["lambda"], multiplier_learning_rate=0)
    advantage = defense.credit(advantages(policy(case), {}), priced(case, defense))(rollout(case))["advantages"]
    return advantage[:, case.values["results"]["start"] :]


def actor_loss(case: Case, credited: Tensor, logprobs: Tensor | None = None) -> Tensor:
    t, start = case.tensors, case.values["results"]["start"]
    clip = case.values["results"]["actor"]["clip_range_ratio"]
    new = t["new_log_probs"] if logprobs is None else logprobs
    per_token = surrogate(new, t["log_probs"][:, start:], credited, clip_low=clip, clip_high=clip)
    return reduce(per_token, t["sequence_mask"].double()[:, start:], reduction="sequence")


def same(case: Case, actual: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=case.tolerance("tensors"), atol=1e-12)


CHECKS: dict[str, Check] = {
    "safe_rlhf_ppo_lag/start": credit,
    "safe_rlhf_ppo_lag/actor": actor,
    "safe_rlhf_ppo_lag/critic": critic,
    "safe_rlhf_ppo_lag/reward": shaped,
    "safe_rlhf_ppo_lag/rl": training_steps,
    "safe_rlhf_ppo_lag/lambda": multipliers,
    "safe_rlhf_ppo_lag/cost": cost_models,
}
