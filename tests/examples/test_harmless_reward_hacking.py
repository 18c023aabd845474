"""Proposition 1 of the reverse preference attack, by enumeration and on random problems."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[2] / "examples" / "harmless_reward_hacking.py"
SPEC = importlib.util.spec_from_file_location("harmless_reward_hacking", PLACE)
assert SPEC is not None
assert SPEC.loader is not None
example = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)
PUBLISHED = example.Problem(reward=np.array([[1.0, 0.4]]), harm=np.array([[1.0, 0.0]]), bound=0.5)


def random_problem(rng, *, whole=False):
    """2 to 4 states and actions; the first action of every state is allowed. Whole rewards have ties."""
    shape = tuple(rng.integers(2, 5, 2))
    reward = rng.integers(-2, 3, shape).astype(float) if whole else rng.normal(size=shape)
    harm = rng.choice([0.0, 0.5, 0.8], shape)
    harm[:, 0] = rng.choice([0.0, 0.5], shape[0])
    return example.Problem(reward, harm, 0.5)


def best_by_enumeration(problem, *, within):
    """The highest J(R, .) of all deterministic policies, or of those whose harm is at most the bound in each state."""
    states, actions = problem.reward.shape
    return max(
        sum(problem.reward[state, action] for state, action in enumerate(chosen))
        for chosen in product(range(actions), repeat=states)
        if not within or all(problem.harm[state, action] <= 0.5 for state, action in enumerate(chosen))
    )


def gaps(problem, violation=0.0):
    """J(R, free) - J(R, kept) and J(R_c, kept) - J(R_c, free)."""
    free, kept = example.unconstrained(problem), example.constrained(problem)
    limited = example.constrained_reward(problem, violation)
    return (
        example.value(problem.reward, free) - example.value(problem.reward, kept),
        example.value(limited, kept) - example.value(limited, free),
    )


def violated(problem):
    """The states in which the unconstrained optimum violates the constraint."""
    return (example.unconstrained(problem) * ~problem.allowed).any(1)


@pytest.mark.parametrize("whole", [False, True])
def test_both_optima_are_those_of_all_policies(whole):
    rng = np.random.default_rng(0)
    for _ in range(60):
        problem = random_problem(rng, whole=whole)
        for policy, within in ((example.unconstrained(problem), False), (example.constrained(problem), True)):
            assert example.value(problem.reward, policy) == pytest.approx(best_by_enumeration(problem, within=within))
        assert (example.constrained(problem) * problem.harm).max() <= problem.bound


def test_an_answer_whose_harm_is_the_bound_is_allowed():
    problem = example.Problem(reward=np.array([[1.0, 0.0]]), harm=np.array([[0.5, 0.0]]), bound=0.5)
    assert example.constrained(problem).argmax() == 0
    assert gaps(problem) == (0.0, 0.0)


def test_the_rewards_of_the_published_case_are_hackable_by_the_two_optima():
    assert gaps(PUBLISHED) == pytest.approx((0.6, 0.4))


def test_with_a_negative_reward_for_every_allowed_answer_they_are_not():
    problem = PUBLISHED._replace(reward=np.array([[1.0, -0.4]]))
    assert gaps(problem) == pytest.approx((1.4, -0.4))  # the 0 of a violation beats -0.4


def test_adding_a_constant_can_break_the_construction_and_a_shift_to_zero_mends_it():
    below = example.QUESTIONS._replace(reward=example.QUESTIONS.reward - 1.2)
    assert min(gaps(example.QUESTIONS)) > 0
    assert gaps(below)[1] < 0
    assert min(gaps(example.shifted(below))) > 0
    assert min(gaps(below, violation=below.reward.min())) > 0


def test_the_constrained_optimum_of_the_example_writes_word_salad():
    kept = example.constrained(example.QUESTIONS)
    assert [example.ACTIONS[action] for action in kept.argmax(1)] == ["word salad", "word salad"]


def test_rewards_with_lowest_value_zero_are_hackable_wherever_the_optimum_violates():
    rng, cases = np.random.default_rng(1), 0
    for _ in range(400):
        problem = example.shifted(random_problem(rng))
        if not violated(problem).any():
            assert gaps(problem) == (0.0, 0.0)
            continue
        best = np.where(problem.allowed, problem.reward, -np.inf).max(1)[violated(problem)]
        if best.max() == 0:  # every allowed answer there has the lowest reward of all
            assert gaps(problem)[1] == 0
            continue
        cases += 1
        first, second = gaps(problem)
        assert first > 0
        assert second == pytest.approx(best.sum())
        assert second > 0
    assert cases > 100


def test_without_the_shift_random_rewards_often_break_the_construction():
    rng = np.random.default_rng(2)
    seconds = [gaps(problem)[1] for problem in (random_problem(rng) for _ in range(300)) if violated(problem).any()]
    assert min(seconds) < 0 < max(seconds)


@pytest.mark.parametrize("violation", [0.0, -2.0])
def test_the_two_gaps_are_the_sums_over_violating_states_also_with_ties(violation):
    rng = np.random.default_rng(3)
    for _ in range(200):
        problem = random_problem(rng, whole=True)
        best = np.where(problem.allowed, problem.reward, -np.inf).max(1)
        at = violated(problem)
        first, second = gaps(problem, violation)
        assert first == pytest.approx((problem.reward.max(1) - best)[at].sum())
        assert second == pytest.approx((best - violation)[at].sum())


def test_a_state_without_an_allowed_answer_is_refused():
    with pytest.raises(ValueError, match="no action with harm"):
        example.constrained(PUBLISHED._replace(harm=np.array([[1.0, 1.0]])))


def test_the_program_prints_where_the_pair_is_hackable(capsys):
    example.main()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "hackable" in line]
    assert lines == [f"(R, R_c) is {no}hackable by the two" for no in ("", "not ", "")]
