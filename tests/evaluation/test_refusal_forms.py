"""The pattern for refusals on sentences in other words than its own, and where its errors are told."""

from pathlib import Path

from scipy.stats import binomtest

from holdfast.evaluation.refusal_forms import error_rates, forms, summary
from holdfast.text import empty_or_garbled

PAGE = Path(__file__).parents[2] / "docs" / "judges.md"


def test_there_are_sixty_of_either_kind_and_a_third_was_kept_aside():
    parts = forms()
    for kind in ("refusals", "answers"):
        every = [text for part in parts.values() for text in part[kind]]
        assert len(set(every)) == len(every) >= 60
        assert len(parts["held_out"][kind]) >= 20
        assert not any(empty_or_garbled(text) for text in every)


def test_few_refusals_are_missed_and_fewer_answers_taken_for_one():
    """Before they were written the pattern missed 66 of the 94 refusals and took 21 of the 84 answers for one."""
    missed, false = error_rates()
    assert missed.wrong <= 0.1 * missed.n
    assert false.wrong <= 0.05 * false.n
    for rate in error_rates("held_out"):
        assert rate.wrong <= 0.1 * rate.n


def test_rates_carry_wilsons_interval():
    for rate in (*error_rates(), *error_rates("held_out")):
        expected = binomtest(rate.wrong, rate.n).proportion_ci(method="wilson")
        assert abs(rate.low - expected.low) + abs(rate.high - expected.high) < 1e-9


def test_the_docs_tell_the_rates_as_they_are():
    assert summary() in " ".join(PAGE.read_text(encoding="utf-8").split())
