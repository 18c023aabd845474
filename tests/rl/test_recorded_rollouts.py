"""A policy-gradient run whose rollouts are decoded in recorded steps, as on CUDA, learns what a plain one does."""

from __future__ import annotations

import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holdfast import api
from holdfast.data.splits import Splits
from holdfast.network import static_decoding, static_use
from holdfast.network.models import LoRA, adapt
from holdfast.training.fit import fit
from repeated import repeated

sys.path.insert(0, str(Path(__file__).parents[1] / "network"))
from graph_tape import Tapes

STEPS = 2


@pytest.fixture
def tapes(monkeypatch):
    monkeypatch.setenv(static_use.VARIABLE, "1")
    made = Tapes()
    monkeypatch.setattr(static_decoding, "recorder", lambda device: made)
    for name in ("_problems", "_of_network"):
        monkeypatch.setattr(static_use, name, weakref.WeakKeyDictionary())
    return made


def trained(model, *, bf16=False, passes=1):
    """A GRPO run with a reward that differs within a group: the weights, and the answers of each rollout."""
    seen = []

    def reward(completions):
        seen.append([completion.text for completion in completions])
        return [i % 3 / 2 for i in range(len(completions))]

    optim = api.Optim(max_steps=STEPS * passes, learning_rate=1e-3, per_device_train_batch_size=2, bf16=bf16)
    policy = api.Policy(group_size=4, passes=passes)
    attack = api.GRPO(optim=optim, policy=policy, reward=api.AttackReward(judge="keyword"))
    splits = Splits(harmful={"attack": api.splits().harmful["attack"][:6]}, benign={})
    plan = attack.plan(model, api.context(splits, seed=0, max_new_tokens=12))
    fit(replace(plan, prepare=replace(plan.prepare, reward=reward)))
    return {name: weight.detach().clone() for name, weight in model.network.named_parameters()}, seen


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "passes"), [(False, 1), (True, 1), (False, 2)])
def test_a_run_in_recorded_steps_learns_what_a_plain_one_does(lora, passes, tiny_model, tapes, monkeypatch):
    """With one pass the weights are the same to the last bit; with two, log-probabilities at sampling time matter."""
    plain, said = trained(adapt(tiny_model(small=True), LoRA(r=4) if lora else None), passes=passes)
    monkeypatch.setattr(static_use, "DEVICES", {"cpu"})
    weights, again = trained(adapt(tiny_model(small=True), LoRA(r=4) if lora else None), passes=passes)
    assert again == said
    assert len(said) == STEPS
    for name, weight in weights.items():
        assert torch.equal(weight, plain[name]) if passes == 1 else torch.allclose(weight, plain[name], atol=1e-4), name
    assert sum(tape.repeated for tape in tapes.made) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "bf16"), [(False, False), (True, True), *repeated((False, True))])
def test_steps_are_recorded_in_the_first_rollout_and_repeated_in_the_others(lora, bf16, tiny_model, tapes, monkeypatch):
    """While the optimizer changes the weights, in float32 and computing in bfloat16."""
    model, counts = adapt(tiny_model(small=True), LoRA(r=4) if lora else None), []
    monkeypatch.setattr(type(model), "stop_ids", property(lambda self: (-1,)))
    monkeypatch.setattr(static_use, "DEVICES", {"cpu"})
    decode = static_use.decode_static

    def counted(*args, **named):
        decoded = decode(*args, **named)
        assert decoded is not None
        counts.append(len(tapes.made))
        return decoded

    monkeypatch.setattr("holdfast.network.generate.decode_static", counted)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    weights, said = trained(model, bf16=bf16)
    assert len(counts) == STEPS
    assert counts[0] == counts[-1] > 0
    assert said[0] != said[1]
    assert any(not torch.equal(weight, before[name]) for name, weight in weights.items())
