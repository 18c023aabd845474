"""File kinds, row numbers, forced settings, the Hub, and fingerprints."""

import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.data import Source
from holdfast.data import read as reading
from holdfast.data.dataset import Data
from holdfast.data.raw_rows import type_name
from holdfast.data.read import fingerprint, read
from holdfast.records import HoldfastError

ROWS = [{"prompt": f"How bright is soup {i}?", "response": f"{i} sparks"} for i in range(5)]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def refused(**settings: object) -> str:
    with pytest.raises(HoldfastError) as caught:
        read(Source(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8", newline="")
    return name


def lines(rows: list[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def saved_as(kind: str) -> str:
    if kind == "folder":
        datasets.Dataset.from_list(ROWS).save_to_disk("folder")
        return "folder"
    if kind == "data.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), kind)
        return kind
    table = "prompt,response\n" + "".join(f"{row['prompt']},{row['response']}\r\n" for row in ROWS)
    texts = {"data.csv": table, "data.jsonl": lines(ROWS), "lines.json": lines(ROWS), "list.json": json.dumps(ROWS)}
    return write(kind, texts[kind])


KINDS = {
    "data.jsonl": "line 2",
    "lines.json": "line 2",
    "list.json": "row 2",
    "data.csv": "row 3",
    "data.parquet": "row 2",
    "folder": "row 2",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows_and_tells_their_place(kind):
    examples = read(Source(path=saved_as(kind)))
    assert [(e.question, e.response) for e in examples] == [(row["prompt"], row["response"]) for row in ROWS]
    assert examples[1].source == f"{kind}, {KINDS[kind]}"


@pytest.mark.parametrize("kind", KINDS)
def test_limit_keeps_the_first_rows(kind):
    assert [e.question for e in read(Source(path=saved_as(kind), limit=2))] == [row["prompt"] for row in ROWS[:2]]


def test_rows_beyond_the_limit_are_not_checked():
    path = write("data.jsonl", lines(ROWS[:2]) + "not json\n")
    assert len(read(Source(path=path, limit=2))) == 2


def test_blank_lines_count_in_line_numbers():
    path = write("data.jsonl", "\n" + lines(ROWS[:1]) + "\n\n" + lines([{"prompt": 7}]))
    assert refused(path=path).startswith("data.jsonl, line 5, column 'prompt': expected text")


def test_csv_rows_are_those_of_the_sheet_even_after_a_cell_with_line_breaks():
    path = write("data.csv", 'prompt,response\n"two\nlines","a ""b"", c"\nsoup?,blue\n,green\n')
    assert refused(path=path).startswith("data.csv, row 4, column 'prompt': expected text")
    first, second = read(Source(path=path, limit=2))
    assert (first.question, first.response, second.source) == ("two\nlines", 'a "b", c', "data.csv, row 3")


def test_a_byte_order_mark_is_no_part_of_the_first_column():
    path = write("data.csv", "\ufeffprompt,response\nsoup?,blue\n")
    assert read(Source(path=path))[0].response == "blue"


def test_unusual_line_separators_inside_json_text_do_not_split_a_line():
    path = write("data.jsonl", '{"prompt": "soup\u2028bowl"}\n{"prompt": "b"}\n')
    assert [e.question for e in read(Source(path=path))] == ["soup\u2028bowl", "b"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.jsonl", "\n"),
        ("data.csv", "prompt,response\n"),
        ("data.csv", ""),
        ("data.json", "[]"),
        ("data.jsonl", ""),
    ],
)
def test_an_empty_file_is_refused_by_name(name, text):
    assert refused(path=write(name, text)) == f"{name} has no rows"


def test_an_empty_saved_folder_is_refused_by_name():
    datasets.Dataset.from_dict({"prompt": []}).save_to_disk("folder")
    assert refused(path="folder") == "folder has no rows"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.jsonl", '{"prompt": "a"}\n{"prompt"\n', "data.jsonl, line 2: broken JSON ("),
        ("data.json", '[{"prompt": "a"},\n{"prompt"]', "data.json, line 2: broken JSON ("),
        ("data.jsonl", "[1]\n", "data.jsonl, line 1: expected an object with the columns as keys, found list ([1])"),
        ("data.csv", "prompt,response\na\n", "data.csv, row 2: 1 cells, but the header has 2"),
        ("data.csv", "prompt,prompt\na,b\n", "data.csv, row 1: two columns are called 'prompt'"),
        ("data.csv", 'prompt\na\n"b"c\n', "data.csv, row 3: broken CSV ("),
        ("data.parquet", "no table", "data.parquet: not a readable Parquet file ("),
        ("data.txt", "soup", "data.txt: unknown type of file; its name should end in .jsonl, .json"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_place(name, text, message):
    assert refused(path=write(name, text)).startswith(message)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' occurs twice in one object; keep one of them"),
        ('{"prompt": "a", "x": {"k": 1, "k": 2}}', "the key 'k' occurs twice in one object; keep one of them"),
        (f'{{"prompt": {DEEP}}}', "nested too deeply to be read"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "a number has too many digits to be read"),
        ('{"prompt": "\\ud83d soup"}', "a text holds an unpaired surrogate"),
        ('{"prompt": "a", "\\uDC00": 1}', "a text holds an unpaired surrogate"),
    ],
)
@pytest.mark.parametrize("kind", ["lines", "list"])
def test_json_that_no_text_should_hold_is_refused_by_row(row, reason, kind):
    first = '{"prompt": "a \\ud83d\\ude00"}'
    if kind == "lines":
        message = refused(path=write("data.jsonl", f"{first}\n{row}\n"))
        assert message.startswith(f"data.jsonl, line 2: {reason}")
    else:
        message = refused(path=write("data.json", f"[{first},\n {row}]"))
        assert message.startswith(f"data.json, row 2: {reason}")


@pytest.mark.parametrize(
    "text", ["[", '[{"prompt": "a"}', '[{"prompt": "a"},]', '[{"prompt": "a"} {}]', "[] []", "[1,,2]"]
)
def test_a_broken_list_is_refused(text):
    assert refused(path=write("data.json", text)).startswith("data.json, ")


def test_a_key_that_stands_twice_is_refused_in_a_folder_of_files_too():
    Path("folder").mkdir()
    write("folder/train.jsonl", '{"prompt": "a", "prompt": "b"}\n')
    assert "specified twice" in refused(path="folder")


def test_two_columns_of_one_name_are_refused_in_parquet():
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), "data.parquet")
    assert refused(path="data.parquet") == "data.parquet: two columns are called 'prompt'; rename one"
    twins = pa.StructArray.from_arrays([pa.array([True]), pa.array([False])], names=["k", "k"])
    pq.write_table(pa.table([["a"], twins], names=["prompt", "category"]), "nested.parquet")
    assert refused(path="nested.parquet") == "nested.parquet: two columns are called 'k'; rename one"


def test_a_text_in_parquet_that_is_not_utf8_is_refused_by_row():
    broken = pa.array([b"a", b"caf\xe9", b"c"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table([broken], names=["prompt"]), "data.parquet")
    assert refused(path="data.parquet") == "data.parquet, row 2: a text is not UTF-8; save it as UTF-8"


def test_text_that_is_not_utf8_is_refused_with_the_byte():
    Path("data.csv").write_bytes(b"prompt\ncaf\xe9\n")
    assert refused(path="data.csv").startswith("data.csv, line 2: not UTF-8 text (byte 11 of the file)")


@pytest.mark.parametrize("path", ["data/train.jsonl", "./soup", "/nowhere/soup", "a/b/c", "soup.csv"])
def test_a_path_that_is_not_there_is_refused_by_name(path):
    assert refused(path=path).startswith(f"{path}: no such file or folder (looked in ")


@pytest.mark.parametrize(
    ("inside", "kind"),
    [("model.safetensors", "a model"), ("tokenizer_config.json", "a model"), ("cells/a/record.json", "a run")],
)
def test_a_folder_of_a_model_or_of_a_run_is_not_read_as_rows(inside, kind, tmp_path):
    file = tmp_path / "mine" / inside
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert refused(path="mine").startswith(f"mine: is the folder of {kind}, not of rows; name a file or folder of rows")


def test_an_unknown_format_is_refused_with_the_known_ones():
    path = saved_as("data.jsonl")
    assert refused(path=path, format="beaver").startswith("data.jsonl: unknown format 'beaver'")


def test_settings_of_the_hub_are_refused_for_a_single_file():
    assert "`split` does not apply to a single file" in refused(path=saved_as("data.jsonl"), split="train")


@pytest.mark.parametrize(
    ("format", "columns", "complaint"),
    [
        ("columns", {"answer": "a"}, "maps 'answer'; the format 'columns' has prompt, response"),
        (
            "beavertails",
            {"question": "prompt"},
            "maps 'question'; the format 'beavertails' has prompt, response, is_safe",
        ),
        ("trl_preference", {"chosn": "a"}, "maps 'chosn'; the format 'trl_preference' has"),
        ("pku_safe_rlhf", {"response": "a"}, "maps 'response'; the format 'pku_safe_rlhf' has prompt, response_0"),
        ("anthropic_hh", {"prompt": "a"}, "maps 'prompt'; the format 'anthropic_hh' has chosen, rejected"),
    ],
)
def test_a_map_of_what_the_format_does_not_have_is_refused_with_what_it_has(format, columns, complaint):
    assert complaint in refused(path=saved_as("data.jsonl"), format=format, columns=columns)


def test_a_mapped_prompt_that_the_file_lacks_is_refused_where_chats_could_do_without():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = write("data.jsonl", lines([{"chosen": turns, "rejected": turns}]))
    assert "no column 'question'" in refused(path=path, format="trl_preference", columns={"prompt": "question"})


def test_preferences_that_are_harmful_have_the_rejected_answer_as_the_harmful_one():
    path = write("data.jsonl", lines([{"prompt": "soup?", "chosen": "Not today.", "rejected": "Stir it."}]))
    [row] = read(Source(path=path, format="trl_preference", role="harmful"))
    assert (row.response, row.refusal, row.chosen, row.rejected) == ("Stir it.", "Not today.", "Not today.", "Stir it.")
    [plain] = read(Source(path=path, format="trl_preference"))
    assert (plain.role, plain.response, plain.refusal) == ("benign", None, None)


def test_a_default_refusal_has_words():
    with pytest.raises(HoldfastError, match="refusal: is empty"):
        Source(path="data.jsonl", refusal=" ")


def test_a_forced_role_and_a_default_refusal_apply_to_every_row():
    rows = read(Source(path=saved_as("data.jsonl"), role="harmful", refusal="No soup."))
    assert {(row.role, row.refusal) for row in rows} == {("harmful", "No soup.")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, r"Source\.limit: must be a whole number from 1 .*, not 0"),
        ({"role": "bad"}, r"Source\.role: must be one of harmful, "),
    ],
)
def test_a_source_with_an_impossible_setting_is_refused(settings, message):
    with pytest.raises(HoldfastError, match=message):
        Source(path="soup", **settings)


def test_a_saved_folder_of_splits_asks_for_one_and_reads_it():
    parts = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS[:1]))
    parts.save_to_disk("folder")
    assert refused(path="folder") == "folder: choose a split, one of train, test"
    assert refused(path="folder", split="tets") == "folder: no split 'tets'; there are train, test"
    assert len(read(Source(path="folder", split="test"))) == 1


