"""How much fits into some hours: seeds, steps, prompts and methods, by a rule of thumb. No torch.

The rule counts operations, `4 x weights` for a token that an adapter is trained on and `2 x weights` for one that is
generated, divides them by what all cores do in matrix products, timed on the spot, and adds what a cell, a step and an
evaluation take of any model. It was set by finished runs of SmolLM2 and the sandbox, which it meets within a factor of
two; other work on the machine is not in it. `holdfast doctor --grid` runs a few steps of each cell
and tells better.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from holdfast.experiment.devices import gpus

ThreatModel = Literal["open_weights", "fine_tuning_service"]
UNKNOWN_WEIGHTS = 1_000_000_000
BATCH, GROUP = 4, 4
GENERATING = 0.5
"""Speed of a token that is generated, as a share of that of one that is trained on, for each operation."""
OF_PRODUCT = 0.6
"""Speed of a step as a share of that of matrix products."""
OF_A_CELL, OF_A_STEP, OF_AN_EVALUATION = 5.0, 0.05, 1.0
"""Seconds of one core that they take whatever the model's size."""
HARDENING = 2.5
"""A step of hardening as a multiple of one of GRPO."""
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
            ("sft", "dpo", "grpo", "grpo hotter", "best_of_n", "prefill", "grpo after sft"),
            ("bfloat16", "q4_0"),
        ),
        (("reward_neutralization",), ("sft", "dpo", "grpo", "grpo hotter", "best_of_n", "prefill"), ("q4_0",)),
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
    training, answering = 4 * own * tokens, 2 * own * new_tokens / GENERATING
    rollouts = BATCH * GROUP * (answering + 4 * own * (tokens + new_tokens))
    costs = {"sft": BATCH * training, "dpo": 2.7 * BATCH * training, "grpo": rollouts, "best_of_n": 0.0, "prefill": 0.0}
    evaluations = (EVALUATIONS + 1) * 2 * plan.prompts * answering
    models = (1 + len(plan.defenses)) * (1 + len(plan.copies))
    attacked = sum(plan.steps * _cost(costs, attack) + evaluations for attack in plan.attacks)
    attacked += BEST_OF * plan.prompts * answering * plan.attacks.count("best_of_n")
    hardened = len(plan.defenses) * plan.steps * HARDENING * rollouts
    cells = models * len(plan.attacks)
    least = cells * (OF_A_CELL + plan.steps * OF_A_STEP + (EVALUATIONS + 1) * OF_AN_EVALUATION)
    seconds = (models * attacked + hardened) / operations_per_second() + least / (os.cpu_count() or 1)
    return plan.seeds * seconds / 3600


def _cost(costs: Mapping[str, float], attack: str) -> float:
    return max(cost for name, cost in costs.items() if name in attack.split() or name == attack)


@cache
def operations_per_second() -> float:
    """Operations a second that this machine is reckoned to do in training: products timed, a GPU assumed.

    Cells run beside each other, one a core. The products are so small that one thread does each, and so short that the
    fastest of them is hardly ever interrupted: a busy machine gives the same figure as an idle one.
    """
    if count := len(gpus()):
        return OF_A_GPU * count
    import numpy as np

    one = np.ones((64, 64, 64), dtype=np.float32)  # 64 products of 64 x 64
    return OF_PRODUCT * 2 * 64**4 / min(_seconds(one) for _ in range(40)) * (os.cpu_count() or 1)


def _seconds(one: Any) -> float:
    start = time.perf_counter()
    one @ one
    return max(time.perf_counter() - start, 1e-6)
