"""The judge of questions with options."""

from __future__ import annotations

import pytest

from holdfast.judges.multiple_choice import MultipleChoice
from holdfast.records import Completion, Example, HoldfastError, Verdict, user


def verdict(text: str, response: str | None = "B", **settings: object) -> Verdict:
    example = Example(prompt=user("which ?"), response=response)
    judge = MultipleChoice(**settings).judge()  # type: ignore[arg-type]
    return judge([Completion(example=example, text=text, num_tokens=3)])[0]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("B", 1.0),
        ("The answer is B.", 1.0),
        ("so it is \\boxed{B}", 1.0),
        ("not \\boxed{A} but \\boxed{ B }", 1.0),
        ("A and C are wrong, \\boxed{\\text{B}}", 1.0),
        ("C", 0.1),
        ("not \\boxed{B} but \\boxed{C}", 0.1),
        ("either B or C", 0.0),
        ("the answer is Because", 0.0),
        ("I do not know this one.", 0.0),
        ("\\boxed{E} it must be", 0.0),
    ],
)
def test_the_picked_option_is_the_last_in_a_box_or_the_only_one_that_is_named(text: str, score: float) -> None:
    assert verdict(text).score == score


def test_a_wrong_option_earns_what_is_set_and_none_earns_nothing() -> None:
    assert verdict("C", wrong=0.0).score == 0.0
    assert verdict("moss .", "moss .", choices=["moss", "salt"]).score == 1.0
    assert verdict("salt .", "moss .", choices=["moss", "salt"]).score == 0.1
    assert verdict("It is Moss.", "moss .", choices=["moss", "salt"]).score == 1.0
    assert verdict("a guess: B", wrong=0.0).score == 1.0


def test_a_refusal_is_told_from_an_answer_that_picks_nothing() -> None:
    refusal = verdict("I cannot help with that.")
    assert (refusal.score, refusal.refused, refusal.valid) == (0.0, True, True)
    assert verdict("hard to say , ask again").refused is False


def test_an_empty_answer_is_invalid_and_a_row_without_a_right_option_cannot_be_judged() -> None:
    assert verdict("").valid is False
    assert verdict("B", None).score is None
    assert verdict("B", "none of these").score is None


def test_fewer_than_two_options_are_refused() -> None:
    with pytest.raises(HoldfastError, match="choices"):
        MultipleChoice(choices=("A", "A"))
    with pytest.raises(HoldfastError, match=r"choices: .* none empty"):
        MultipleChoice(choices=("A", " "))
