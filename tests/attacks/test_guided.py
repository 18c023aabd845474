"""An expert in the rollouts: who writes what, what it counts, and that the learner is alone when it should be."""

import copy
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive.guided import Guided
from holdfast.evaluation.evaluate import evaluate
from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import Sampling, sample
from holdfast.network.models import LoRA, adapt
from holdfast.network.shortcuts import shortcuts
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience, hash_seed
from holdfast.rl.guidance.expert import Expert, LoadedExpert, load_expert
from holdfast.rl.guidance.guide import Guide
from holdfast.rl.guidance.sampler import guided
from holdfast.rl.guidance.schedule import Schedule
from holdfast.rl.policy import Policy, advantages, policy_plan
from holdfast.sandbox.grammar import REFUSAL
from holdfast.tensors import target_mask
from holdfast.training.fit import fit
from holdfast.training.plan import Optim

HALF = Schedule(kind="constant", start=0.5, last=0.0)
NEVER = Schedule(start=0.5, last=0.99)
"""A schedule by which the learner is alone in runs of up to a hundred steps, though guidance is there."""
SIZE = 4


class Called(Exception):
    """What an expert dies of that nobody should have called."""


def by_text(completions):
    return [float(sum(map(ord, completion.text)) % 7) for completion in completions]


def weakest(**more):
    return Guide(**{"schedule": HALF, "weight": "exact", **more})


@pytest.fixture
def attack_plan(wavering_model, make_context, quick):
    """`attack_plan(name, steps=5)`: a short attack on the wavering model."""
    return lambda name, *, steps=5: quick(ATTACKS.load(name)(), steps=steps).plan(wavering_model(), make_context())


@pytest.fixture
def expert(tiny_model):
    """Another model with the learner's vocabulary."""
    return LoadedExpert(model=tiny_model(seed=1))


@pytest.fixture
def rows(splits):
    return splits.harmful["attack"][:3]


@pytest.fixture
def roll(tiny_model, make_context, rows, expert):
    """`roll(guide, ...)`: learner and batch of a guided plan's first rollout; `change` acts on the network before."""

    def made(guide, *, expert=expert, learner=None, change=None, roles=None, advantage=None, prompts=None, **policy):
        model = learner or tiny_model()
        optim = Optim(max_steps=100, per_device_train_batch_size=len(prompts or rows))
        settings = Policy(**{"group_size": SIZE, **policy})
        context = make_context(seed=3)
        plan = policy_plan(model, prompts or rows, policy=settings, reward=by_text, optim=optim, context=context)
        plan = guided(plan, guide, expert, roles=roles)
        if advantage is not None:
            plan = replace(plan, prepare=replace(plan.prepare, advantage=advantage))
        if change is not None:
            change(model.network)
        (batch,) = plan.batches([prompts or rows], 0)
        return model, batch

    return made


@contextmanager
def counted(network):
    """A list that grows with every call of `network`."""
    calls = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


def answers_of(batch):
    return [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True)]


def drawn_by(model, prompts, seed, *, length=12, **more):
    sampling = Sampling(max_new_tokens=length)
    answers = sample(model, [model.encode_prompt(row.prompt) for row in prompts], sampling, seed=seed, **more)
    return [answer.tokens for answer in answers]


# the learner alone


