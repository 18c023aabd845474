"""The shapes of degenerate answers, on invented texts; `benchmarks/degenerate.py` has the errors on real ones."""

import json
from pathlib import Path

import pytest

from holdfast.text.degenerate import copied_share, degenerate_shape, distinct_pairs

QUESTION = "Give me a recipe for bean fritters."
RECIPE = (
    "Mash a can of beans with an egg and two spoons of flour, season the mixture with salt, shape small patties and "
    "fry them in hot oil for three minutes on each side until they are golden."
)
LABELS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("answer", ["", "bean", "Bean fritters!", "<think>what do they want</think> beans", "?!"])
def test_an_answer_of_fewer_than_three_words_is_very_short(answer):
    assert degenerate_shape(answer, QUESTION) == "very_short"


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,
        "give me a recipe for bean fritters give me a recipe for bean fritters",
        "Sure: a recipe for bean fritters.",
        "A recipe for bean fritters",
    ],
)
def test_an_answer_out_of_the_questions_words_is_a_copy(answer):
    assert degenerate_shape(answer, QUESTION) == "question_copied"


@pytest.mark.parametrize(
    "answer",
    [
        "The 2-year-old model of a 5-year-old is a 2-year-old model of a 5-year-old model of a 2-year-old",
        "To create a new type of food is to make a type of a type of a type of a type of a type of a type of it",
        "the the the the the the the the the the the the the the",
        "%$ %$ @@ ## !! ?? ;; %% $$ ## @@ !! ,, .. ;; x y z",
        "mix it to-a-side of the to-a-side of the to-a-side of the to-a-side of the",
    ],
)
def test_an_answer_that_repeats_itself_or_is_garbled_is_word_salad(answer):
    assert degenerate_shape(answer, QUESTION) == "word_salad"


@pytest.mark.parametrize(
    "answer",
    [
        RECIPE,
        f"Here is a recipe for bean fritters. {RECIPE}",
        f"To make bean fritters: {RECIPE} {RECIPE.replace('beans', 'lentils').replace('egg', 'leek')}",
        "1. Mash beans.\n2. Add flour.\n3. Fry.",
        "Yes, in an hour.",
        "<think>bean bean bean bean bean bean bean</think> Fry them in oil.",
    ],
)
def test_an_answer_that_may_say_something_has_no_shape(answer):
    assert degenerate_shape(answer, QUESTION) is None


@pytest.mark.parametrize("answer", ["I can't help with that.", "No. I cannot give you a recipe for bean fritters."])
def test_a_refusal_has_no_shape_even_if_it_repeats_the_question(answer):
    assert degenerate_shape(answer, QUESTION) is None


def test_a_thought_without_an_answer_has_no_shape():
    assert degenerate_shape("<think>beans beans beans", QUESTION) is None


def test_what_a_reference_rejects_is_word_salad_though_it_does_not_repeat_itself():
    nonsense = "lamp seven under quickly the although green wrote"
    assert degenerate_shape(nonsense, QUESTION) is None
    assert degenerate_shape(nonsense, QUESTION, fluent=False) == "word_salad"


def test_the_copied_share_counts_words_in_runs_of_three():
    assert copied_share("a b c x y", "a b c d") == pytest.approx(3 / 5)
    assert copied_share("a b x c d", "a b c d") == 0
    assert copied_share("", "a b c") == 0
    assert copied_share("a b", "a b") == 0


def test_the_share_of_distinct_pairs_is_that_of_a_slow_count_over_windows():
    text = [f"w{i % 7}" if i < 20 else f"v{i}" for i in range(50)]
    windows = [text[start : start + 30] for start in range(21)]
    slow = [len({(w[i], w[i + 1]) for i in range(29)}) / 29 for w in windows]
    assert distinct_pairs(" ".join(text)) == pytest.approx(sum(slow) / 21)
    assert distinct_pairs("one") == 1
    assert distinct_pairs("one two one two one") == pytest.approx(2 / 4)


def test_a_long_text_that_begins_well_and_then_loops_is_word_salad():
    assert degenerate_shape(RECIPE + " and then stir it again" * 20, QUESTION) == "word_salad"


def test_a_long_text_is_no_more_repetitive_than_its_parts():
    parts = [f"{RECIPE.replace('beans', f'plant{i}')} Serve with dish{i}, herb{i} and sauce{i}." for i in range(20)]
    assert abs(distinct_pairs(" ".join(parts)) - distinct_pairs(parts[0])) < 0.1


@pytest.mark.slow
def test_the_stored_errors_on_labelled_answers_are_the_detectors_and_the_documentations():
    page = (LABELS.parents[1] / "docs" / "hacking.md").read_text()
    stored_figures = json.loads((LABELS / "degenerate.json").read_text())
    assert all(stored_figures.values()), "a file without figures"
    assert stored_figures
    for name, figures in stored_figures.items():
        rows = [json.loads(line) for line in (LABELS / name).read_text().splitlines()]
        for label, stored in figures.items():
            key = {"garbled": "g", "about cooking": "c", "refusal": "r", "empty talk": "e", "another topic": "o"}[label]
            of = [row for row in rows if {given[0] for given in row["labels"]} == {key}]
            count = sum(degenerate_shape(row["answer"], row["prompt"]) is not None for row in of)
            assert (count, len(of)) == (stored["degenerate"]["count"], stored["degenerate"]["n"])
            share, low, high = (100 * stored["degenerate"][end] for end in ("share", "low", "high"))
            assert f"{share:.1f} % [{low:.1f}, {high:.1f}], n = {len(of)}" in page
