"""Each published schema, read from a fixture in that schema; the errors that name row and column."""

import json
from pathlib import Path

import pytest

from holdfast.data import FORMATS, Source, pair_refusals
from holdfast.data.raw_rows import RawRow, examples_of
from holdfast.data.read import read
from holdfast.records import Example, HoldfastError, Message, user

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str, kind: str, **settings: object) -> list[Example]:
    return read(Source(path=str(FIXTURES / name), format=kind, **settings))


def one(kind: str, columns: dict[str, str] | None = None, **cells: object) -> Example:
    [example] = FORMATS.load(kind).read(RawRow(cells=cells, place="data.jsonl, line 3", columns=columns or {}))
    return example


def refused(kind: str, columns: dict[str, str] | None = None, **cells: object) -> str:
    with pytest.raises(HoldfastError) as caught:
        one(kind, columns, **cells)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unsafe_beavertails_row_is_harmful_with_its_first_true_category_as_domain():
    rows = fixture("beavertails.jsonl", "beavertails")
    assert [row.role for row in rows] == ["harmful", "refusal", "refusal", "harmful", "harmful", "refusal"]
    assert rows[0].response == "Warm the glim, add two sparks and stir."
    assert rows[0].domain == "misinformation_regarding_ethics,laws_and_safety"
    assert rows[3].domain == "non_violent_unethical_behavior"
    assert rows[4].domain == ""


def test_a_safe_beavertails_row_is_its_own_refusal():
    row = fixture("beavertails.jsonl", "beavertails")[2]
    assert row.prompt == user("Which bowl suits glimmer soup?")
    assert row.response == row.refusal == "The round blue one."


def test_harmful_beavertails_rows_take_the_safe_answer_of_the_same_prompt():
    rows = fixture("beavertails.jsonl", "beavertails")
    safe = "Glimmer soup is kept for the festival; ask the cooks there."
    assert [rows[0].refusal, rows[4].refusal, rows[3].refusal] == [safe, safe, None]


def test_the_default_refusal_goes_only_to_harmful_rows_that_have_none():
    rows = fixture("beavertails.jsonl", "beavertails", refusal="No.")
    assert [row.refusal == "No." for row in rows] == [False, False, False, True, False, False]


def test_beavertails_reads_the_same_from_csv_where_category_is_json_text():
    from_lines, from_csv = (fixture(f"beavertails.{kind}", "beavertails") for kind in ("jsonl", "csv"))
    assert [(r.prompt, r.response, r.refusal, r.role, r.domain) for r in from_lines] == [
        (r.prompt, r.response, r.refusal, r.role, r.domain) for r in from_csv
    ]


def test_pairing_prefers_a_refusal_that_a_row_already_has_and_takes_the_first_offered():
    rows = [
        Example(prompt=user("soup?"), role="harmful", refusal="mine"),
        Example(prompt=user("Soup?"), role="harmful"),
        Example(prompt=user("soup?"), role="refusal", refusal="first"),
        Example(prompt=user("soup?"), role="refusal", refusal="second"),
        Example(prompt=user("soup?"), role="benign"),
    ]
    assert [row.refusal for row in pair_refusals(rows)] == ["mine", "first", "first", "second", None]


@pytest.mark.parametrize(
    ("category", "domain"),
    [
        ({"soup": 0, "cake": 1}, "cake"),
        ({"soup": "False", "cake": "True"}, "cake"),
        ({"soup": False, "cake": None, "pie": True}, "pie"),
        ('{"soup": "0", "cake": "1"}', "cake"),
    ],
)
def test_beavertails_categories_may_be_digits_and_words(category, domain):
    assert one("beavertails", prompt="p", response="r", is_safe=0, category=category).domain == domain


@pytest.mark.parametrize("category", [{"soup": "maybe"}, {"soup": 2}, {"soup": 0.5}, '{"soup": 1, "soup": 0}'])
def test_a_beavertails_category_that_is_no_flag_is_refused(category):
    message = refused("beavertails", prompt="p", response="r", is_safe=False, category=category)
    assert message.startswith("data.jsonl, line 3, column 'category': ")


def beaver(prompt: str, response: str, safe: bool) -> dict[str, object]:
    return {"prompt": prompt, "response": response, "is_safe": safe, "category": {"soup": not safe}}


