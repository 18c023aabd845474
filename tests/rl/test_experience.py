"""RL's `prepare`: prompts to rollouts to rewards to advantages to batches."""

import math

import pytest
import torch

from holdfast.losses.policy_gradient import group_advantages
from holdfast.network.critic import Critic, attach_critic, attach_further
from holdfast.network.forward import answer_logprobs, forward
from holdfast.network.generate import Sampling, sample
from holdfast.network.low_precision import low_precision_copy
from holdfast.network.models import LoRA, adapt
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience
from holdfast.rl.policy import Policy, advantages
from holdfast.tensors import num_targets, target_mask, token_logprobs, with_totals
from holdfast.training.objectives import policy_gradient
from holdfast.training.plan import reference_of


def by_length(completions):
    return [float(completion.num_tokens) for completion in completions]


def by_text(completions):
    return [float(sum(map(ord, completion.text)) % 7) for completion in completions]


def experience(**more):
    settings = {"reward": by_text, "advantage": advantages(Policy(), {}), "group_size": 3, "seed": 1}
    return Experience(**{**settings, "sampling": Sampling(max_new_tokens=6), **more})


@pytest.fixture
def rows(splits):
    return splits.harmful["attack"][:4]


def test_there_is_one_batch_a_micro_batch_with_a_group_a_row(tiny_model, rows):
    batches = experience()(tiny_model(), [rows[:1], rows[1:4]], 0)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 9]
    assert [len(batch["advantages"]) for batch in batches] == [3, 9]
    assert [batch["groups"].tolist() for batch in batches] == [[0, 0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2]]