def test_a_split_of_a_saved_folder_without_splits_is_refused():
    assert "one data set without splits; remove `split`" in refused(path=saved_as("folder"), split="train")


def test_nested_columns_of_parquet_are_read_as_objects():
    rows = [{"prompt": "p", "response": "r", "is_safe": False, "category": {"a": False, "b": True}}]
    pq.write_table(pa.Table.from_pylist(rows), "data.parquet")
    assert read(Source(path="data.parquet", format="beavertails"))[0].domain == "b"


def test_a_hub_id_is_loaded_with_its_name_split_and_revision_and_nothing_else(monkeypatch):
    calls = []

    def load(*given: object, **settings: object) -> datasets.Dataset:
        calls.append((given, settings))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read(Source(path="cooks/soups", name="blue", split="test", revision="abc"))
    assert calls == [(("cooks/soups", "blue"), {"split": "test", "revision": "abc"})]
    assert rows[4].source == "cooks/soups, row 5"


def test_a_hub_id_that_cannot_be_had_is_refused_in_one_line_with_a_hint(monkeypatch):
    def load(*given: object, **settings: object) -> datasets.Dataset:
        raise ConnectionError("Couldn't reach 'cooks/soups' on the Hub\nTraceback ...")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert refused(path="cooks/soups") == (
        "cooks/soups: cannot be loaded (ConnectionError: Couldn't reach 'cooks/soups' on the Hub);"
        " check id, name, split and revision, log in if it is gated, or give an existing path"
    )


