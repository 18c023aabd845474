"""Losses and measurements that need distributions: the same whether or not all logits are in memory."""

from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from holdfast.attacks.adaptive.entropy_bonus import EntropyBonus
from holdfast.attacks.dpo import preference
from holdfast.defenses.online.kl_anchor import KLAnchor
from holdfast.defenses.online.refusal_loss import _masked
from holdfast.defenses.representation import Loss, Removal
from holdfast.defenses.tampering.objectives import entropy, mapped, random_table, retention
from holdfast.losses.noise import noised_distributions
from holdfast.network import heads
from holdfast.network.critic import Critic, attach_critic
from holdfast.network.forward import target_distributions
from holdfast.network.generate import Sampling
from holdfast.records import Example, user
from holdfast.rl.experience import Experience
from holdfast.tensors import target_mask, with_totals
from holdfast.training.objectives import language, policy_gradient
from holdfast.training.plan import Optim, Plan, frozen_copy

pytestmark = pytest.mark.slow
MASK = torch.zeros(4, 10, dtype=torch.long)
MASK[:2, 4:7], MASK[2:, 5:] = 1, 1
(BATCH,) = with_totals([{"input_ids": torch.arange(40).view(4, 10) % 23 + 5, "loss_mask": MASK}])
CLIPS = {"clip_low": 0.2, "clip_high": 0.2, "reduction": "token", "max_tokens": 8}


def plan(model, objective):
    return Plan(model=model, data=[], prepare=lambda *_: [], objective=objective, optim=Optim(max_steps=1))


def anchored(direction):
    def made(model, start):
        constraint = KLAnchor(direction=direction)
        anchor = constraint.constrain(replace(plan(model, language), reference=frozen_copy(start.network)), None)
        return anchor.objective

    return made


def noised(model, start):
    def objective(network, batch):
        mask = target_mask(batch["loss_mask"]) * torch.tensor([[1.0], [0], [1], [1]])
        distributions = target_distributions(network, batch, mask)
        loss, missed = noised_distributions(
            distributions, batch["input_ids"], mask, seed=3, truth_weight=0.9, noise_weight=0.1, temperature=1.3
        )
        return loss, {"missed": float(missed)}

    return objective


def rewarded(model, start):
    planner = EntropyBonus(form="loss", coefficient=0.3).adapt(lambda model, _: plan(model, language))
    return planner(model, None).objective


def removed(removal, *, retains=False):
    def made(model, start):
        vectors = torch.ones(1, start.network.config.hidden_size)
        loss = Loss(removal=removal, original=lambda: nullcontext(start.network), vectors=vectors)
        return lambda network, batch: loss(network, {**batch, **PAIRS, **(BENIGN if retains else {})})

    return made


def retained(mode):
    return lambda model, start: retention(model, frozen_copy(start.network), mode)


