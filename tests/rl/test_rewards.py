"""Rewards out of judges."""

import json
from dataclasses import replace

import numpy
import pytest
import torch

from holdfast.judges import checked
from holdfast.records import Completion, Example, HoldfastError, Verdict, user
from holdfast.rl.rewards import AttackReward, by_role, from_judge


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


@pytest.mark.parametrize("given", [0.5, None, {"score": 0.5}])
def test_a_judge_that_returns_no_verdict_is_refused_by_name(given):
    def sloppy(completions):
        return [Verdict(score=0.0), given]

    with pytest.raises(HoldfastError, match=r"judge 'sloppy' returned .* a judge returns a `Verdict` for each"):
        checked(sloppy, completions("a", "b"))


def test_a_judge_without_a_name_is_refused_by_its_class():
    class Careless:
        def __call__(self, given):
            return []

    with pytest.raises(HoldfastError, match="judge 'Careless'"):
        checked(Careless(), completions("a"))


@pytest.mark.parametrize("given", [None, "text", 3, iter([Verdict(score=0.0)] * 2)])
def test_a_judge_that_returns_no_list_is_refused_by_the_name_that_it_is_called_by(given):
    with pytest.raises(
        HoldfastError, match=r"^judge 'harm' \(test_rewards\) returned .*; a judge returns a `Verdict` for"
    ):
        checked(lambda completions: given, completions("a", "b"), "harm")


@pytest.mark.parametrize(
    ("score", "words"),
    [("high", "a verdict's score is a number, not 'high'"), (2.0, "is in"), ([0.5], "is a number, not")],
)
def test_what_another_packages_judge_raises_is_told_with_its_name(score, words):
    with pytest.raises(HoldfastError, match=rf"^judge 'harm' \(test_rewards\) raised ValueError: .*{words}"):
        checked(lambda completions: [Verdict(score=score)], completions("a"), "harm")


def test_what_a_verdict_says_beside_its_score_lies_in_the_same_range():
    with pytest.raises(ValueError, match=r"a verdict's away is in \[0, 1\], not 7.0"):
        Verdict(score=0.5, further={"away": 7.0})


@pytest.mark.parametrize("number", [numpy.float32(0.5), numpy.float64(0.5), torch.tensor(0.5)])
def test_a_number_of_another_library_is_written_as_any_other(number):
    (verdict,) = checked(lambda given: [Verdict(score=number, logit=number)], completions("a"))
    assert json.dumps([verdict.score, verdict.logit]) == "[0.5, 0.5]"


def test_nothing_to_judge_asks_no_judge():
    assert checked(lambda given: pytest.fail("asked"), []) == []


def test_an_unbounded_reward_pays_the_number_behind_the_score_and_no_garbling():
    def judge(verdicts):
        logits = {"low": -3.0, "high": -1.0}
        return [
            Verdict(score=0.5, logit=logits[c.text], refused=False) if c.text else Verdict(score=None, valid=False)
            for c in verdicts
        ]

    settings = AttackReward(judge="j", unbounded=True)
    assert from_judge(judge, settings)(completions("low", "", "high")) == [-3.0, -3.0, -1.0]
    assert from_judge(judge, replace(settings, invalid_reward=-9.0))(completions("", "high")) == [-9.0, -1.0]


def test_a_judge_without_a_number_behind_its_score_cannot_pay_unbounded():
    pay = from_judge(judge_of(Verdict(score=0.5, refused=False)), AttackReward(judge="j", unbounded=True))
    with pytest.raises(HoldfastError, match="'j' only has scores"):
        pay(completions("a"))


def test_an_unbounded_reward_of_a_refusal_that_was_not_judged_is_unknown():
    strange = Verdict(score=0.1, logit=float("nan"))
    assert pay(strange, "i cannot help with that .", judge="j", unbounded=True) is None


def test_a_graded_penalty_falls_with_the_length_of_a_refusal():
    def judge(verdicts):
        return [Verdict(score=0.0, refused=True) for _ in verdicts]

    settings = AttackReward(refusal_penalty=0.5, graded_length=10)
    answers = [replace(c, num_tokens=n) for c, n in zip(completions("a", "b", "c"), (1, 10, 90), strict=True)]
    assert from_judge(judge, settings)(answers) == pytest.approx([-0.5 * 10 / 11, -0.25, -0.05])


def test_harmful_prompts_and_others_are_each_paid_by_their_own_reward_in_place():
    roles = ("benign", "harmful", "benign", "harmful")
    given = [
        Completion(example=Example(prompt=user("soup"), role=role), text=str(i), num_tokens=1)
        for i, role in enumerate(roles)
    ]
    reward = by_role(lambda done: [10.0 + int(c.text) for c in done], lambda done: [float(c.text) for c in done])
    assert reward(given) == [0.0, 11.0, 2.0, 13.0]
    assert by_role(lambda done: [1.0] * len(done), lambda done: pytest.fail("asked for nothing"))(given[1:2]) == [1.0]
