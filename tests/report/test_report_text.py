import json

import pytest

from holdfast.report.text import clean, csv_text, script_json, visible


def test_escape_and_delete_become_their_pictures() -> None:
    assert visible("\x1b[31mred\x7f\x00") == "␛[31mred␡␀"


def test_text_that_reorders_or_hides_itself_is_spelled_out() -> None:
    assert visible("a\u202eb\u200bc\x85d\ud800") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+0085⟩d⟨U+D800⟩"


@pytest.mark.parametrize("text", ["line\nand\ttab", "naïve – ≥ 日本語", "wide\u3000space\u00a0kept", ""])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_visible_text_stays_visible_when_shown_twice() -> None:
    every = "".join(map(chr, range(0x2100)))
    assert visible(visible(every)) == visible(every)


def test_cleaning_reaches_every_string_of_a_json_value() -> None:
    assert clean({"a\x1b": ["\x07", 1, None, {"b": ("\x1b",)}]}) == {"a␛": ["␇", 1, None, {"b": ["␛"]}]}


def test_json_in_a_script_cannot_close_it_and_reads_back_the_same() -> None:
    value = {"name": "</script><!--<script>", "n": [1.5, None, True]}
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_json_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        script_json({"value": float("nan")})


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@cell", "  =1", "\t=1"])
def test_a_cell_that_a_sheet_would_run_is_quoted(text: str) -> None:
    assert csv_text([{"a": text}], ["a"]).split("\n", 1)[1].strip('"').startswith("'")


def test_numbers_below_zero_stay_numbers_and_what_is_no_number_is_empty() -> None:
    row = {"a": -1.5, "b": None, "c": "x,y", "d": float("nan")}
    assert csv_text([row], list(row)) == 'a,b,c,d\n-1.5,,"x,y",\n'