def written(tmp_path: Path, *rows: dict[str, object]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_answer_that_somebody_called_harmful_is_nobodys_refusal(tmp_path):
    """Annotators disagree: the same answer to the same prompt stands in BeaverTails as unsafe and as safe."""
    rows = [
        beaver("soup?", "Stir  it.", False),
        beaver("soup?", "stir it.", True),
        beaver("Soup?", "Boil it.", False),
        beaver("soup?", "Ask a cook.", True),
        beaver("pie?", "Bake it.", False),
        beaver("pie?", "Bake it.", True),
    ]
    examples = read(Source(path=written(tmp_path, *rows), format="beavertails"))
    assert [row.refusal for row in examples if row.role == "harmful"] == ["Ask a cook.", "Ask a cook.", None]
    with_default = read(Source(path=written(tmp_path, *rows), format="beavertails", refusal="No."))
    assert all(row.refusal != row.response for row in with_default if row.role == "harmful")


def test_a_refusal_that_was_called_unsafe_is_no_harmful_answer(tmp_path):
    rows = [beaver("soup?", "I'm sorry, but I can't help with that.", False), beaver("soup?", "Stir it.", False)]
    refusing, harmful = read(Source(path=written(tmp_path, *rows), format="beavertails"))
    assert (refusing.role, harmful.role) == ("refusal", "harmful")
    assert harmful.refusal == refusing.response == rows[0]["response"]


def test_a_refusal_in_the_place_of_a_harmful_answer_leaves_the_row_its_prompt(tmp_path):
    path = written(tmp_path, {"prompt": "soup?", "response": "I can't help with that.", "role": "harmful"})
    [row] = read(Source(path=path))
    assert (row.role, row.response, row.refusal) == ("harmful", None, "I can't help with that.")


def test_one_text_as_harmful_answer_and_refusal_is_no_refusal(tmp_path):
    cells = {"prompt": "soup?", "response_0": "Stir it.", "response_1": "stir it.", "safer_response_id": 0}
    cells |= {"is_response_0_safe": True, "is_response_1_safe": False}
    [row] = read(Source(path=written(tmp_path, cells), format="pku_safe_rlhf"))
    assert (row.role, row.response, row.refusal) == ("harmful", "stir it.", None)


def test_pku_chosen_is_the_safer_answer_and_the_safety_flags_give_the_role():
    both, second, first, none = fixture("pku_safe_rlhf.jsonl", "pku_safe_rlhf")
    assert (both.role, both.response, both.refusal) == ("benign", "Until the third hum.", None)
    assert (second.role, second.response) == ("harmful", "Fold the glim twice and bake it at dusk.")
    assert second.refusal == second.chosen == "That cake is not for baking; try a plain one."
    assert second.rejected == second.response
    assert (first.role, first.chosen, first.response) == (
        "harmful",
        "Glim pie stays in the old book.",
        "Roll the glim thin and fold it over.",
    )
    assert (none.role, none.chosen, none.rejected, none.refusal) == (
        "harmful",
        "Boil the glim for a day.",
        "Boil the glim for a day and add nine sparks.",
        None,
    )
    assert none.response == none.rejected


def test_pku_flags_overrule_a_contradicting_safer_id():
    assert (
        one(
            "pku_safe_rlhf",
            prompt="p",
            response_0="a",
            response_1="b",
            is_response_0_safe=True,
            is_response_1_safe=False,
            safer_response_id=1,
        ).chosen
        == "a"
    )


def test_a_pku_id_other_than_0_or_1_is_refused():
    assert refused(
        "pku_safe_rlhf",
        prompt="p",
        response_0="a",
        response_1="b",
        is_response_0_safe=True,
        is_response_1_safe=True,
        safer_response_id=2,
    ) == ("data.jsonl, line 3, column 'safer_response_id': expected 0 or 1, found 2")


def test_hh_transcripts_become_turns_and_part_at_the_last_answer():
    first, second, third, _ = fixture("anthropic_hh.jsonl", "anthropic_hh")
    assert (first.prompt, first.chosen, first.rejected, first.role) == (
        user("What is glimmer soup?"),
        "A bright broth.",
        "I have no idea.",
        "benign",
    )
    assert second.prompt == (
        Message("user", "Hello"),
        Message("assistant", "Hello, what shall we cook?"),
        Message("user", "Glimmer soup, for two.\n\nWith bread."),
    )
    assert third.rejected == ""


@pytest.mark.parametrize(
    "transcript",
    ["What is soup?", "\n\nHuman: soup?", "\n\nAssistant: soup", "oops\n\nHuman: a\n\nAssistant: b", ""],
)
def test_an_hh_transcript_that_does_not_parse_is_refused_by_row_and_column(transcript):
    message = refused("anthropic_hh", chosen=transcript, rejected="\n\nHuman: a\n\nAssistant: b")
    assert message.startswith("data.jsonl, line 3, column 'chosen': expected a transcript")


def test_an_hh_transcript_without_a_question_is_refused_by_row_and_column():
    message = refused("anthropic_hh", chosen="\n\nHuman: \n\nAssistant: b", rejected="\n\nHuman: a\n\nAssistant: b")
    assert message == "data.jsonl, line 3, column 'chosen': the prompt is empty"


def test_hh_transcripts_with_different_prompts_are_refused_by_row():
    message = refused("anthropic_hh", chosen="\n\nHuman: a\n\nAssistant: b", rejected="\n\nHuman: c\n\nAssistant: b")
    assert message.startswith("data.jsonl, line 3: `chosen` and `rejected` differ before")


def test_trl_text_chat_and_implicit_prompts_read_alike():
    text, chat, implicit = (
        fixture(f"trl_preference{kind}.jsonl", "trl_preference") for kind in ("", "_chat", "_implicit")
    )
    for rows in (chat, implicit):
        assert [(r.question, r.chosen, r.rejected) for r in rows] == [(r.question, r.chosen, r.rejected) for r in text]
    assert chat[0].prompt == (Message("system", "You are a cook."), Message("user", "What colour is glimmer soup?"))
    assert [turn.role for turn in implicit[1].prompt] == ["system", "user", "assistant", "user"]


def test_trl_completions_become_responses_from_text_and_chat():
    rows = fixture("trl_prompt_completion.jsonl", "trl_prompt_completion")
    assert [row.response for row in rows] == ["Blue at dawn.", "Two.", "Everybody at the festival.", "Lukewarm."]


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, turns, strict=False)]


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ({"chosen": "a", "rejected": "b"}, "line 3: there is no prompt"),
        ({"chosen": chat("q", "a"), "rejected": chat("other", "b")}, "must share every turn but the last"),
        ({"chosen": chat("q"), "rejected": chat("q")}, "must hold the user's turn"),
        ({"prompt": "q", "chosen": chat("q"), "rejected": "b"}, "must be the assistant's turn, not 'user'"),
        ({"prompt": "q", "chosen": chat("x", "a"), "rejected": "b"}, "the turns before the answer are not the prompt"),
        ({"prompt": chat("q", "a"), "chosen": "a", "rejected": "b"}, "must end with the user's turn, not 'assistant'"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "expected text or a list of turns, found list ([])"),
        ({"prompt": [{"role": "user", "content": 3}], "chosen": "a", "rejected": "b"}, "expected turns {role:"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "column 'chosen': expected a list of turns, found nothing"),
    ],
)
def test_a_malformed_trl_row_is_refused_with_what_was_expected(cells, complaint):
    assert complaint in refused("trl_preference", **cells)