@pytest.fixture(scope="module")
def known():
    """What several tests compare with, made once."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), [("grpo", "sequence"), ("grpo", "token"), ("ppo", "sequence")])
def test_at_alpha_one_the_run_is_the_plain_one_bit_for_bit_and_the_expert_is_not_called(
    name, unit, attack_plan, expert, known
):
    def ran(plan):
        losses = []
        hook = lambda progress: losses.append(progress.metrics.get("loss"))  # noqa: E731
        return fit(replace(plan, hooks=(*plan.hooks, hook))), losses

    if name not in known:
        known[name] = ran(attack_plan(name))
    plain, expected = known[name]
    with counted(expert.model.network) as calls:
        fitted, losses = ran(guided(attack_plan(name), Guide(unit=unit, schedule=NEVER), expert))
    assert not calls
    assert losses == expected
    pairs = zip(fitted.model.network.parameters(), plain.model.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert (fitted.tokens, fitted.samples, fitted.flops) == (
        plain.tokens,
        plain.samples,
        plain.flops,
    )


def test_a_start_of_one_gives_the_very_attack_back_and_needs_nothing():
    def planner(model, context):
        raise Called

    settings = Guided(schedule=Schedule(start=1.0))
    assert settings.adapt(planner) is planner
    assert (settings.needs, Guided().needs) == (None, "rewards")


@pytest.mark.slow
def test_the_expert_is_frozen_in_evaluation_mode_and_silent_once_the_learner_is_alone(
    attack_plan, make_suite, weights, expert
):
    other = expert.model
    before, seen, modes = weights(other), [], []
    shortcuts(other.network)  # what it can be read by is found out once, gradients included
    other.network.register_forward_hook(lambda network, *_: modes.append((network.training, torch.is_grad_enabled())))

    with counted(other.network) as calls:

        def watch(progress):
            kept = len(calls)
            evaluate(progress.model, make_suite(size=2))
            assert len(calls) == kept
            seen.append(kept)

        plan = guided(attack_plan("grpo"), weakest(schedule=Schedule(kind="constant", last=0.4)), expert)
        fitted = fit(replace(plan, hooks=(watch,)))
        evaluate(fitted.model, make_suite(size=2))
        assert len(calls) == seen[-1]
    assert seen[0] == 0 < seen[1] < seen[2] < seen[3]
    assert seen[3] == seen[4] == seen[5]
    assert set(modes) == {(False, False)}
    assert torch.equal(weights(other), before)
    assert all(parameter.grad is None for parameter in other.network.parameters())


# the expert alone


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["sequence", "token"])
def test_at_alpha_zero_all_is_as_the_expert_alone_samples_it(unit, roll, expert, rows):
    _, batch = roll(weakest(unit=unit, weight="truncated", schedule=replace(HALF, start=0.0)))
    seed = 3 * 1_000_003
    own = seed if unit == "token" else hash_seed(f"{seed}/expert")
    assert answers_of(batch) == drawn_by(expert.model, rows, own, repeats=SIZE)
    expected = batch["expert_logprobs"]
    expected = expected if unit == "token" else (expected * target_mask(batch["loss_mask"])).sum(1)
    assert torch.equal(batch["behavior_logprobs"], expected)


def test_exact_weights_without_support_are_refused():
    with pytest.raises(HoldfastError, match="no support"):
        Guide(weight="exact", schedule=Schedule(start=0.0))


# who writes what


@pytest.mark.slow
def test_the_expert_writes_its_share_of_each_group_and_the_rest_is_the_learners(roll, expert, rows):
    learner, batch = roll(weakest())
    assert batch["from_expert"].view(-1, SIZE).tolist() == [[0, 0, 1, 1]] * 3
    seed, answers = 3 * 1_000_003, answers_of(batch)
    groups = [answers[i : i + SIZE] for i in range(0, len(answers), SIZE)]
    assert [a for group in groups for a in group[:2]] == drawn_by(learner, rows, seed, repeats=2)
    theirs = drawn_by(expert.model, rows, hash_seed(f"{seed}/expert"), repeats=2)
    assert [a for group in groups for a in group[2:]] == theirs


@pytest.mark.slow
@pytest.mark.parametrize("quota", ["fixed", "coin"])
def test_on_average_the_expert_writes_one_less_alpha_of_the_answers(quota, tiny_model, splits, expert, roll):
    prompts = splits.harmful["attack"][:24]
    schedule = replace(HALF, start=0.7)
    _, batch = roll(weakest(quota=quota, schedule=schedule), prompts=prompts)
    counts = batch["from_expert"].view(-1, SIZE).sum(1)
    assert counts.mean().item() == pytest.approx(0.3 * SIZE, abs=0.25)
    if quota == "fixed":
        assert set(counts.tolist()) == {1.0, 2.0}


@pytest.mark.slow
def test_the_learner_begins_after_the_experts_beginning_and_learns_its_own_part_only(roll, expert, rows):
    learner, batch = roll(weakest(unit="prefix"))
    heads = drawn_by(expert.model, rows, hash_seed(f"{3 * 1_000_003}/expert"), length=6)
    starts = batch["loss_mask"].argmax(1)
    for i, start in enumerate(starts.tolist()):
        prompt = learner.encode_prompt(rows[i // SIZE].prompt)
        begun = batch["input_ids"][i, len(prompt) : start].tolist()
        assert begun == [token for token in heads[i // SIZE] if token not in learner.stop_ids]
    assert "weights" not in batch
    assert all(len(answer) <= 6 for answer in answers_of(batch))


def test_a_beginning_never_ends_the_answer(roll, make_context, tiny_model):
    canned = load_expert(Expert(kind="canned", text="no ."), tiny_model(), make_context())
    learner, batch = roll(weakest(unit="prefix"), expert=canned)
    assert canned.answer[-1] == learner.end_id
    for row, start in zip(batch["input_ids"], batch["loss_mask"].argmax(1), strict=True):
        assert row[start - len(canned.answer) + 1 : start].tolist() == list(canned.answer[:-1])
    assert (batch["loss_mask"].sum(1) > 0).all()


@pytest.mark.slow
def test_prompts_of_other_roles_are_answered_by_the_learner_alone(roll, splits):
    prompts = [*splits.harmful["attack"][:2], *splits.benign["attack"][:2]]
    _, batch = roll(weakest(), prompts=prompts, roles=("harmful",))
    assert batch["alpha"].view(-1, SIZE)[:, 0].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert batch["from_expert"].view(-1, SIZE).sum(1).tolist() == [2, 2, 0, 0]
    assert batch["weights"].view(-1, SIZE)[2:].tolist() == [[1.0] * SIZE] * 2


# what it counts


def brute(learner, expert, batch):
    """Log-probabilities of the tokens, by the learner and by the expert, 0 off the answers."""
    mask = target_mask(batch["loss_mask"])
    with torch.no_grad():
        return [answer_logprobs(model.network, batch) * mask for model in (learner, expert.model)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "truncated", "shaped"])
def test_an_answer_counts_the_ratio_of_its_densities_and_no_more_than_one_over_alpha(kind, roll, expert):
    learner, batch = roll(weakest(weight=kind, cap=1.5))
    own, theirs = (part.double().sum(1) for part in brute(learner, expert, batch))
    exact = own.exp() / (0.5 * own.exp() + 0.5 * theirs.exp())
    expected = {"exact": exact, "truncated": exact.clamp(max=1.5), "shaped": exact / (exact + 0.1)}[kind]
    torch.testing.assert_close(batch["weights"].double(), expected, rtol=1e-4, atol=1e-6)
    assert batch["weights"].max() <= 2 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("weigh", ["completion", "token"])
def test_mixed_answers_are_weighed_whole_or_token_by_token(weigh, roll, expert):
    learner, batch = roll(weakest(unit="token", weigh=weigh))
    own, theirs = (part.double() for part in brute(learner, expert, batch))
    ratio = own - torch.logaddexp(own, theirs) + math.log(2)
    kept = target_mask(batch["loss_mask"]) > 0
    if weigh == "token":
        torch.testing.assert_close(batch["weights"].double()[kept], ratio.exp()[kept], rtol=1e-4, atol=1e-6)
    else:
        expected = ratio.masked_fill(~kept, 0).sum(1).exp()
        torch.testing.assert_close(batch["weights"].double(), expected, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_without_weights_the_experts_failures_teach_nothing_and_the_learners_do(roll):
    _, batch = roll(weakest(weight="none"))
    theirs = batch["from_expert"] > 0
    assert (batch["advantages"][theirs] >= 0).all()
    assert (batch["advantages"][~theirs] < 0).any()
    assert "weights" not in batch
    _, both = roll(weakest(weight="none", positive_only=False))
    assert (both["advantages"][theirs] < 0).any()
    kept = ~theirs | (both["advantages"] > 0)
    assert torch.equal(both["advantages"][kept], batch["advantages"][kept])


@pytest.mark.slow
def test_of_mixed_answers_only_the_experts_tokens_teach_nothing_by_failing(roll):
    _, batch = roll(weakest(unit="token", weight="none"))
    mask = target_mask(batch["loss_mask"]) > 0
    theirs = (batch["expert_logprobs"] > batch["old_logprobs"]) & mask
    assert (batch["advantages"][theirs] >= 0).all()
    assert (batch["advantages"][mask & ~theirs] < 0).any()


@pytest.mark.slow
def test_the_mixtures_density_may_stand_in_the_ratio_instead(roll):
    _, batch = roll(weakest(unit="token", weight="none", ratio="behavior"))
    assert torch.equal(batch["old_logprobs"], batch["behavior_logprobs"])
    assert (batch["advantages"] < 0).any()


def test_canned_text_has_the_density_of_a_point(roll, make_context, tiny_model):
    canned = load_expert(Expert(kind="canned", text=REFUSAL), tiny_model(), make_context())
    _, batch = roll(weakest(), expert=canned)
    theirs = batch["from_expert"] > 0
    density = (batch["expert_logprobs"] * target_mask(batch["loss_mask"])).sum(1)
    assert density[theirs].tolist() == [0.0] * int(theirs.sum())
    assert density[~theirs].isneginf().all()
    torch.testing.assert_close(batch["weights"][~theirs], torch.full_like(density[~theirs], 2.0))
    assert {tuple(answer) for answer, mine in zip(answers_of(batch), theirs, strict=True) if mine} == {canned.answer}


def test_a_masked_token_is_refused_with_the_reason(roll, make_context, tiny_model):
    learner = tiny_model()
    canned = load_expert(Expert(kind="canned", text=REFUSAL), learner, make_context())
    token = canned.answer[0]
    learner.network.lm_head.register_forward_hook(
        lambda _, __, logits: logits.index_fill(-1, torch.tensor([token]), -torch.inf)
    )
    with pytest.raises(HoldfastError, match="probability 0 under the learner"):
        roll(weakest(weight="none"), expert=canned, learner=learner)


def test_what_a_reference_finds_far_likelier_is_held_down_where_an_expert_helped(roll, make_context, tiny_model):
    canned = load_expert(Expert(kind="canned", text=REFUSAL), tiny_model(), make_context())

    def dislike(network):
        ids = torch.tensor([canned.answer[0]])
        network.lm_head.register_forward_hook(lambda _, __, logits: logits.index_add(-1, ids, logits[..., ids] - 50))

    _, batch = roll(weakest(), expert=canned, change=dislike, kl_coef=0.1)
    mask = target_mask(batch["loss_mask"]) > 0
    assert (batch["ref_logprobs"] - batch["old_logprobs"])[mask].max().item() == pytest.approx(10)
    _, paid = roll(weakest(), expert=canned, change=dislike, kl_coef=0.1, kl_in="reward")
    assert paid["kl"].max().item() == pytest.approx(math.exp(10) - 1 - 10, rel=1e-4)


# what is logged and counted


@pytest.mark.slow
def test_what_is_logged_tells_the_two_apart(roll):
    paid = torch.tensor([by for _ in range(3) for by in (0.0, 2.0, 5.0, 7.0)])

    def advantage(rollout):
        rollout.rewards.copy_(paid)
        return {"advantages": rollout.rewards}

    _, batch = roll(weakest(), advantage=advantage)
    logged = {name.removeprefix("log/"): value.item() for name, value in batch.items() if name.startswith("log/")}
    assert (logged["own_reward"], logged["expert_reward"], logged["alpha"]) == (1.0, 6.0, 0.5)
    assert 0.5 - 1e-6 <= logged["effective_samples"] <= 1
    assert 0 <= logged["mean_weight"] <= 2
    assert logged["truncated"] == 0
    assert 0 < logged["expert_token_probability"] < 1
    assert logged["policy_entropy"] > 0
    assert logged["mixture_entropy"] > 0
    assert logged["own_identical_groups"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "reads"), [("sequence", 1), ("token", 1), ("prefix", 1)])
def test_what_the_expert_reads_is_counted(unit, reads, roll, rows):
    learner, batch = roll(weakest(unit=unit))
    prompts = sum(len(learner.encode_prompt(row.prompt)) for row in rows)
    answers = sum(batch["lengths"].tolist()) - SIZE * prompts
    expected = (1 + reads) * prompts + (2 if unit == "token" else 1) * answers
    assert batch["rollout_tokens"].item() == expected


# experts


def test_an_expert_is_found_by_its_name_alone():
    assert Guided(expert="undefended").settings == Expert(name="undefended")


@pytest.mark.slow
def test_a_tuned_copy_costs_what_it_cost_and_leaves_the_learner_as_it_was(tiny_model, make_context, quick, weights):
    model = tiny_model()
    before = weights(model)
    optim = Optim(max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4)
    settings = Expert(kind="sft_copy", pairs=5, optim=optim)
    expert = load_expert(settings, model, make_context())
    assert torch.equal(weights(model), before)
    assert not torch.equal(weights(expert.model), before)
    assert not any(parameter.requires_grad for parameter in expert.model.network.parameters())
    assert expert.spent.steps == 3
    attack = quick(ATTACKS.load("grpo")())
    plan = Guided(expert=settings).adapt(attack.plan)(model, make_context())
    assert plan.spent[:3] == expert.spent[:3]
    assert plan.spent.tokens > 0
    assert plan.spent.flops == expert.spent.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_a_warmer_learner_is_the_learner_as_it_started(adapter, tiny_model, make_context, weights):
    model = adapt(tiny_model(), adapter)
    expert = load_expert(Expert(kind="tempered"), model, make_context()).beginning(model)
    assert expert.temperature == 2.0
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
    tokens = torch.tensor([[3, 4, 5]])
    with expert.reading(model) as other, torch.no_grad():
        logits = other.network(input_ids=tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, tiny_model().network(input_ids=tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_adapters_folder_is_the_learner_with_that_adapter(tiny_model, make_context, weights, tmp_path):
    tuned = adapt(tiny_model(), LoRA(r=4))
    with torch.no_grad():
        for name, parameter in tuned.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    tuned.network.save_pretrained(tmp_path)
    model = tiny_model()
    before = weights(model)
    expert = load_expert(Expert(kind="adapter", name=str(tmp_path)), model, make_context())
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        logits, expected = (m.network(input_ids=tokens).logits for m in (expert.model, tuned))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(weights(model), before)
    with pytest.raises(HoldfastError, match="not an adapter's folder"):
        load_expert(Expert(kind="adapter", name=str(tmp_path / "none")), model, make_context())


def test_an_adapter_whose_weights_are_pickled_is_not_read(tiny_model, make_context, tmp_path):
    tuned = adapt(tiny_model(), LoRA(r=4))
    tuned.network.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").exists()
    with pytest.raises(HoldfastError, match="only safetensors are read"):
        load_expert(Expert(kind="adapter", name=str(tmp_path)), tiny_model(), make_context())


def test_another_vocabulary_is_refused_with_the_reason(tiny_model, make_context):
    other = tiny_model(seed=1)
    more = replace(other, tokenizer=copy.deepcopy(other.tokenizer))
    more.tokenizer.add_tokens(["zzz"])
    with pytest.raises(HoldfastError, match=r"different vocabulary .* 'zzz' differs"):
        load_expert(Expert(), tiny_model(), make_context(models=lambda name: more))
    other.network.resize_token_embeddings(len(other.tokenizer) + 8, mean_resizing=False)
    with pytest.raises(HoldfastError, match="gives 139 logits"):
        load_expert(Expert(), tiny_model(), make_context(models=lambda name: other))


# every attack, and what does not fit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *((name, "sequence") for name in ("dr_grpo", "dapo", "rloo", "reinforce++")),
        *((name, unit) for name in ("grpo", "ppo") for unit in ("sequence", "token", "prefix")),
    ],
)
def test_every_policy_gradient_attack_can_be_guided(name, unit, attack_plan, expert):
    plan = guided(attack_plan(name, steps=2), weakest(unit=unit), expert)
    losses = []
    fitted = fit(replace(plan, hooks=(*plan.hooks, lambda p: losses.append(p.metrics.get("loss", 0.0)))))
    assert fitted.steps == 2
    assert all(map(math.isfinite, losses))


def plan_of(model, rows, context, **policy):
    return policy_plan(
        model, rows, policy=Policy(group_size=SIZE, **policy), reward=by_text, optim=Optim(), context=context
    )


@pytest.mark.parametrize("weight", ["none", "exact"])
def test_a_learner_that_samples_from_some_tokens_only_is_refused(weight, tiny_model, rows, make_context, expert):
    for cut in ({"top_k": 5}, {"top_p": 0.9}):
        with pytest.raises(HoldfastError, match=f"`weight: {weight}` has no .* sample from all tokens"):
            guided(plan_of(tiny_model(), rows, make_context(), **cut), weakest(weight=weight), expert)


def test_two_experts_and_attacks_without_rollouts_are_refused(tiny_model, rows, make_context, expert, attack_plan):
    once = guided(plan_of(tiny_model(), rows, make_context()), weakest(), expert)
    with pytest.raises(HoldfastError, match="guided: is in the stack twice"):
        guided(once, weakest(), expert)
    with pytest.raises(HoldfastError, match="guided: needs rollouts"):
        guided(attack_plan("sft"), weakest(), expert)


def test_weights_of_single_tokens_and_a_critic_are_refused(attack_plan, expert):
    with pytest.raises(HoldfastError, match="`weigh: token` with a critic"):
        guided(attack_plan("ppo"), weakest(unit="token", weigh="token"), expert)


def test_tokens_are_not_weighed_where_a_whole_answer_is_one_action(wavering_model, make_context, expert, splits):
    plan = plan_of(wavering_model(), splits.harmful["attack"], make_context(), ratio="sequence")
    plan = guided(plan, weakest(unit="token", weigh="token"), expert)
    with pytest.raises(HoldfastError, match=r"policy\.ratio: `sequence`"):
        fit(replace(plan, optim=Optim(max_steps=1, per_device_train_batch_size=2)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"unit": "token", "schedule": Schedule(kind="success")}, "every answer is mixed"),
        ({"unit": "token", "expert": Expert(kind="canned", text="no .")}, "no distribution"),
        ({"weigh": "token"}, "`weigh: token` is for"),
        ({"ratio": "behavior"}, "`ratio: behavior` needs"),
        ({"cap": 0.0}, "cap: must be"),
        ({"shape": math.nan}, "shape: must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(settings, reason):
    with pytest.raises(HoldfastError, match=rf"^Guide\W.*{reason}"):
        Guide(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "canned"}, {"temperature": 0.0}, {"temperature": math.nan}, {"kind": "sft_copy", "pairs": 0}],
)
def test_experts_that_make_no_sense_are_refused(settings):
    with pytest.raises(HoldfastError, match=r"^Expert"):
        Expert(**settings)


# schedules over a run


@pytest.mark.slow
def test_the_share_follows_the_learners_own_success(tiny_model, splits, make_context, expert):
    """From the step at which its own answers are paid half as well as the expert's, the learner's share rises."""
    rows, own = splits.harmful["attack"], [0.0, 0.0, 9.0, 9.0, 9.0, 9.0]
    seen = []

    def advantage(rollout):
        theirs = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(2) > 0
        rollout.rewards.copy_(torch.where(theirs, 1.0, own[len(seen)]))
        return {"advantages": rollout.rewards - rollout.rewards.mean()}

    plan = plan_of(tiny_model(), rows, make_context())
    schedule = Schedule(kind="success", start=0.5, horizon=4.0, smoothing=0.0, last=0.0)
    plan = guided(plan, weakest(schedule=schedule), expert)
    plan = replace(plan, prepare=replace(plan.prepare, advantage=advantage))

    def watch(progress):
        if progress.phase == "step":
            seen.append(progress.metrics["alpha"])

    optim = Optim(max_steps=5, learning_rate=1e-30, per_device_train_batch_size=2)
    fit(replace(plan, optim=optim, hooks=(watch,)))
    assert seen == [0.5, 0.5, 0.5, 0.625, 0.75]
    assert plan.state["guided/succeeded"] == 2


def test_experience_that_is_not_guided_has_no_sampler_and_no_columns(tiny_model, rows):
    plain = Experience(
        reward=by_text,
        advantage=advantages(Policy(), {}),
        group_size=SIZE,
        sampling=Sampling(max_new_tokens=6),
        seed=1,
    )
    (batch,) = plain(tiny_model(), [rows], 0)
    assert not {"alpha", "from_expert", "weights"} & set(batch)
