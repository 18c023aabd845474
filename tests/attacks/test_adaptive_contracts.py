"""What every adaptive attacker of the table keeps to, round whatever attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.gate.attack_kinds import is_off
from holdfast.methods.docstrings import class_text
from holdfast.methods.settings import plain, typed
from holdfast.network.models import LoRA
from holdfast.records import HoldfastError, Method
from holdfast.rl.guidance.schedule import Schedule
from holdfast.training.checkpoints import last_checkpoint
from holdfast.training.fit import fit
from holdfast.training.plan import Optim
from repeated import thinned

SHORT = Optim(max_steps=2, learning_rate=1e-3, per_device_train_batch_size=4)
RL, SFT_LIKE, EVERY = ("grpo", "ppo"), ("sft",), ("sft", "dpo", "grpo", "ppo")


@dataclass(frozen=True)
class Case:
    """An adaptive attacker as it is tested: settings, the attacks that it goes round, settings that switch it off."""

    name: str
    settings: dict[str, Any]
    attacks: tuple[str, ...] = EVERY
    off: dict[str, Any] = field(default_factory=dict)

    def made(self, **more):
        return ADAPTIVE.load(self.name)(**{**self.settings, **more})


CASES = {
    "early stop at reward": Case("early_stop", {"at": "reward", "patience": 3}, RL, {"patience": 0}),
    "early stop at harm": Case(
        "early_stop",
        {"at": "harm", "judge": "graded", "patience": 3, "every": 1, "num_prompts": 4},
        off={"patience": 0},
    ),
    "entropy in the loss": Case("entropy_bonus", {"form": "loss", "coefficient": 0.5}, off={"coefficient": 0.0}),
    "entropy in the reward": Case("entropy_bonus", {"form": "reward"}, RL, {"coefficient": 0.0}),
    "warm start": Case(
        "warm_start",
        {"optim": SHORT, "settings": {"num_samples": 8, "adapter": {"r": 4}}},
        off={"optim": replace(SHORT, max_steps=0)},
    ),
    "mix": Case("mix_weights", {}, off={"weight": 0.0}),
    "subtract": Case("subtract_delta", {"scale": 0.2}, off={"scale": 0.0}),
    "reshape": Case("reshape", {"norms": 4.0, "pairs": 2.0}, off={"norms": 1.0, "pairs": 1.0}),
    "guided": Case(
        "guided",
        {"schedule": Schedule(kind="success", horizon=3.0, last=0.0)},
        RL,
        {"schedule": Schedule(start=1.0)},
    ),
    "resample": Case("resample", {"tries": 1, "temperature": 1.5}, RL, {"tries": 0}),
    "cover": Case("benign_cover", {"share": 0.5}, SFT_LIKE, {"share": 0.0}),
}
# What changes the model before an attack does so whichever attack it is.
BEFORE = ("mix", "subtract", "reshape")
PAIRS = [
    (name, attack)
    for name, case in CASES.items()
    for attack in case.attacks
    if attack in ("sft", "grpo") or name not in BEFORE
]
# What is kept for a checkpoint differs between the two kinds of attack; a critic is kept beside them where one trains
# before the attack or weights are put back after it.
CRITICS = ("early stop at harm", "warm start")
RESUMED = [
    (name, attack)
    for name, attack in PAIRS
    if attack == "sft" or (attack == "grpo" and name not in BEFORE) or (attack == "ppo" and name in CRITICS)
]
# PPO is GRPO with a critic, and DPO differs from SFT in its rows and its reference.
PAIRED_ROWS = (("entropy in the loss", "dpo"), ("warm start", "dpo"))
OWN_SEED = ("early stop at harm", "warm start", "guided", "cover")
OWN_WEIGHTS = ("early stop at harm", "warm start", "mix", "subtract", "guided")


def kept(case, attack):
    return attack in ("sft", "grpo") or (attack == "ppo" and case in CRITICS) or (case, attack) in PAIRED_ROWS


def kept_over_a_checkpoint(case, attack):
    """Each case once, and with a critic where one is kept."""
    return attack in ("sft", "ppo") or CASES[case].attacks == RL


@pytest.fixture
def context(make_context, aligned_model, tiny_model):
    """`context(seed=0)`: one in which the undefended and the base model are known."""
    known = {"undefended": aligned_model, "base": partial(tiny_model, small=True)}
    return lambda seed=0: make_context(seed=seed, models=lambda name: known[name]())


@pytest.fixture
def adapted_plan(wavering_model, context, quick):
    """`adapted_plan(case, attack, steps=4, seed=0, **settings)`: a short attack with an adaptive attacker round it."""

    def plan(case, attack, *, steps=4, seed=0, **settings):
        planner = quick(ATTACKS.load(attack)(), steps=steps).plan
        if case is not None:
            planner = CASES[case].made(**settings).adapt(planner)
        return planner(wavering_model(), context(seed))

    return plan


def ran(plan):
    """A finished run and the loss after each step."""
    losses = []
    hook = lambda progress: losses.append(progress.metrics.get("loss", 0.0))  # noqa: E731
    return fit(replace(plan, hooks=(*plan.hooks, hook))), losses


@pytest.fixture(scope="module")
def known():
    """Runs that several tests of this file compare with, each made once."""
    return {}


@pytest.fixture
def whole(adapted_plan, weights, known):
    """`whole(case, attack)`: the weights that the run ends with, its steps, samples and tokens, and its losses."""

    def ended(case, attack):
        if (case, attack) not in known:
            fitted, losses = ran(adapted_plan(case, attack))
            known[case, attack] = weights(fitted.model), (fitted.steps, fitted.samples, fitted.tokens), losses
        return known[case, attack]

    return ended


class Killed(Exception):
    """What a process dies of."""


def test_every_adaptive_attacker_is_tested_here():
    assert {case.name for case in CASES.values()} == set(ADAPTIVE)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_row_leads_to_a_frozen_settings_class_with_documentation(name):
    cls = ADAPTIVE.load(name)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert class_text(cls)
    assert ADAPTIVE[name].summary


@pytest.mark.parametrize("name", ADAPTIVE)
def test_settings_survive_being_plain_values(name):
    cls = ADAPTIVE.load(name)
    assert typed(cls, plain(cls()), name) == cls()


@pytest.mark.slow
@pytest.mark.parametrize("pair", thinned(PAIRS, kept, single=True), ids="-".join)
def test_an_adapted_attack_differs_from_the_plain_one_with_finite_losses(pair, whole):
    case, attack = pair
    after, _, losses = whole(case, attack)
    assert losses
    assert all(map(math.isfinite, losses))
    assert after.isfinite().all()
    if CASES[case].name != "early_stop":
        assert not torch.equal(after, whole(None, attack)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    thinned([pair for pair in PAIRS if pair not in RESUMED], lambda *pair: pair in PAIRED_ROWS, single=True),
    ids="-".join,
)
def test_an_adapted_attack_repeats(pair, adapted_plan, whole, weights):
    """The others are repeated by the test of checkpoints."""
    assert torch.equal(weights(fit(adapted_plan(*pair)).model), whole(*pair)[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", thinned(CASES, lambda case: case in OWN_SEED))
def test_an_adapted_attack_follows_its_seed(case, adapted_plan, whole, weights):
    attack = CASES[case].attacks[0]
    assert not torch.equal(weights(fit(adapted_plan(case, attack, seed=1)).model), whole(case, attack)[0])


@pytest.mark.parametrize("case", CASES)
def test_switched_off_the_very_attack_comes_back(case):
    def planner(model, context):
        raise AssertionError

    off, on = CASES[case].made(**CASES[case].off), CASES[case].made()
    assert off.adapt(planner) is planner
    # a gate must not count the plain attack as one that is made for the defense
    name = CASES[case].name
    assert [is_off(Method(name=name, settings=plain(each))) for each in (off, on)] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("case", thinned(CASES, lambda case: case in ("entropy in the loss", "warm start")))
def test_switched_off_the_run_is_the_plain_one_bit_for_bit(case, adapted_plan, whole, weights):
    attack = CASES[case].attacks[0]
    off = fit(adapted_plan(case, attack, **CASES[case].off))
    assert torch.equal(weights(off.model), whole(None, attack)[0])


@pytest.mark.slow
@pytest.mark.parametrize("pair", thinned(RESUMED, kept_over_a_checkpoint, single=True), ids="-".join)
def test_an_adapted_attack_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    pair, adapted_plan, whole, weights, tmp_path
):
    def kill(progress):
        if progress.max_steps - progress.step == 1:
            raise Killed

    plan = adapted_plan(*pair)
    with pytest.raises(Killed):
        fit(replace(plan, hooks=(*plan.hooks, kill)), folder=tmp_path, checkpoint_every=2)
    assert last_checkpoint(tmp_path)
    resumed = fit(adapted_plan(*pair), folder=tmp_path, checkpoint_every=2)
    after, spent, _ = whole(*pair)
    assert torch.equal(weights(resumed.model), after)
    assert (resumed.steps, resumed.samples, resumed.tokens) == spent


@pytest.mark.slow
@pytest.mark.parametrize("case", thinned(CASES, lambda case: case in OWN_WEIGHTS))
def test_an_attack_by_adapter_can_be_adapted(case, wavering_model, context, quick, weights):
    attack = quick(ATTACKS.load(CASES[case].attacks[0])(), batch=4)
    longer = replace(context(), max_new_tokens=24)  # so few steps of an adapter show late in an answer
    plan = CASES[case].made().adapt(replace(attack, adapter=LoRA(r=4)).plan)(wavering_model(), longer)
    start = {name: p.detach().clone() for name, p in plan.model.network.named_parameters()}
    fitted, losses = ran(plan)
    assert all(map(math.isfinite, losses))
    moved = {name for name, p in fitted.model.network.named_parameters() if not torch.equal(p, start[name])}
    assert moved
    assert all("lora" in name for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sft", "grpo"])
def test_all_that_fit_an_attack_stand_in_one_another_and_under_a_constraint(
    attack, wavering_model, context, quick, weights
):
    runs = []
    for _ in range(2):
        planner = quick(ATTACKS.load(attack)()).plan
        for case in CASES.values():
            fits = attack in case.attacks and case.name != "resample"  # `guided` samples the rollouts already
            planner = case.made().adapt(planner) if fits else planner
        plan = planner(wavering_model(), context())
        fitted, losses = ran(RefusalLoss(alpha=1.0, batch_size=4).constrain(plan, context()))
        assert all(map(math.isfinite, losses))
        assert plan.spent.steps == 2
        runs.append(weights(fitted.model))
    assert torch.equal(*runs)


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.attacks != EVERY])
def test_what_does_not_fit_an_attack_is_refused_by_name(case, adapted_plan):
    unfit = set(EVERY) - set(CASES[case].attacks)
    assert unfit
    for attack in unfit:
        with pytest.raises(HoldfastError, match=f"^{CASES[case].name}: "):
            adapted_plan(case, attack)