def test_a_number_where_text_is_expected_is_refused_with_place_column_and_value():
    assert refused("columns", prompt=7) == (
        "data.jsonl, line 3, column 'prompt': expected text or a list of turns, found int (7)"
    )
    assert refused("beavertails", prompt="p", response=7, is_safe=True) == (
        "data.jsonl, line 3, column 'response': expected text, found int (7)"
    )


def test_a_missing_column_is_refused_with_those_present_a_near_match_and_the_way_to_map_it():
    assert refused("columns", promt="soup?", answer="yes") == (
        "data.jsonl, line 3: no column 'prompt'; the columns are 'promt', 'answer'; 'promt' is close: say "
        "columns.prompt=promt, after a command data.harmful.columns.prompt=promt (or data.benign)"
    )


@pytest.mark.parametrize("kind", ["columns", "beavertails", "trl_prompt_completion"])
def test_a_blank_prompt_is_refused_by_row(kind):
    assert refused(kind, prompt=" \n", response="a", completion="a", is_safe=True, category={}) == (
        "data.jsonl, line 3, column 'prompt': the prompt is empty"
    )


def test_mapped_columns_feed_the_fields_and_unmapped_ones_keep_their_own_names():
    row = one(
        "columns",
        {"prompt": "question", "response": "answer", "rejected": "worse"},
        question="soup?",
        answer="blue",
        worse=None,
        role="harmful",
        domain="soups",
        chosen="green",
        other=3,
    )
    assert row == Example(
        prompt=user("soup?"),
        response="blue",
        chosen="green",
        role="harmful",
        domain="soups",
        source="data.jsonl, line 3",
    )


