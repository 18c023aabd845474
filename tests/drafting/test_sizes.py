"""How large a drafted grid is: as large as the hours allow, by a rule of thumb."""

import pytest

from holdfast.drafting import sizes


@pytest.mark.parametrize(
    ("weights", "attack", "steps", "prompts", "seconds"),
    [(137e6, "sft", 24, 24, 425), (137e6, "grpo", 24, 24, 646), (0.36e6, "sft", 60, 100, 23)],
)
def test_the_rule_of_thumb_is_within_twice_of_what_one_core_took(
    monkeypatch, *, weights, attack, steps, prompts, seconds
):
    monkeypatch.setattr(sizes, "operations_per_second", lambda: 32e9)
    monkeypatch.setattr(sizes.os, "cpu_count", lambda: 1)
    plan = sizes.Plan(seeds=1, steps=steps, prompts=prompts, defenses=(), attacks=(attack,))
    told = 3600 * sizes.hours_of(plan, weights=weights, tokens=80, new_tokens=32)
    assert seconds / 2 < told < seconds * 2


def test_more_hours_never_give_less(monkeypatch):
    monkeypatch.setattr(sizes, "operations_per_second", lambda: 1e6)
    budgets = (0.1, 1, 10, 100, 1000, 10_000, 100_000)
    for threat in sizes.METHODS:
        plans = [
            sizes.plan_for(threat, hours=hours, weights=100_000, tokens=60.0, new_tokens=32, prompts=100)
            for hours in budgets
        ]
        assert [plan.seeds for plan in plans] == sorted(plan.seeds for plan in plans)
        assert len({plan.seeds for plan in plans}) > 2
        assert all(plan.hours <= hours or plan.steps == 12 for plan, hours in zip(plans, budgets, strict=True))


def test_gpus_are_reckoned_with_without_being_timed(monkeypatch):
    monkeypatch.setattr(sizes, "gpus", lambda: ["0", "1"])
    assert sizes.operations_per_second.__wrapped__() == 2 * sizes.OF_A_GPU
