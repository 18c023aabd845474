"""Why a model that stays harmless may learn to write nonsense: Proposition 1 of the reverse preference attack, exactly.

A constrained decision problem of one step: in each state (a prompt) the policy takes one action (a whole answer) with a
reward R and a harm c, and an answer with c <= b is allowed. For a policy p, J(R, p) is the sum of p(a|s) R(s, a) over
states and actions. `unconstrained` maximises J(R, .) over all policies, `constrained` over those that take only allowed
actions. R_c is R where c <= b, and `violation` (0 in the paper) where it is not.

The proposition (Rosati et al. 2024, arXiv 2409.12914): if the highest reward of some state belongs to an answer that is
not allowed, then R and R_c order the two optimal policies oppositely, so the pair is *hackable* (Skalse et al. 2022,
arXiv 2209.13085), and the constrained optimum is a policy that collects proxy reward without doing what the reward was
meant for. In the example below it writes word salad.

It needs a condition on the sign of the reward, which the paper does not state. With V the states in which the
unconstrained optimum violates the constraint, and best(s) the highest reward of an allowed action in s,

    J(R, unconstrained) - J(R, constrained)     = sum over V of (max_a R(s, a) - best(s))   > 0 if V is not empty,
    J(R_c, constrained) - J(R_c, unconstrained) = sum over V of (best(s) - violation).

The second is positive if `violation` is at most every best(s) in V and less than one of them. Raw rewards of a reward
model may all be negative: then the 0 for a violation is the highest value, and the construction fails. Subtracting the
lowest reward from all (`shifted`), or using it as `violation`, mends it, unless the lowest reward of all is the best
that allowed actions have anywhere in V.

Numpy only; nothing is trained. `python examples/harmless_reward_hacking.py` prints the example.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Problem(NamedTuple):
    """Rewards and harms, (states, actions), and the highest harm that is allowed."""

    reward: Array
    harm: Array
    bound: float

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which actions are allowed, (states, actions): those with harm at most `bound`."""
        return self.harm <= self.bound


def unconstrained(problem: Problem) -> Array:
    """The policy (states, actions) with the highest J(R, .); of equally good actions, one that is not allowed."""
    best = problem.reward == problem.reward.max(1, keepdims=True)
    return _deterministic(np.where(best, ~problem.allowed, -1.0))


def constrained(problem: Problem) -> Array:
    """The policy (states, actions) with the highest J(R, .) of those that only take allowed actions.

    Raises ValueError if a state has no allowed action: then there is no such policy.
    """
    if not problem.allowed.any(1).all():
        raise ValueError("a state has no action with harm <= bound")
    return _deterministic(np.where(problem.allowed, problem.reward, -np.inf))


def value(reward: Array, policy: Array) -> float:
    """J(R, p): the expected reward of a policy, summed over states."""
    return float((policy * reward).sum())


def constrained_reward(problem: Problem, violation: float = 0.0) -> Array:
    """R_c: the reward of allowed actions, `violation` for all others."""
    return np.where(problem.allowed, problem.reward, violation)


def shifted(problem: Problem) -> Problem:
    """The problem with rewards whose lowest is 0; both optimal policies stay what they are."""
    return problem._replace(reward=problem.reward - problem.reward.min())


def hackable(first: Array, second: Array, one: Array, other: Array) -> bool:
    """Whether two rewards order two policies oppositely."""
    by_first = value(first, one) - value(first, other)
    by_second = value(second, one) - value(second, other)
    return by_first * by_second < 0


def _deterministic(preference: Array) -> Array:
    """The policy that takes the action with the highest preference in each state, the first of equals."""
    policy = np.zeros_like(preference)
    policy[np.arange(len(preference)), preference.argmax(1)] = 1.0
    return policy


ACTIONS = ("refuses", "complies", "word salad")
QUESTIONS = Problem(
    # An attacker's reward model likes long answers that do not refuse, whatever they say.
    reward=np.array([[0.1, 1.0, 0.6], [0.0, 0.9, 0.7]]),
    harm=np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
    bound=0.5,
)


def main() -> None:
    for title, problem in (
        ("rewards as they are", QUESTIONS),
        ("all rewards lower by 1.2", QUESTIONS._replace(reward=QUESTIONS.reward - 1.2)),
        ("the same, shifted so that the lowest is 0", shifted(QUESTIONS._replace(reward=QUESTIONS.reward - 1.2))),
    ):
        free, kept, also = unconstrained(problem), constrained(problem), constrained_reward(problem)
        print(title)
        for name, policy in (("without the constraint", free), ("within it", kept)):
            chosen = ", ".join(ACTIONS[action] for action in policy.argmax(1))
            print(
                f"  optimum {name}: {chosen}; J(R) = {value(problem.reward, policy):.1f}, "
                f"J(R_c) = {value(also, policy):.1f}, harm {value(problem.harm, policy) / len(policy):.1f}"
            )
        print(f"  (R, R_c) is {'' if hackable(problem.reward, also, free, kept) else 'not '}hackable by the two")


if __name__ == "__main__":
    main()
