"""Operations of a run: by the convention, against torch's own count, and without a trace in what is computed."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from holdfast.attacks.policy_gradient import GRPO, PPO
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.vaccine import Vaccine
from holdfast.network.critic import Critic
from holdfast.network.flops import Meter, forward_flops, multiplied
from holdfast.network.forward import forward
from holdfast.network.generate import Sampling, sample
from holdfast.network.models import LoRA, adapt, answer_batch
from holdfast.records import Example, user
from holdfast.rl.policy import Policy
from holdfast.training.checkpoints import COSTS, last_checkpoint
from holdfast.training.fit import fit
from holdfast.training.plan import Optim, Spent

OPTIM = Optim(max_steps=2, learning_rate=1e-3, per_device_train_batch_size=4)


def count(model, run):
    meter = Meter(model.pad_id)
    with meter.counting():
        run(meter)
    return meter.flops


def torch_count(run, *operators):
    """What torch counts of matrix products, those within attention left out."""
    with FlopCounterMode(display=False) as counter:
        run()
    by_operator = counter.get_flop_counts()["Global"]
    return sum(value for operator, value in by_operator.items() if str(operator).split(".")[-1] in operators)


LINEAR = ("mm", "addmm")


def tokens_of(model, count=6, length=20):
    return torch.randint(3, 100, (count, length), generator=torch.Generator().manual_seed(0)).to(model.device)


# against torch


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_a_forward_pass_counts_within_two_percent_of_torchs_own_count(architecture, tiny_model):
    model = tiny_model(architecture)
    ids = tokens_of(model)
    with torch.no_grad():
        ours = count(model, lambda _: model.network(input_ids=ids))
        theirs = torch_count(lambda: model.network(input_ids=ids), *LINEAR)
    assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, LoRA(r=4)])
def test_forward_and_backward_count_within_two_percent_of_torchs_own_count(adapter, tiny_model):
    model = adapt(tiny_model(), adapter)
    ids = tokens_of(model)

    def run(meter=None):
        loss = model.network(input_ids=ids).logits.float().logsumexp(-1).mean()
        if meter is not None:
            meter.differentiated(loss)
        loss.backward()

    per_weight = count(model, run) / ids.numel() / multiplied(model.network)
    assert per_weight == pytest.approx(6.0) if adapter is None else 4.0 < per_weight < 4.3
    # Below the first adapter nothing is differentiated, which the convention does not know.
    assert count(model, run) == pytest.approx(torch_count(run, *LINEAR), rel=0.02 if adapter is None else 0.1)


# what counts


def test_weights_are_all_but_a_table_that_is_only_looked_up(tiny_model):
    llama, gpt2 = tiny_model(), tiny_model("gpt2")
    tokens = llama.network.get_input_embeddings().weight.numel()
    assert multiplied(llama.network) == llama.network.num_parameters() - tokens
    positions = gpt2.network.transformer.wpe.weight.numel()
    assert multiplied(gpt2.network) == gpt2.network.num_parameters() - positions
    judge = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            max_position_embeddings=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    assert multiplied(judge) == sum(p.numel() for p in judge.parameters()) - (50 + 30 + 2) * 16


def test_padding_does_not_count_with_or_without_a_mask(tiny_model):
    model = tiny_model()
    ids = tokens_of(model, 2, 6)
    ids[1, 4:] = model.pad_id
    mask = (ids != model.pad_id).long()
    once = 2.0 * multiplied(model.network)
    with torch.no_grad():
        assert count(model, lambda _: model.network(input_ids=ids)) == once * 10
        assert count(model, lambda _: model.network(ids, attention_mask=mask)) == once * 10


def test_the_ends_of_answers_count_where_the_tokenizer_pads_with_them(tiny_model):
    model = replace(tiny_model(), tokenizer=copy.deepcopy(tiny_model().tokenizer))
    model.tokenizer.pad_token = model.tokenizer.eos_token
    pairs = [(Example(prompt=user("moss ?")), answer) for answer in ("salt", "stir the salt and moss")]
    batch = answer_batch(model, pairs)
    with torch.no_grad():
        flops = count(model, lambda _: forward(model.network, batch))
    assert flops == forward_flops(model.network, int(batch["lengths"].sum()))


def test_embeddings_that_are_given_in_place_of_tokens_count_like_them(tiny_model):
    model = tiny_model()
    with torch.no_grad():
        embedded = model.network.get_input_embeddings()(tokens_of(model, count=2, length=5))
        flops = count(model, lambda _: model.network(inputs_embeds=embedded))
    assert flops == forward_flops(model.network, 10)


def test_sampling_reads_a_prompt_once_a_group_and_then_token_by_token(tiny_model):
    model = tiny_model()
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14]]
    counts = []
    flops = count(
        model,
        lambda _: counts.extend(sample(model, prompts, Sampling(max_new_tokens=5, temperature=0.0), seed=0, repeats=3)),
    )
    assert all(len(answer.tokens) == 5 for answer in counts)
    # The last token of an answer is given out and not read.
    assert flops == forward_flops(model.network, 10 + 6 * 4)


def test_passes_count_for_the_outermost_network_and_leave_no_hook_behind(tiny_model):
    model = tiny_model()
    with pytest.raises(ZeroDivisionError):
        count(model, lambda _: 1 / 0)
    assert "__call__" not in vars(PreTrainedModel)
    outer, inner, ids = Meter(model.pad_id), Meter(model.pad_id), tokens_of(model, 1, 5)
    with torch.no_grad(), outer.counting():
        model.network(input_ids=ids)
        with inner.counting(), outer.paused():
            model.network(input_ids=ids)
    assert outer.flops == inner.flops == forward_flops(model.network, 5)


def test_a_pass_without_a_gradient_to_propagate_counts_forward_only(tiny_model):
    model = tiny_model()
    ids = tokens_of(model, 1, 5)

    def run(meter):
        model.network(input_ids=ids)
        meter.differentiated(torch.zeros(()))
        meter.differentiated(model.network.lm_head.weight.sum())

    assert count(model, run) == forward_flops(model.network, 5)


# runs


@pytest.fixture
def attack(tiny_model, make_context):
    """`attack(settings, model=None)`: a short attack on a tiny model as a plan."""
    return lambda settings, model=None: settings.plan(model or tiny_model(), make_context())


def grpo(**policy):
    return GRPO(optim=OPTIM, policy=Policy(group_size=3, max_new_tokens=6, **policy))


def test_supervised_training_takes_six_operations_a_weight_and_token(attack):
    plan = attack(SFT(optim=OPTIM))
    fitted = fit(plan)
    # The last column of a batch is predicted and not read.
    assert fitted.flops == pytest.approx(6 * multiplied(plan.model.network) * fitted.tokens, rel=0.05)
    assert fitted.flops < 6 * multiplied(plan.model.network) * fitted.tokens


@pytest.mark.slow
def test_an_adapter_over_frozen_weights_takes_a_little_more_than_four(attack):
    plan = attack(SFT(optim=OPTIM, adapter=LoRA(r=4)))
    fitted = fit(plan)
    assert 3.8 < fitted.flops / multiplied(plan.model.network) / fitted.tokens < 4.3


@pytest.mark.slow
def test_a_reference_a_critic_and_further_passes_cost_more(attack):
    plain = fit(attack(grpo())).flops
    reference = fit(attack(grpo(kl_coef=0.1))).flops
    twice = fit(attack(grpo(passes=2))).flops
    head, own = (
        fit(attack(replace(PPO(optim=OPTIM), policy=replace(PPO().policy, max_new_tokens=6, critic=Critic(kind=kind)))))
        for kind in ("head", "separate")
    )
    assert reference / plain > 1.1
    assert twice < plain
    assert 1.5 < own.flops / head.flops < 2.0


@pytest.mark.slow
def test_what_an_online_defense_adds_counts(attack, make_context):
    plan = attack(SFT(optim=OPTIM))
    plain = fit(plan)
    extra = fit(RefusalLoss(batch_size=4).constrain(attack(SFT(optim=OPTIM)), make_context()))
    two_passes = fit(Vaccine().constrain(attack(SFT(optim=OPTIM)), make_context()))
    assert extra.tokens == plain.tokens
    assert 1.4 < extra.flops / plain.flops < 2.0
    assert two_passes.flops == pytest.approx(2 * plain.flops)


@pytest.mark.slow
def test_evaluation_in_hooks_is_no_cost_and_what_was_spent_before_is(attack):
    seen = []

    def hook(progress):
        progress.model.network(input_ids=torch.ones(4, 8, dtype=torch.long))
        seen.append(progress.flops)

    plain = fit(attack(SFT(optim=OPTIM)))
    plan = attack(SFT(optim=OPTIM))
    measured = fit(replace(plan, hooks=(hook,), spent=Spent(flops=1e6)))
    assert measured.flops == plain.flops
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (1e6, plain.flops + 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SFT(optim=OPTIM), grpo(kl_coef=0.1, passes=2)], ids=["sft", "grpo"])
def test_counting_changes_no_bit_of_a_run(settings, attack, weights, monkeypatch):
    counted = fit(attack(settings))
    monkeypatch.setattr(Meter, "counting", nullcontext)
    uncounted = fit(attack(settings))
    assert uncounted.flops == 0 < counted.flops
    assert torch.equal(weights(counted.model), weights(uncounted.model))


class Killed(Exception):
    """What a process dies of."""


@pytest.mark.slow
def test_a_resumed_run_counts_what_it_did_before_and_says_nothing_where_that_is_unknown(attack, tmp_path):
    settings = SFT(optim=replace(OPTIM, max_steps=4))

    def kill(progress):
        if progress.step == 3:
            raise Killed

    whole = fit(attack(settings))
    for name in ("known", "unknown"):
        with pytest.raises(Killed):
            fit(replace(attack(settings), hooks=(kill,)), folder=tmp_path / name, checkpoint_every=2)
    costs = last_checkpoint(tmp_path / "unknown") / COSTS
    kept = json.loads(costs.read_text())
    del kept["costs"]["flops"], kept["files"], kept["digest"]  # as an earlier version wrote it
    costs.write_text(json.dumps(kept))
    assert fit(attack(settings), folder=tmp_path / "known", checkpoint_every=2).flops == whole.flops
    assert fit(attack(settings), folder=tmp_path / "unknown", checkpoint_every=2).flops is None