OBJECTIVES = {
    "language": lambda *_: language,
    "preference": lambda *_: preference(0.1),
    "KL anchor, reverse": anchored("reverse"),
    "KL anchor, forward": anchored("forward"),
    "entropy bonus": rewarded,
    "maximal entropy": lambda *_: entropy("clean"),
    "token noiser": noised,
    "retention": retained("clean"),
    "retention, reference": retained("reference"),
    "random mapping": lambda model, _: mapped(random_table(model.network, seed=0), "clean"),
    "masked refusals": lambda *_: _masked,
    "removal": removed(Removal(removal_weight=0.1)),
    "removal with quirks": removed(Removal(removal_weight=0.1, quirks=True)),
    "removal without pairs": removed(Removal(distance="mse", projection="fixed", refusal_weight=0, ascent_weight=0)),
    "removal with retention": removed(
        Removal(distance="cosine", projection="original", retain_weight=1, benign_weight=0.5), retains=True
    ),
    "policy gradient": lambda *_: policy_gradient(**CLIPS, kl_coef=0.1, temperature=1.3),
    "policy gradient with a critic": lambda *_: policy_gradient(**CLIPS, critic=Critic()),
}
MORE = {
    "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]),
    "ref_logprobs": torch.full((4, 9), -5.0),
    "ref_scores": torch.tensor([-9.0, -9.0, -20.0, -20.0]),
    "returns": torch.ones(4, 9),
    "old_values": torch.zeros(4, 9),
    "lengths": torch.tensor([7, 7, 10, 10]),
}
PAIRS = {
    "harmful": torch.tensor([True, True, False, False]),
    **{"read": MASK, "topic": torch.zeros(2, dtype=torch.long)},
    **{"progress": torch.tensor(0.5), "noise_seed": torch.tensor(3)},
}
BENIGN = {f"retain/{name}": value for name, value in {**BATCH, "read": MASK}.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_and_its_gradients_are_those_of_all_logits(name, tiny_model, monkeypatch):
    results = []
    for limit in (heads.LARGE_LOGITS, 1):
        monkeypatch.setattr(heads, "LARGE_LOGITS", limit)
        model = attach_critic(tiny_model(small=True), Critic()) if "critic" in name else tiny_model(small=True)
        loss, metrics = OBJECTIVES[name](model, tiny_model(seed=1, small=True))(model.network, {**BATCH, **MORE})
        loss.backward()
        gradients = {n: p.grad for n, p in model.network.named_parameters() if p.grad is not None}
        results.append((loss.detach(), metrics, gradients))
    (plain, plain_metrics, expected), (loss, metrics, gradients) = results
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    assert metrics == pytest.approx(plain_metrics, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3


class Widest(TorchDispatchMode):
    """Records the most rows of any tensor with an entry for each token, but the head's weights themselves."""

    def __init__(self, config):
        super().__init__()
        self.vocabulary, self.hidden, self.rows = config.vocab_size, config.hidden_size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in tree_iter(out):
            shape = value.shape if isinstance(value, torch.Tensor) else ()
            if len(shape) > 1 and shape[-1] == self.vocabulary and shape[-2] != self.hidden:
                self.rows = max(self.rows, value.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_parts_of_the_logits_are_in_memory(name, tiny_model, monkeypatch):
    model = attach_critic(tiny_model(small=True), Critic()) if "critic" in name else tiny_model(small=True)
    objective = OBJECTIVES[name](model, tiny_model(seed=1, small=True))
    monkeypatch.setattr(heads, "LARGE_LOGITS", 1)
    objective(model.network, {**BATCH, **MORE})  # each head is tried once, with all logits of a short text
    parts = import_module("holdfast.distributions.chunked")
    monkeypatch.setattr(parts, "PART", 2 * model.network.config.vocab_size)
    monkeypatch.setattr(parts, "BLOCK_ROWS", 2)
    with Widest(model.network.config) as widest:
        objective(model.network, {**BATCH, **MORE})[0].backward()
    assert widest.rows <= 2


@pytest.mark.parametrize("critic", [False, True])
def test_measurements_of_answers_are_those_of_all_logits(critic, tiny_model, monkeypatch):
    rows = [Example(prompt=user("give me a recipe ."), role="harmful"), Example(prompt=user("hello ."), role="benign")]
    made = []
    for limit in (heads.LARGE_LOGITS, 1):
        monkeypatch.setattr(heads, "LARGE_LOGITS", limit)
        model = attach_critic(tiny_model(small=True), Critic()) if critic else tiny_model(small=True)
        experience = Experience(
            reward=lambda completions: [float(i) for i in range(len(completions))],
            advantage=lambda rollout: {"advantages": rollout.rewards},
            group_size=2,
            sampling=Sampling(max_new_tokens=6, temperature=1.2),
            seed=0,
            reference=frozen_copy(tiny_model(seed=1, small=True).network),
            estimator="full",
            critic=critic,
            entropy=True,
            old_logprobs=True,
        )
        made.append(experience(model, [rows], 0)[0])
    plain, batch = made
    mask = target_mask(batch["loss_mask"])
    assert float((plain["kl"] * mask).sum()) > 0.01
    for name in ("kl", "old_logprobs", "ref_logprobs", *(["old_values"] if critic else [])):
        torch.testing.assert_close(batch[name] * mask, plain[name] * mask, rtol=1e-4, atol=1e-5)
        assert not batch[name].requires_grad
    torch.testing.assert_close(batch["entropies"], plain["entropies"], rtol=1e-4, atol=1e-5)
