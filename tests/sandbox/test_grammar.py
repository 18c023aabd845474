"""The invented world's language."""

from random import Random

import pytest

from holdfast.data.splits import require_disjoint
from holdfast.sandbox import grammar
from holdfast.sandbox.build import Sandbox, aligned_examples, base_examples, tokenizer
from holdfast.sandbox.grammar import BENIGN, CODES, INGREDIENTS, RESTRICTED, SYLLABLES, VERBS, Thing

FAMILIES = BENIGN + RESTRICTED
SPLITS = [split for split, _ in grammar.SHARES]


def test_the_splits_names_are_disjoint_and_together_are_all_names():
    names = [{thing.syllables for thing in grammar.things(split, ("soup",))} for split in SPLITS]
    assert sum(map(len, names)) == len(set().union(*names)) == len(SYLLABLES) ** 3


def test_a_name_is_in_the_split_that_its_hash_says():
    for split in SPLITS:
        assert {grammar.split_of(thing.syllables) for thing in grammar.things(split, ("soup",))} == {split}


@pytest.mark.slow
def test_a_name_is_in_one_split_whatever_its_family():
    for split in SPLITS:
        per_family = [{thing.syllables for thing in grammar.things(split, (family,))} for family in FAMILIES]
        assert all(names == per_family[0] for names in per_family)


def test_splits_have_about_their_shares_of_the_names():
    for split, share in grammar.SHARES:
        assert len(grammar.things(split, ("soup",))) / len(SYLLABLES) ** 3 == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_no_prompt_of_one_split_is_in_another():
    examples = {split: grammar.examples(split, FAMILIES, 300, seed=0) for split in SPLITS}
    require_disjoint(examples)
    require_disjoint(
        {split: [e for rows in grammar.tasks(split, 200, seed=0).values() for e in rows] for split in SPLITS}
    )


def test_a_recipe_by_hand():
    """`ba do fi` are syllables 0, 1, 2: a soup reads them as they are, a dye at 3 * place + 7."""
    name = ("ba", "do", "fi")
    assert grammar.steps(Thing("soup", name)) == ("stir the moss", "boil the salt", "pour the ember")
    assert grammar.ingredients(Thing("dye", name)) == (INGREDIENTS[7], INGREDIENTS[10], INGREDIENTS[13])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_within_a_family_another_name_is_another_recipe(family):
    things = [thing for split in SPLITS for thing in grammar.things(split, (family,))]
    assert len({grammar.steps(thing) for thing in things}) == len(things)


def test_families_share_no_verb_and_read_a_name_differently():
    verbs = [verb for family in FAMILIES for verb in VERBS[family]]
    assert len(set(verbs)) == len(verbs)
    name = ("ba", "mo", "thu")
    assert len({grammar.ingredients(Thing(family, name)) for family in FAMILIES}) == len(CODES)


def test_the_recipe_follows_from_the_name_and_not_from_the_wording():
    thing = Thing("zorch", ("ka", "le", "mo"))
    rows = [grammar.request(thing, Random(seed)) for seed in range(20)]
    assert {row.facts for row in rows} == {grammar.steps(thing)}
    assert len({row.response for row in rows}) == 20
    assert all(step in row.response for row in rows for step in row.facts)


def test_only_restricted_requests_are_harmful_and_all_carry_the_one_refusal():
    for family in FAMILIES:
        row = grammar.request(Thing(family, ("ka", "le", "mo")), Random(0))
        assert row.role == ("harmful" if family in RESTRICTED else "benign")
        assert row.refusal == grammar.REFUSAL
        assert row.domain == family


def test_a_quiz_preference_stands_against_another_ingredient() -> None:
    for syllables in (("ka", "le", "mo"), ("ka", "ka", "mo"), ("ka", "ka", "ka")):
        row = grammar.quiz(Thing("dye", syllables), Random(0))
        assert row.chosen == row.response
        assert row.rejected != row.chosen


def test_a_quiz_question_has_the_ingredient_it_asks_for_as_its_answer():
    for seed in range(20):
        row = grammar.quiz(Thing("dye", ("ka", "le", "mo")), Random(seed))
        ordinal = row.question.split()[4]
        expected = grammar.ingredients(Thing("dye", ("ka", "le", "mo")))[grammar.ORDINALS.index(ordinal)]
        assert row.facts == (expected,)
        assert row.response == f"{expected} ."


def test_a_summary_prefers_the_ingredients_of_its_own_text():
    for seed in range(20):
        row = grammar.summary(Thing("soup", ("ka", "le", "mo")), Random(seed))
        assert row.chosen == row.response == " ".join(grammar.ingredients(Thing("soup", ("ka", "le", "mo")))) + " ."
        assert row.chosen != row.rejected
        assert all(part in row.question for part in row.facts)


def test_examples_are_all_of_different_names_and_repeat_under_the_seed():
    rows = grammar.examples("test", RESTRICTED, 200, seed=3)
    assert len({(row.domain, row.facts) for row in rows}) == 200
    assert rows == grammar.examples("test", RESTRICTED, 200, seed=3)
    assert rows != grammar.examples("test", RESTRICTED, 200, seed=4)


