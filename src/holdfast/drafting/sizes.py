"""How much fits into some hours: seeds, steps, prompts and methods, by a rule of thumb. No torch.

The rule counts operations, `6 x weights` for a token that is trained on and `2 x weights` for one that is generated,
and divides them by what this machine does in a matrix product, timed on the spot. Loading, slow memory and answers that
end early are not in it: `holdfast doctor --grid` runs a few steps of each cell and tells better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from holdfast.experiment.devices import gpus

ThreatModel = Literal["open_weights", "fine_tuning_service"]
UNKNOWN_WEIGHTS = 1_000_000_000
BATCH, GROUP = 4, 4
GENERATING = 0.25
"""Speed of a token that is generated, as a share of that of one that is trained on, for each operation."""
OF_PRODUCT = 0.5
"""Speed of a step as a share of that of one large matrix product."""
OF_A_GPU = 1e14
"""Operations a second that are assumed of a GPU; what this machine's GPU does is not timed here."""
EVALUATIONS = 6
BEST_OF = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a grid has: `steps` of each attack that trains, `prompts` of each kind an evaluation, and its methods."""

    seeds: int
    steps: int
    prompts: int
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    copies: tuple[str, ...] = ()
    hours: float = field(default=0.0)

    @property
    def every(self) -> int:
        """Steps between two evaluations."""
        return max(1, self.steps // EVALUATIONS)


METHODS: Mapping[ThreatModel, tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]] = {
    "open_weights": (
        (
            ("reward_neutralization", "repnoise"),
            ("sft", "dpo", "grpo", "best_of_n", "grpo after sft"),
            ("bfloat16", "q4_0"),
        ),
        (("reward_neutralization",), ("sft", "dpo", "grpo", "best_of_n"), ("q4_0",)),
        (("reward_neutralization",), ("sft", "grpo"), ()),
    ),
    "fine_tuning_service": (
        (
            ("refusal_loss", "kl_anchor"),
            ("sft", "dpo", "grpo", "sft under cover", "honest sft"),
            (),
        ),
        (("refusal_loss",), ("sft", "dpo", "grpo", "honest sft"), ()),
        (("refusal_loss",), ("sft", "grpo"), ()),
    ),
}
"""Defenses, attacks and copies of each threat model, from many to few."""
LADDER: tuple[tuple[int, int, int, int], ...] = (
    *((0, 10, 96, 100), (0, 5, 96, 100), (0, 3, 60, 100), (1, 3, 60, 60), (1, 3, 36, 40)),
    *((2, 3, 24, 40), (2, 2, 24, 24), (2, 1, 18, 24), (2, 1, 12, 16)),
)
"""Breadth (an index of `METHODS`), seeds, steps and prompts, from much to little: seeds give way to three first, then
steps and breadth, and seeds below three last, since a defense of two seeds is no finding."""


def plan_for(
    threat: ThreatModel, *, weights: int | None, tokens: float, new_tokens: int, prompts: int, hours: float
) -> Plan:
    """The most that fits into `hours` by the rule of thumb; the least there is if nothing does.

    Args:
        threat: who attacks.
        weights: of the model; a billion if not known.
        tokens: mean length of a prompt with its answer.
        new_tokens: most tokens of a sampled answer.
        prompts: test prompts of each kind that there are.
        hours: budget, on this machine.
    """
    plan = None
    for breadth, seeds, steps, wanted in LADDER:
        defenses, attacks, copies = METHODS[threat][breadth]
        plan = Plan(seeds=seeds, steps=steps, prompts=min(wanted, prompts), defenses=defenses, attacks=attacks,
                    copies=copies)  # fmt: skip
        plan = replace(plan, hours=hours_of(plan, weights=weights, tokens=tokens, new_tokens=new_tokens))
        if plan.hours <= hours:
            return plan
    assert plan is not None
    return plan


def hours_of(plan: Plan, *, weights: int | None, tokens: float, new_tokens: int) -> float:
    """Hours of a plan by the rule of thumb: all cells with controls, evaluations and hardening, on this machine."""
    own = float(weights or UNKNOWN_WEIGHTS)
    learnt, said = 6 * own * (tokens + 0.0), 2 * own * new_tokens / GENERATING
    rollouts = BATCH * GROUP * (said + 6 * own * (tokens + new_tokens))
    costs = {"sft": BATCH * learnt, "dpo": 2.7 * BATCH * learnt, "grpo": rollouts, "best_of_n": 0.0}
    evaluations = (EVALUATIONS + 1) * 2 * plan.prompts * said
    models = (1 + len(plan.defenses)) * (1 + len(plan.copies))
    attacked = sum(plan.steps * _cost(costs, attack) + evaluations for attack in plan.attacks)
    attacked += BEST_OF * plan.prompts * said * plan.attacks.count("best_of_n")
    hardened = len(plan.defenses) * plan.steps * rollouts
    return plan.seeds * (models * attacked + hardened) / (operations_per_second() * 3600)


def _cost(costs: Mapping[str, float], attack: str) -> float:
    return max(cost for name, cost in costs.items() if name in attack.split() or name == attack)


@cache
def operations_per_second() -> float:
    """Operations a second that this machine is reckoned to do in training: a matrix product timed, a GPU assumed."""
    if count := len(gpus()):
        return OF_A_GPU * count
    import numpy as np

    size = 768
    one = np.ones((size, size), dtype=np.float32)
    one @ one
    start = time.perf_counter()
    for _ in range(4):
        one @ one
    return OF_PRODUCT * 4 * 2 * size**3 / max(time.perf_counter() - start, 1e-6)