def test_each_row_is_its_prompt_with_a_sampled_answer_under_the_mask(tiny_model, rows):
    model = tiny_model()
    (batch,) = experience()(model, [rows], 5)
    prompts = [model.encode_prompt(row.prompt) for row in rows]
    answers = sample(model, prompts, Sampling(max_new_tokens=6), seed=1_000_003 + 5, repeats=3)
    for i, answer in enumerate(answers):
        length, mask = batch["lengths"][i], batch["loss_mask"][i].bool()
        assert batch["input_ids"][i, :length].tolist() == prompts[i // 3] + answer.tokens
        assert batch["input_ids"][i][mask].tolist() == answer.tokens
    assert num_targets(batch) == sum(len(answer.tokens) for answer in answers)


def test_how_a_step_is_cut_into_micro_batches_changes_no_answer(tiny_model, rows):
    model = tiny_model()
    (whole,) = experience()(model, [rows], 0)
    parts = experience()(model, [[row] for row in rows], 0)
    assert torch.equal(torch.cat([part["advantages"] for part in parts]), whole["advantages"])
    answers = [row[:n].tolist() for part in parts for row, n in zip(part["input_ids"], part["lengths"], strict=True)]
    assert answers == [row[:n].tolist() for row, n in zip(whole["input_ids"], whole["lengths"], strict=True)]


def test_answers_follow_from_the_seed_and_the_step_alone(tiny_model, rows):
    model = tiny_model()

    def sampled_answers(step, **more):
        return experience(**more)(model, [rows], step)[0]["input_ids"].tolist()

    assert sampled_answers(3) == sampled_answers(3)
    assert sampled_answers(3) != sampled_answers(4)
    assert sampled_answers(3) != sampled_answers(3, seed=2)


def test_advantages_are_those_of_each_prompts_own_group(tiny_model, rows):
    seen = []

    def reward(completions):
        seen.extend(by_text(completions))
        assert [completion.example for completion in completions] == [row for row in rows for _ in range(3)]
        return by_text(completions)

    (batch,) = experience(reward=reward)(tiny_model(), [rows], 0)
    assert torch.equal(batch["advantages"], group_advantages(torch.tensor(seen), 3))


def test_a_completion_without_a_reward_trains_nothing(tiny_model, rows):
    def reward(completions):
        return [None, *by_text(completions)[1:]]

    (batch,) = experience(reward=reward)(tiny_model(), [rows], 0)
    assert batch["advantages"][0] == 0
    assert batch["advantages"].isfinite().all()
    assert batch["log/unjudged"].item() == pytest.approx(1 / 12)
    assert math.isfinite(batch["log/reward"])
    assert math.isfinite(batch["log/reward_std"])


def test_a_judge_that_can_judge_nothing_is_found_at_the_first_rollout(tiny_model, rows):
    with pytest.raises(HoldfastError, match="scores none of the first"):
        experience(reward=lambda completions: [None] * len(completions))(tiny_model(), [rows], 0)


def test_a_later_rollout_without_any_reward_trains_nothing_and_warns_of_nothing(tiny_model, rows):
    (batch,) = experience(reward=lambda completions: [None] * len(completions))(tiny_model(), [rows], 1)
    assert (batch["advantages"] == 0).all()
    assert batch["log/unjudged"].item() == 1.0
    assert all(math.isfinite(value) for name, value in batch.items() if name.startswith("log/"))


def test_a_single_pass_needs_no_old_log_probabilities(tiny_model, rows):
    (batch,) = experience()(tiny_model(), [rows], 0)
    assert "old_logprobs" not in batch
    assert "ref_logprobs" not in batch


def test_several_passes_learn_from_one_rollout_under_the_policy_that_sampled(tiny_model, rows):
    model, calls = tiny_model(), []

    def reward(completions):
        calls.append(len(completions))
        return by_text(completions)

    prepare = experience(reward=reward, passes=2)
    first, second = prepare(model, [rows], 0), prepare(model, [rows[::-1]], 1)
    assert calls == [12]
    assert torch.equal(first[0]["input_ids"], second[0]["input_ids"])
    with torch.no_grad():
        now = token_logprobs(forward(model.network, first[0]), first[0]["input_ids"])
    mask = target_mask(first[0]["loss_mask"]).bool()
    torch.testing.assert_close(first[0]["old_logprobs"][mask], now[mask])
    prepare(model, [rows], 2)
    assert calls == [12, 12]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_sampling_supplies_the_log_probabilities_that_a_pass_would(temperature, top_p, tiny_model, rows, monkeypatch):
    model = tiny_model()
    prepare = experience(passes=2, sampling=Sampling(max_new_tokens=6, temperature=temperature, top_p=top_p))
    sampled = prepare(model, [rows[:3], rows[3:]], 0)
    monkeypatch.setattr(Experience, "_sampled_logprobs", lambda self, model: False)
    prepare = experience(passes=2, sampling=Sampling(max_new_tokens=6, temperature=temperature, top_p=top_p))
    assert len(sampled) >= 2
    for mine, slow in zip(sampled, prepare(model, [rows[:3], rows[3:]], 0), strict=True):
        kept = target_mask(mine["loss_mask"]) == 1
        assert kept.any()
        assert torch.equal(mine["input_ids"], slow["input_ids"])
        torch.testing.assert_close(mine["old_logprobs"][kept], slow["old_logprobs"][kept], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_of_fewer_bits_are_read_again_for_their_log_probabilities(tiny_model, rows):
    model = tiny_model()
    model.network.to(torch.bfloat16)
    (batch,) = experience(passes=2)(model, [rows], 0)
    with torch.no_grad():
        again = token_logprobs(forward(model.network, batch), batch["input_ids"])
    kept = target_mask(batch["loss_mask"]) == 1
    assert torch.equal(batch["old_logprobs"][kept], again[kept])


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_a_copy_in_lower_precision_samples_and_the_batch_has_both_ones_log_probabilities(passes, tiny_model, rows):
    model, copy = tiny_model(), low_precision_copy("bfloat16")
    (batch,) = experience(passes=passes, sampled_by=copy)(model, [rows], 0)
    low = copy(model)
    prompts = [model.encode_prompt(row.prompt) for row in rows]
    answers = sample(low, prompts, Sampling(max_new_tokens=6), seed=1_000_003, repeats=3, logprobs=True)
    kept = target_mask(batch["loss_mask"]) == 1
    assert batch["input_ids"][:, 1:][kept].tolist() == [token for answer in answers for token in answer.tokens]
    expected = torch.tensor([value for answer in answers for value in answer.logprobs])
    torch.testing.assert_close(batch["sampled_logprobs"][kept], expected)
    assert ("old_logprobs" in batch) == (passes == 2)
    if passes == 2:
        with torch.no_grad():
            own = token_logprobs(forward(model.network, batch), batch["input_ids"])
        torch.testing.assert_close(batch["old_logprobs"][kept], own[kept], atol=1e-5, rtol=1e-5)
        assert 1e-5 < float((batch["old_logprobs"] - batch["sampled_logprobs"])[kept].abs().max()) < 0.1


@pytest.mark.slow
def test_dropout_in_training_is_not_taken_for_the_distance_of_the_copy(tiny_model, rows):
    model = adapt(tiny_model(), LoRA(r=4, lora_dropout=0.5))
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    (batch,) = with_totals(experience(sampled_by=low_precision_copy("bfloat16"))(model, [rows], 0))
    objective = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="sequence", max_tokens=6, importance_cap=100.0)
    _, metrics = objective(model.network.train(), batch)
    assert 0 < metrics["sampling_gap"] < 0.1
    without = {name: value for name, value in batch.items() if name != "policy_logprobs"}
    assert objective(model.network, without)[1]["sampling_gap"] > 0.2


def test_two_ways_of_sampling_are_refused():
    with pytest.raises(HoldfastError, match="sampling_dtype"):
        experience(sampled_by=low_precision_copy("bfloat16"), sampler=object())


def test_more_minibatches_than_prompts_are_refused(tiny_model, rows):
    with pytest.raises(HoldfastError, match="4 prompts cannot be split into 5 minibatches"):
        experience(minibatches=5)(tiny_model(), [rows], 0)


def test_what_a_consumer_takes_out_of_a_batch_is_there_in_the_next_pass(tiny_model, rows):
    prepare, model = experience(passes=2), tiny_model()
    prepare(model, [rows], 0)[0].clear()
    assert "input_ids" in prepare(model, [rows], 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_the_reference_is_the_model_as_the_run_found_it(adapter, tiny_model, rows):
    model = adapt(tiny_model(), adapter)
    reference = reference_of(model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
    (batch,) = experience(reference=reference)(model, [rows], 0)
    with torch.no_grad():
        expected = token_logprobs(forward(tiny_model().network, batch), batch["input_ids"])
    mask = target_mask(batch["loss_mask"]).bool()
    torch.testing.assert_close(batch["ref_logprobs"][mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_reference_reads_an_answer_that_a_prompt_got_several_times_once(temperature, tiny_model, rows, monkeypatch):
    model = tiny_model()
    reference, read = reference_of(model), []
    monkeypatch.setattr(
        "holdfast.rl.experience.answer_logprobs",
        lambda network, batch, **more: read.append(len(batch["input_ids"])) or answer_logprobs(network, batch, **more),
    )
    prepare = experience(
        reference=reference, group_size=6, sampling=Sampling(max_new_tokens=1, temperature=temperature)
    )
    (batch,) = prepare(model, [rows], 0)
    assert read == [len({tuple(row) for row in batch["input_ids"].tolist()})]
    assert read[0] < len(batch["input_ids"])
    expected = token_logprobs(forward(model.network, batch), batch["input_ids"], temperature=temperature)
    mask = target_mask(batch["loss_mask"]).bool()
    torch.testing.assert_close(batch["ref_logprobs"][mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_what_is_logged_says_what_was_sampled(tiny_model, rows):
    model = tiny_model()
    batches = experience(reward=by_length)(model, [rows[:2], rows[2:]], 0)
    lengths = torch.cat([batch["loss_mask"].sum(1) for batch in batches]).float()
    log = batches[0]
    assert log["log/completion_tokens"].item() == pytest.approx(lengths.mean().item())
    assert log["log/reward"].item() == pytest.approx(lengths.mean().item())
    assert log["log/reward_std"].item() == pytest.approx(lengths.std(correction=0).item(), abs=1e-6)
    prompts = sum(len(model.encode_prompt(row.prompt)) for row in rows)
    assert log["rollout_tokens"].item() == lengths.sum().item() + prompts
    assert not any(name.startswith("log/") for name in batches[1])


def test_identical_groups_are_counted(tiny_model, rows):
    (batch,) = experience(sampling=Sampling(max_new_tokens=4, temperature=0.0))(tiny_model(), [rows], 0)
    assert batch["log/identical_groups"].item() == 1.0
    (batch,) = experience()(tiny_model(), [rows], 0)
    assert batch["log/identical_groups"].item() == 0.0


def test_log_probabilities_are_those_of_the_temperature_that_sampled(tiny_model, rows):
    model = tiny_model()
    hot = experience(reference=reference_of(model), sampling=Sampling(max_new_tokens=6, temperature=2.0))
    (batch,) = hot(model, [rows], 0)
    with torch.no_grad():
        logits = model.network(input_ids=batch["input_ids"]).logits
    expected = (logits[:, :-1] / 2).log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    kept = target_mask(batch["loss_mask"]) == 1
    torch.testing.assert_close(batch["ref_logprobs"][kept], expected[kept], rtol=1e-4, atol=1e-5)


def test_further_rewards_reach_the_advantage_and_the_log_by_name(tiny_model, rows):
    seen = []

    def advantage(rollout):
        seen.append(rollout)
        return {"advantages": rollout.rewards, "log/told": torch.tensor(7.0)}

    def toll(completions):
        return [None, *by_length(completions)[1:]]

    built = experience(further={"toll": toll}, advantage=advantage)
    first, second = built(tiny_model(), [rows[:1], rows[1:]], 0)
    paid = seen[0].further["toll"].rewards
    lengths = torch.cat([target_mask(batch["loss_mask"]).sum(1) for batch in (first, second)])
    assert paid[0].isnan()
    assert torch.equal(paid[1:], lengths[1:])
    assert seen[0].further["toll"].values is None
    assert first["log/toll"].item() == pytest.approx(lengths[1:].mean().item())
    assert first["log/told"].item() == 7.0
    assert "log/told" not in second


def test_each_further_reward_has_the_values_of_the_critic_of_its_name(tiny_model, rows):
    model = attach_further(attach_critic(tiny_model(), Critic()), "toll", seed=3)
    seen = []

    def advantage(rollout):
        seen.append(rollout)
        return {"advantages": rollout.rewards}

    (batch,) = experience(further={"toll": by_length}, advantage=advantage, critic=True)(model, [rows], 0)
    assert torch.equal(seen[0].values, batch["old_values"])
    assert torch.equal(seen[0].further["toll"].values, batch["toll/old_values"])
    assert not torch.equal(batch["old_values"], batch["toll/old_values"])
    alone = experience(further={"other": by_length}, advantage=advantage, critic=True)
    alone(model, [rows], 0)
    assert seen[1].values is not None
    assert seen[1].further["other"].values is None


def test_a_further_reward_that_has_a_number_for_nothing_is_found_by_name(tiny_model, rows):
    nothing = {"toll": lambda completions: [None] * len(completions)}
    with pytest.raises(HoldfastError, match="the toll scores none of the first"):
        experience(further=nothing)(tiny_model(), [rows], 0)
