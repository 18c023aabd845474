"""Online defenses computed in bfloat16: the same training as in float32, up to the rounding of bfloat16."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace

import pytest
import torch

from holdfast.attacks import ATTACKS
from holdfast.defenses.online import ONLINE
from holdfast.network.anatomy import unwrapped
from holdfast.training.contracts import learns_from
from holdfast.training.fit import fit

ATTACKED = ("sft", "grpo")
SAMPLED = ("safe_rlhf", "lisa", "refusal_loss")
"""Defenses that are tried on answers the attack samples too; the others do the same whatever it learns from."""
NEEDS = {"constrained_sft": "answers", "safe_rlhf": "rewards"}
REQUIRED = {"safe_rlhf": {"threshold": 0.3}}
PAIRS = [
    (attack, defense)
    for attack in ATTACKED
    for defense in ONLINE
    if NEEDS.get(defense) in (None, learns_from(ATTACKS.load(attack))) and (attack == "sft" or defense in SAMPLED)
]


TOLERANCE = 0.03
"""How far the move of the weights may be from that of float32, as a share of it: bfloat16 has 8 bits, and a step is a
sum over many tokens. Measured: 0.011 at most."""


class Recorded:
    """Batches as a plan prepares them, kept; or those of another run in their place: answers sampled in bfloat16 differ
    by a token soon, and with them all that is learnt."""

    def __init__(self, kept=()):
        self.kept, self.given = [], list(kept)

    def around(self, prepare, model, micro_batches, step):
        own = prepare(model, micro_batches, step)
        self.kept.append(copy.deepcopy(own))
        return copy.deepcopy(self.given[step]) if self.given else own


@pytest.fixture
def two_steps(tiny_model, make_context, quick, weights):
    """`two_steps(attack, defense, bf16, batches)`: the move of the weights, and the types that a layer put out."""

    def run(attack, defense, bf16, batches):
        settings = quick(ATTACKS.load(attack)(), steps=2)
        small = {"per_device_train_batch_size": 2, "bf16": bf16}
        optim = replace(settings.optim, optim="sgd", learning_rate=1e-2, **small)
        model, losses, types = tiny_model(small=True), [], set()
        before = weights(model)
        train = lambda plan: fit(replace(plan, optim=replace(plan.optim, max_steps=2, **small)))  # noqa: E731
        context = make_context(fit=train, max_new_tokens=8)
        online = ONLINE.load(defense)(**REQUIRED.get(defense, {}))
        if "batch_size" in {item.name for item in fields(online)}:
            online = replace(online, batch_size=2)
        plan = online.constrain(replace(settings, optim=optim).plan(model, context), context)
        layer = unwrapped(plan.model.network).model.layers[0].mlp
        layer.register_forward_hook(lambda module, inputs, output: types.add(output.dtype) if module.training else None)
        hook = lambda progress: losses.append(progress.metrics.get("loss", 0.0))  # noqa: E731
        fitted = fit(replace(plan.wrapped(batches.around), hooks=(*plan.hooks, hook)))
        assert fitted.steps == 2
        assert all(map(math.isfinite, losses))
        assert {p.dtype for p in fitted.model.network.parameters()} == {torch.float32}
        with plan.released(fitted.model) as released:
            return weights(released) - before, types

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "defense"), PAIRS)
def test_a_defense_computed_in_bfloat16_moves_float32_weights_as_in_float32(two_steps, attack, defense):
    plain = Recorded()
    move, types = two_steps(attack, defense, False, plain)
    assert types == {torch.float32}
    rounded, types = two_steps(attack, defense, True, Recorded(plain.kept))
    assert types == {torch.bfloat16}
    assert move.norm() > 0
    assert 0 < (rounded - move).norm() < TOLERANCE * move.norm()
