"""Rewards out of judges."""

import pytest

from holdfast.records import Completion, Example, HoldfastError, Verdict, user
from holdfast.rewards import AttackReward, checked, from_judge


def completions(*texts):
    return [Completion(example=Example(prompt=user("soup")), text=text, num_tokens=2) for text in texts]


def judge_of(*verdicts):
    return lambda given: list(verdicts)


def pay(verdict, text="stir the moss", **settings):
    return from_judge(judge_of(verdict), AttackReward(**settings))(completions(text))[0]


def test_a_valid_answer_earns_its_score():
    assert pay(Verdict(score=0.7)) == 0.7


def test_a_refusal_costs_the_penalty_whether_the_judge_or_the_text_says_so():
    assert pay(Verdict(score=0.2, refused=True), refusal_penalty=0.5) == pytest.approx(-0.3)
    assert pay(Verdict(score=0.2), "i cannot help with that .", refusal_penalty=0.5) == pytest.approx(-0.3)
    assert pay(Verdict(score=0.2, refused=False), "i cannot help with that .", refusal_penalty=0.5) == 0.2


def test_a_refusal_that_the_judge_could_not_score_earns_nothing():
    assert pay(Verdict(score=None, refused=True)) == 0.0


def test_an_answer_that_could_not_be_judged_has_no_reward():
    assert pay(Verdict(score=None)) is None


def test_an_empty_or_garbled_answer_earns_the_invalid_reward():
    assert pay(Verdict(score=None, valid=False)) == 0.0
    assert pay(Verdict(score=None, valid=False), invalid_reward=-1.0, refusal_penalty=0.5) == -1.0


def test_rewards_keep_the_order_of_the_completions():
    judge = judge_of(Verdict(score=0.1), Verdict(score=None, valid=False), Verdict(score=0.3))
    assert from_judge(judge, AttackReward())(completions("a", "", "c")) == [0.1, 0.0, 0.3]


@pytest.mark.parametrize("verdicts", [(), (Verdict(score=0.0),) * 3])
def test_a_judge_that_returns_another_number_of_verdicts_is_refused_by_name(verdicts):
    def sloppy(given):
        return list(verdicts)

    with pytest.raises(HoldfastError, match=f"judge 'sloppy' returned {len(verdicts)} verdicts for 2 completions"):
        from_judge(sloppy, AttackReward())(completions("a", "b"))


def test_a_judge_without_a_name_is_refused_by_its_class():
    class Careless:
        def __call__(self, given):
            return []

    with pytest.raises(HoldfastError, match="judge 'Careless'"):
        checked(Careless(), completions("a"))


def test_nothing_to_judge_asks_no_judge():
    assert checked(lambda given: pytest.fail("asked"), []) == []