def test_a_fingerprint_follows_the_bytes_not_the_name():
    first, copy, other = write("a.jsonl", "x"), write("b.jsonl", "x"), write("c.jsonl", "y")
    prints = [fingerprint(Source(path=path)) for path in (first, copy, other)]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_a_folders_fingerprint_covers_names_and_bytes_but_not_caches():
    path = saved_as("folder")
    before = fingerprint(Source(path=path))
    Path(path, "cache-12.arrow").write_text("x")
    Path(path, ".lock").write_text("x")
    assert fingerprint(Source(path=path)) == before
    Path(path, "state.json").rename(Path(path, "other.json"))
    assert fingerprint(Source(path=path)) != before


@pytest.mark.parametrize("name", ["cache-more.jsonl", "cache-more/rows.jsonl"])
def test_a_fingerprint_covers_every_file_that_rows_are_read_from(name, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / "rows" / name
    place.parent.mkdir(parents=True)
    place.write_text(lines(ROWS[:2]))
    source = Source(path=str(tmp_path / "rows"))
    before = fingerprint(source)
    assert len(read(source)) == 2
    place.write_text(lines(ROWS[:3]))
    assert fingerprint(source) != before


@pytest.mark.parametrize(
    ("read_alone", "left_out"),
    [("rows_test.jsonl", "rows.jsonl"), ("a.jsonl", "b.csv"), ("test/a.jsonl", "other/a.jsonl")],
)
def test_a_folder_of_which_some_files_would_not_be_read_is_refused_unless_it_says_so(read_alone, left_out):
    for name in (read_alone, left_out):
        Path("rows", name).parent.mkdir(parents=True, exist_ok=True)
        write(f"rows/{name}", "prompt\nx\n" if name.endswith("csv") else lines(ROWS))
    message = refused(path="rows")
    assert f"would read {Path(read_alone).name} and not {left_out} (it takes one kind of file" in message
    write("rows/README.md", f"---\nconfigs:\n- config_name: default\n  data_files: {read_alone}\n---\n")
    assert len(read(Source(path="rows"))) == len(ROWS)


def test_a_revision_of_a_folder_of_files_is_refused_as_that_of_a_saved_one_is():
    Path("rows").mkdir()
    write("rows/data.jsonl", lines(ROWS))
    assert refused(path="rows", revision="main") == "rows: `revision` does not apply to a folder; remove it"


def test_rows_are_those_of_the_files_also_where_a_changed_one_has_its_old_time(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Path("rows").mkdir()
    for text in "ab":
        write("rows/data.jsonl", lines([{"prompt": text, "response": "x"}]))
        os.utime("rows/data.jsonl", (1, 1))
        assert [row.question for row in read(Source(path="rows"))] == [text]


def test_a_folder_of_files_in_the_home_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("rows").mkdir()
    write("rows/data.jsonl", lines(ROWS))
    assert len(read(Source(path="~/rows"))) == len(ROWS)


def test_rows_of_another_commit_are_not_read_where_the_hub_cannot_be_reached(tmp_path, monkeypatch):
    """`datasets` 5.2 then ignores the revision and gives what was cached last."""
    cached, wanted = "0123456789" * 4, "fedcba9876" * 4
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    made = datasets.load_dataset("json", data_files=write("a.jsonl", lines(ROWS)), split="train")
    place = tmp_path / "cache" / "cooks___soups" / "default" / "0.0.0" / cached
    shutil.copytree(Path(made.cache_files[0]["filename"]).parent, place)
    next(place.glob("*.arrow")).rename(place / "soups-train.arrow")
    about = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps({**about, "config_name": "default", "dataset_name": "soups"}))
    assert len(read(Source(path="cooks/soups", revision=cached))) == len(ROWS)
    message = refused(path="cooks/soups", revision=wanted)
    assert f"has the rows of commit {cached[:12]} instead of {wanted[:12]}" in message


def test_a_large_files_fingerprint_sees_its_size_and_both_ends(monkeypatch):
    monkeypatch.setattr(reading, "WHOLE", 8)
    monkeypatch.setattr(reading, "END", 2)
    texts = ["ab....yz..", "ab----yz..", "Xb....yz..", "ab....yz.X", "ab.....yz.."]
    prints = [fingerprint(Source(path=write(f"{i}.jsonl", text))) for i, text in enumerate(texts)]
    assert prints[0] == prints[1]
    assert len(set(prints[1:])) == 4


def test_a_hub_ids_fingerprint_is_id_at_revision():
    assert fingerprint(Source(path="cooks/soups", revision="abc")) == "cooks/soups@abc"
    assert fingerprint(Source(path="cooks/soups")) == "cooks/soups@main"


def test_the_fingerprint_of_a_missing_file_is_refused():
    with pytest.raises(HoldfastError, match=r"soup\.csv: no such file or folder"):
        fingerprint(Source(path="soup.csv"))


def test_columns_of_a_file_without_rows_are_refused_by_name():
    name = write("empty.jsonl", "\n")
    with pytest.raises(HoldfastError, match=r"empty\.jsonl"):
        reading.columns_of(Source(path=name))


def test_a_setting_of_the_hub_and_a_damaged_saved_folder_are_refused():
    folder = saved_as("folder")
    assert refused(path=folder, revision="main") == "folder: `revision` does not apply to a saved folder; remove it"
    assert refused(path=folder, name="part") == "folder: `name` does not apply to a saved folder; remove it"
    write("folder/state.json", "{")
    assert "folder: not a readable saved data set (" in refused(path=folder)


def test_a_file_that_the_disk_does_not_give_is_refused_by_name(monkeypatch):
    name = write("data.jsonl", lines(ROWS))

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert refused(path=name) == "data.jsonl: cannot be read (OSError: [Errno 5] Input/output error)"


def test_half_a_character_deep_in_a_row_is_refused():
    row = '{"prompt": [{"role": "user", "content": ["\\\\ud800"]}]}'
    assert "unpaired surrogate" in refused(path=write("data.jsonl", row.replace("\\\\", "\\") + "\n"))


def test_values_that_cannot_be_shown_are_told_by_their_type():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert type_name(deep) == "list (...)"
    assert type_name(10**5000) == "int (...)"
    while deep:  # or taking it apart would go as deep
        deep = deep.pop()


def test_pairs_without_data_of_ones_own_are_refused_with_what_to_give():
    with pytest.raises(HoldfastError, match="pairs: are given beside data of your own; give `harmful` and `benign`"):
        Data(pairs=Source(path="pairs.jsonl"))