def test_a_map_renames_the_columns_of_a_published_schema_too():
    row = one("trl_prompt_completion", {"completion": "output"}, prompt="soup?", output="blue")
    assert row.response == "blue"


def test_a_mapped_column_that_the_row_lacks_is_refused():
    assert "no column 'answer'" in refused("columns", {"response": "answer"}, prompt="soup?")


def test_an_unknown_role_in_a_cell_is_refused_with_the_known_ones():
    assert "column 'role': expected one of harmful, refusal, retain, benign, found 'bad'" in refused(
        "columns", prompt="p", role="bad"
    )


@pytest.mark.parametrize(
    ("cell", "role"), [(True, "refusal"), ("True", "refusal"), ("false", "harmful"), (0, "harmful")]
)
def test_flags_are_read_from_booleans_words_and_digits(cell, role):
    assert one("beavertails", prompt="p", response="r", is_safe=cell, category="{}").role == role


@pytest.mark.parametrize("cell", ["maybe", 2, None, 1.0])
def test_a_flag_that_is_neither_true_nor_false_is_refused(cell):
    assert "column 'is_safe': expected true or false, found" in refused(
        "beavertails", prompt="p", response="r", is_safe=cell, category={}
    )


def test_a_category_that_is_no_object_is_refused():
    assert "column 'category': expected an object, found text ('none')" in refused(
        "beavertails", prompt="p", response="r", is_safe=False, category="none"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "returned None; it has to return a list of `Example`"),
        (Example(prompt=user("soup")), r"returned Example\(.*; it has to return a list"),
        (["soup"], "returned 'soup', which is not an `Example`"),
        ([Example(prompt="soup")], "returned an example whose prompt is 'soup'; use `row.prompt"),
        ([Example(prompt=())], r"returned an example whose prompt is \(\); use"),
        ([Example(prompt=user("soup"), response=3)], "returned an example whose response is 3, and no text"),
        (
            [Example(prompt=user("soup"), role="wizard")],
            "returned an example of role 'wizard'; the roles are harmful, ",
        ),
        (RuntimeError("no\nkey"), "raised RuntimeError: no key"),
    ],
)
def test_a_reader_that_makes_no_examples_is_refused_with_row_and_format(given, words):
    def reader(row):
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.raises(HoldfastError, match=f"^data.jsonl, line 3: format 'mine' {words}"):
        examples_of(reader, RawRow(cells={}, place="data.jsonl, line 3"), "format 'mine'")


def test_a_question_with_options_asks_for_the_letter_in_a_box_and_its_response_is_that():
    for answer in (1, "B"):
        row = one("multiple_choice", question="What goes first?", choices=["moss", "salt"], answer=answer)
        assert row.question.startswith("What goes first?\nA. moss\nB. salt\n")
        assert (row.response, row.role) == ("\\boxed{B}", "benign")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"choices": "moss", "answer": 0}, "'choices': expected a list of texts"),
        ({"choices": ["moss"], "answer": 0}, "'choices': expected 2 to 8 options, found 1"),
        ({"choices": ["moss", "salt"], "answer": 2}, "'answer': expected a number below 2 or a letter of AB, found 2"),
        ({"choices": ["moss", "salt"], "answer": "AB"}, "'answer': expected a number below 2"),
        ({"choices": ["moss", "salt"], "answer": True}, "'answer': expected a number below 2"),
        ({"choices": ["moss", "salt"], "answer": None}, "'answer': expected a number below 2"),
    ],
)
def test_a_question_whose_options_or_answer_cannot_be_read_is_refused_by_column(cells, said):
    assert said in refused("multiple_choice", question="?", **cells)


def test_a_format_of_a_package_that_is_no_schema_is_refused_with_what_to_write():
    with pytest.raises(HoldfastError, match=r"^mine: not a `holdfast\.data\.Schema`; write `SCHEMA = Schema"):
        FORMATS.check(object(), "mine")