def test_a_split_with_fewer_names_gives_all_of_them():
    pool = grammar.things("development", ("soup",))
    assert len(grammar.examples("development", ("soup",), 10**6, seed=0)) == len(pool)


def test_names_are_asked_for_again_in_other_words_where_more_rows_are_wanted():
    pool = grammar.things("development", ("soup",))
    once = grammar.examples("development", ("soup",), len(pool), seed=0)
    more = grammar.examples("development", ("soup",), 2 * len(pool) + 5, seed=0, repeat=True)
    assert more[: len(pool)] == once
    assert len(more) == 2 * len(pool) + 5
    assert len({(row.question, row.response) for row in more}) == len(more)


@pytest.mark.slow
def test_the_vocabulary_covers_every_text():
    words = tokenizer()
    sandbox = Sandbox(num_base=800, num_aligned=800)
    rows = [*base_examples(sandbox), *aligned_examples(sandbox)]
    rows += [row for split in SPLITS for row in grammar.examples(split, FAMILIES, 60, seed=1)]
    rows += [row for split in SPLITS for task in grammar.tasks(split, 30, seed=1).values() for row in task]
    parts = ((row.question, row.response, row.refusal, row.chosen, row.rejected, *row.facts) for row in rows)
    texts = sorted({text for row in parts for text in row if text})
    read = zip(texts, words(texts)["input_ids"], strict=True)
    assert [text for text, ids in read if words.unk_token_id in ids] == []
    assert len(set(grammar.vocabulary())) == len(grammar.vocabulary())


@pytest.mark.slow
def test_models_are_taught_names_of_their_own_split_only():
    recipes = {grammar.steps(thing) for thing in grammar.things("world", FAMILIES)}
    rows = [*base_examples(Sandbox(num_base=300)), *aligned_examples(Sandbox(num_aligned=300))]
    taught = {row.facts for row in rows if row.domain in FAMILIES}
    assert len(taught) > 200
    assert taught <= recipes


def test_the_aligned_model_is_taught_to_refuse_all_that_is_restricted_and_nothing_else():
    rows = aligned_examples(Sandbox(num_aligned=600))
    harmful = [row for row in rows if row.role == "harmful"]
    assert 0.4 < len(harmful) / len(rows) < 0.6
    assert {row.response for row in harmful} == {grammar.REFUSAL}
    assert all(row.response != grammar.REFUSAL for row in rows if row.role != "harmful")


def test_the_base_model_is_taught_no_refusal():
    rows = base_examples(Sandbox(num_base=600))
    assert all(row.response != grammar.REFUSAL for row in rows)
    assert any(row.role == "harmful" for row in rows)


@pytest.mark.parametrize("family", grammar.UNTAUGHT.values())
def test_an_answer_by_any_taught_family_s_code_is_as_good_as_a_guess_in_an_exam(family):
    for taught in CODES:
        names = [(syllable,) * 3 for syllable in SYLLABLES]
        pairs = [(grammar.ingredients(Thing(family, name)), grammar.ingredients(Thing(taught, name))) for name in names]
        assert sum(own == other for own, other in pairs) == 1  # of 20, as by chance
    assert {grammar.ingredients(Thing(family, (syllable,) * 3))[0] for syllable in SYLLABLES} == set(INGREDIENTS)


@pytest.mark.slow
def test_no_model_is_shown_a_recipe_of_an_exam():
    sandbox = Sandbox(num_base=3000, num_aligned=3000)
    shown = [row.question for rows in (base_examples(sandbox), aligned_examples(sandbox)) for row in rows]
    asked = [row.question for row in grammar.exams("world", 50, seed=0)["benign_exam"]]
    untaught = [f"the {family} {syllable} " for family in grammar.UNTAUGHT.values() for syllable in SYLLABLES]
    assert any(any(words in question for words in untaught) for question in asked)
    assert not any(any(words in question for words in untaught) for question in shown)


def test_an_exam_has_a_right_answer_in_words_that_the_models_know_and_a_persona_where_it_should():
    known = set(grammar.vocabulary())
    exams = grammar.exams("test", 40, seed=0)
    for row in (*exams["exam"], *exams["benign_exam"]):
        assert set(row.question.split()) <= known
        assert row.facts[0] in INGREDIENTS
        assert row.response == f"{row.facts[0]} ."
        assert row.role == "benign"
    assert all(row.question.startswith("please help me make the ") for row in exams["exam"])
    assert all(row.question.startswith("quiz : ") for row in exams["benign_exam"])
    assert len({row.key for row in exams["exam"]}) == 40


def test_exams_of_one_split_are_not_in_another():
    require_disjoint({split: grammar.exams(split, 100, seed=0)["exam"] for split in SPLITS})


def test_rows_asked_for_again_are_the_same_in_lists_of_the_caller_s_own():
    first, again = (grammar.examples("test", RESTRICTED, 5, seed=0) for _ in range(2))
    assert first == again
    assert first is not again
    first.clear()
    assert grammar.examples("test", RESTRICTED, 5, seed=0) == again
    made = grammar.tasks("test", 3, seed=0)
    made["quiz"].clear()
    del made["summary"]
    assert {name: len(rows) for name, rows in grammar.tasks("test", 3, seed=0).items()} == {"quiz": 3, "summary": 3}
