"""Rows, files of rows, and what is said of them in a grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from building import Case, of_grid, of_own, of_small, of_words
from shelf import DPO, OWN, QUICK, SANDBOX, SFT, benign_rows, changed, fifo, folder, harmful_rows, lines

GOOD = harmful_rows()


def third(row: Any) -> str:
    """JSON lines of which the third is another row, or another text."""
    text = row if isinstance(row, str) else json.dumps(row)
    kept = lines(GOOD).splitlines()
    return "\n".join([*kept[:2], text, *kept[3:]]) + "\n"


def without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A row without one of its columns."""
    return {key: value for key, value in row.items() if key != name}


ROW = GOOD[2]
LINE = r"bad\.jsonl, line 3"

# Name, the third row of the file, what has to be said beside file and line.
ROWS: list[tuple[str, Any, str]] = [
    ("broken-json", "{oops", "JSON"),
    ("two-objects-on-a-line", json.dumps(ROW) + json.dumps(ROW), "JSON"),
    ("list-for-a-row", [1, 2], "list"),
    ("number-for-a-row", 7, "int"),
    ("text-for-a-row", '"a row"', "text"),
    ("null-for-a-row", "null", "null"),
    ("true-for-a-row", "true", "bool"),
    ("key-twice", '{"prompt": "a", "prompt": "b", "response": "c", "role": "harmful"}', "'?prompt"),
    ("deep-json", "[" * 100_000 + "]" * 100_000, "deep|nested|list"),
    ("deep-json-in-a-column", '{"prompt": ' + '{"a": ' * 50_000 + "1" + "}" * 50_000 + "}", "deep|nested|prompt"),
    ("huge-integer", '{"prompt": "a", "role": "harmful", "response": ' + "9" * 5000 + "}", "digits|response|integer"),
    ("lone-surrogate", '{"prompt": "a \\ud800 b", "role": "harmful", "response": "c"}', "surrogate|prompt"),
    ("lone-surrogate-in-answer", '{"prompt": "a b", "role": "harmful", "response": "c \\udfff"}', "surrogate|response"),
    ("no-prompt", without(ROW, "prompt"), "prompt"),
    ("null-prompt", {**ROW, "prompt": None}, "prompt"),
    ("number-prompt", {**ROW, "prompt": 3}, "prompt"),
    ("nan-prompt", {**ROW, "prompt": float("nan")}, "prompt"),
    ("true-prompt", {**ROW, "prompt": True}, "prompt"),
    ("empty-prompt", {**ROW, "prompt": ""}, "prompt"),
    ("blank-prompt", {**ROW, "prompt": " \n "}, "prompt"),
    ("object-prompt", {**ROW, "prompt": {"text": "a"}}, "prompt"),
    ("prompt-of-numbers", {**ROW, "prompt": [1, 2]}, "prompt"),
    ("prompt-without-turns", {**ROW, "prompt": []}, "prompt"),
    ("turn-without-content", {**ROW, "prompt": [{"role": "user"}]}, "prompt"),
    ("turn-with-null-content", {**ROW, "prompt": [{"role": "user", "content": None}]}, "prompt"),
    ("turn-of-unknown-role", {**ROW, "prompt": [{"role": "wizard", "content": "a"}]}, "prompt"),
    ("prompt-ends-with-answer", {**ROW, "prompt": [{"role": "assistant", "content": "a"}]}, "prompt"),
    ("prompt-of-system-only", {**ROW, "prompt": [{"role": "system", "content": "a"}]}, "prompt"),
    ("number-response", {**ROW, "response": 3}, "response"),
    ("nan-response", {**ROW, "response": float("nan")}, "response"),
    ("true-response", {**ROW, "response": True}, "response"),
    ("list-response", {**ROW, "response": ["a", "b"]}, "response"),
    ("object-response", {**ROW, "response": {"text": "a"}}, "response"),
    ("response-by-the-user", {**ROW, "response": [{"role": "user", "content": "a"}]}, "response"),
    ("number-refusal", {**ROW, "refusal": 3}, "refusal"),
    ("number-chosen", {**ROW, "chosen": 3, "rejected": "a"}, "chosen"),
    ("unknown-role", {**ROW, "role": "evil"}, "role"),
    ("number-role", {**ROW, "role": 1}, "role"),
    ("list-domain", {**ROW, "domain": ["a"]}, "domain"),
    ("prompt-too-long", {**ROW, "prompt": "moss " * 300}, "tokens"),
]

PAIR = {"prompt": "a b ?", "response": "c d", "is_safe": False, "category": {"soup": True}}
PKU = {
    "prompt": "a b ?",
    "response_0": "c",
    "response_1": "d",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "safer_response_id": 0,
}
HH = {"chosen": "\n\nHuman: a ?\n\nAssistant: no .", "rejected": "\n\nHuman: a ?\n\nAssistant: yes ."}
PREFERENCE = {"prompt": "a ?", "chosen": "no .", "rejected": "yes ."}

# Format, name, a row, what has to be said beside file and line.
SCHEMAS: list[tuple[str, str, Any, str]] = [
    ("beavertails", "no-flag", without(PAIR, "is_safe"), "is_safe"),
    ("beavertails", "null-flag", {**PAIR, "is_safe": None}, "is_safe"),
    ("beavertails", "flag-of-text", {**PAIR, "is_safe": "maybe"}, "is_safe"),
    ("beavertails", "flag-of-2", {**PAIR, "is_safe": 2}, "is_safe"),
    ("beavertails", "no-category", without(PAIR, "category"), "category"),
    ("beavertails", "list-category", {**PAIR, "category": ["soup"]}, "category"),
    ("beavertails", "number-category", {**PAIR, "category": 3}, "category"),
    ("beavertails", "category-value", {**PAIR, "category": {"soup": "often"}}, "category"),
    ("beavertails", "null-response", {**PAIR, "response": None}, "response"),
    ("beavertails", "no-response", without(PAIR, "response"), "response"),
    ("pku_safe_rlhf", "no-second-answer", without(PKU, "response_1"), "response_1"),
    ("pku_safe_rlhf", "null-answer", {**PKU, "response_0": None}, "response_0"),
    ("pku_safe_rlhf", "flag-of-text", {**PKU, "is_response_0_safe": "perhaps"}, "is_response_0_safe"),
    (
        "pku_safe_rlhf",
        "third-answer-safer",
        {**PKU, "is_response_1_safe": True, "safer_response_id": 2},
        "safer_response_id",
    ),
    (
        "pku_safe_rlhf",
        "nobody-safer",
        {**PKU, "is_response_1_safe": True, "safer_response_id": None},
        "safer_response_id",
    ),
    ("anthropic_hh", "no-rejected", without(HH, "rejected"), "rejected"),
    ("anthropic_hh", "null-chosen", {**HH, "chosen": None}, "chosen"),
    ("anthropic_hh", "no-turns", {**HH, "chosen": "just text"}, "chosen|Human"),
    ("anthropic_hh", "no-answer", {**HH, "chosen": "\n\nHuman: a ?"}, "chosen|Assistant"),
    (
        "anthropic_hh",
        "two-prompts",
        {**HH, "rejected": "\n\nHuman: other ?\n\nAssistant: yes ."},
        "prompt|differ|rejected",
    ),
    ("trl_preference", "no-chosen", without(PREFERENCE, "chosen"), "chosen"),
    ("trl_preference", "null-rejected", {**PREFERENCE, "rejected": None}, "rejected"),
    ("trl_preference", "number-chosen", {**PREFERENCE, "chosen": 1}, "chosen"),
    (
        "trl_preference",
        "two-prompts",
        {
            "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
        },
        "prompt|differ|rejected",
    ),
    ("trl_prompt_completion", "no-completion", {"prompt": "a ?"}, "completion"),
    ("trl_prompt_completion", "number-completion", {"prompt": "a ?", "completion": 5}, "completion"),
]


def parquet(rows: list[dict[str, Any]], *, cut: int | None = None) -> Any:
    """A Parquet file, perhaps without its end."""

    def make(path: Path, shelf: Mapping[str, Path]) -> None:
        import pyarrow
        from pyarrow import parquet as files

        files.write_table(pyarrow.Table.from_pylist(rows), path)
        if cut is not None:
            path.write_bytes(path.read_bytes()[:-cut])

    return make


def parquet_twice(path: Path, shelf: Mapping[str, Path]) -> None:
    """A Parquet file with two columns of one name."""
    import pyarrow
    from pyarrow import parquet as files

    texts = pyarrow.array([row["prompt"] for row in GOOD])
    files.write_table(pyarrow.Table.from_arrays([texts, texts, texts], ["prompt", "response", "response"]), path)


def saved(rows: list[dict[str, Any]], *, split: bool = False, spoil: str | None = None) -> Any:
    """A folder as `datasets` saves it, perhaps with one of its files spoilt."""

    def make(path: Path, shelf: Mapping[str, Path]) -> None:
        import datasets

        table = datasets.Dataset.from_list(rows)
        both = datasets.DatasetDict({"train": table, "test": table}) if split else table
        both.save_to_disk(str(path))
        if spoil:
            (path / spoil).write_text("{")

    return make


CSV = "prompt,response,refusal,role\n"
CELLS = "".join(f"{row['prompt']},{row['response']},{row['refusal']},harmful\n".replace(" , ", " ") for row in GOOD)
BOTH = lines([{**row, "role": "harmful"} for row in GOOD])

# Name, file, content, settings of the source, what has to be said.
FILES: list[tuple[str, str, Any, dict[str, Any], str]] = [
    ("missing", "none.jsonl", None, {"path": "no/such.jsonl"}, r"no/such\.jsonl"),
    ("empty", "bad.jsonl", "", {}, r"bad\.jsonl.*no rows"),
    ("blank", "bad.jsonl", "\n \n\n", {}, r"bad\.jsonl.*no rows"),
    ("empty-folder", "bad", folder, {}, "bad"),
    ("folder-called-jsonl", "bad.jsonl", folder, {}, r"bad\.jsonl"),
    ("folder-of-a-model", "none.jsonl", None, {"path": "@model"}, "folder of a model, not of rows"),
    ("fifo", "bad.jsonl", fifo, {}, r"bad\.jsonl"),
    ("fifo-parquet", "bad.parquet", fifo, {}, r"bad\.parquet"),
    ("device", "none.jsonl", None, {"path": "/dev/zero"}, "/dev/zero"),
    ("latin-1", "bad.jsonl", '{"prompt": "é"}'.encode("latin-1"), {}, r"bad\.jsonl.*UTF-8"),
    ("utf-16", "bad.jsonl", lines(GOOD).encode("utf-16"), {}, r"bad\.jsonl"),
    ("all-benign", "bad.jsonl", lines(benign_rows()), {}, r"bad\.jsonl.*harmful"),
    ("two-rows", "bad.jsonl", lines(GOOD[:2]), {}, "split has no prompt"),
    ("one-prompt", "bad.jsonl", lines([ROW] * 40), {}, "split has no prompt"),
    ("text-suffix", "bad.txt", lines(GOOD), {}, r"bad\.txt"),
    ("sheet-suffix", "bad.xlsx", b"PK", {}, r"bad\.xlsx"),
    ("zipped", "bad.jsonl.gz", b"\x1f\x8b", {}, r"bad\.jsonl\.gz"),
    ("no-suffix", "bad", lines(GOOD), {}, "bad"),
    ("json-object", "bad.json", json.dumps({"rows": GOOD}, indent=1), {}, r"bad\.json"),
    ("json-list-cut", "bad.json", json.dumps(GOOD)[:-5], {}, r"bad\.json"),
    ("json-list-of-numbers", "bad.json", "[1, 2]", {}, r"bad\.json, row 1"),
    ("json-list-key-twice", "bad.json", '[{"prompt": "a", "prompt": "b"}]', {}, r"bad\.json.*prompt"),
    ("json-deep-list", "bad.json", "[" * 100_000, {}, r"bad\.json"),
    ("csv-header-only", "bad.csv", CSV, {}, r"bad\.csv.*no rows"),
    ("csv-no-prompt", "bad.csv", "question,response\na,b\n", {}, r"bad\.csv, row 2.*prompt"),
    ("csv-column-twice", "bad.csv", "prompt,prompt\na,b\n", {}, r"bad\.csv, row 1.*prompt"),
    ("csv-unnamed-column", "bad.csv", "prompt,,\na,b,c\n", {}, r"bad\.csv, row 1"),
    ("csv-short-row", "bad.csv", CSV + CELLS + "a,b\n", {}, r"bad\.csv, row 42"),
    ("csv-long-row", "bad.csv", CSV + "a,b,c,harmful,e\n" + CELLS, {}, r"bad\.csv, row 2"),
    ("csv-open-quote", "bad.csv", CSV + '"a,b,c,harmful\n', {}, r"bad\.csv, row"),
    ("csv-semicolons", "bad.csv", "prompt;response;role\na;b;harmful\n", {}, r"bad\.csv.*prompt"),
    ("csv-nul", "bad.csv", CSV + "a\0,b,c,wrong\n", {}, r"bad\.csv, row 2"),
    ("csv-empty-prompt", "bad.csv", CSV + ",b,c,harmful\n", {}, r"bad\.csv, row 2.*prompt"),
    ("parquet-of-text", "bad.parquet", "not Parquet", {}, r"bad\.parquet"),
    ("parquet-cut", "bad.parquet", parquet(GOOD, cut=20), {}, r"bad\.parquet"),
    ("parquet-empty", "bad.parquet", b"", {}, r"bad\.parquet"),
    ("parquet-no-prompt", "bad.parquet", parquet([without(ROW, "prompt")]), {}, r"bad\.parquet, row 1.*prompt"),
    ("parquet-number-prompt", "bad.parquet", parquet([{"prompt": 1}]), {}, r"bad\.parquet, row 1.*prompt"),
    ("parquet-column-twice", "bad.parquet", parquet_twice, {}, r"bad\.parquet.*response"),
    ("saved-needs-a-split", "bad", saved(GOOD, split=True), {}, "bad.*split.*train"),
    ("saved-unknown-split", "bad", saved(GOOD, split=True), {"split": "dev"}, "bad.*dev"),
    ("saved-without-splits", "bad", saved(GOOD), {"split": "train"}, "bad.*split"),
    ("saved-with-revision", "bad", saved(GOOD), {"revision": "main"}, "revision"),
    ("saved-with-name", "bad", saved(GOOD), {"name": "x"}, "`name`"),
    ("saved-broken-state", "bad", saved(GOOD, spoil="state.json"), {}, "bad"),
    ("saved-broken-info", "bad", saved(GOOD, spoil="dataset_info.json"), {}, "bad"),
    ("saved-broken-table", "bad", saved(GOOD, spoil="data-00000-of-00001.arrow"), {}, "bad"),
    ("split-of-a-file", "bad.jsonl", BOTH, {"split": "train"}, r"bad\.jsonl.*split"),
    ("revision-of-a-file", "bad.jsonl", BOTH, {"revision": "main"}, r"bad\.jsonl.*revision"),
    ("name-of-a-file", "bad.jsonl", BOTH, {"name": "x"}, r"bad\.jsonl.*name"),
    ("limit-0", "bad.jsonl", BOTH, {"limit": 0}, "limit"),
    ("limit-negative", "bad.jsonl", BOTH, {"limit": -3}, "limit"),
    ("limit-true", "bad.jsonl", BOTH, {"limit": True}, "limit"),
    ("limit-of-a-fraction", "bad.jsonl", BOTH, {"limit": 1.5}, "limit"),
    ("limit-of-text", "bad.jsonl", BOTH, {"limit": "all"}, "limit"),
    ("unknown-format", "bad.jsonl", BOTH, {"format": "beavertail"}, "format.*beavertail"),
    ("list-format", "bad.jsonl", BOTH, {"format": ["columns"]}, "format"),
    ("unknown-source-role", "bad.jsonl", BOTH, {"role": "evil"}, "role"),
    ("role-of-benign-rows", "bad.jsonl", BOTH, {"role": "benign"}, r"bad\.jsonl.*harmful|role"),
    ("map-of-unknown-field", "bad.jsonl", BOTH, {"columns": {"question": "prompt"}}, "columns.*question"),
    ("map-to-missing-column", "bad.jsonl", BOTH, {"columns": {"prompt": "frage"}}, "frage"),
    ("map-is-a-list", "bad.jsonl", BOTH, {"columns": ["prompt"]}, "columns"),
    ("map-to-a-number", "bad.jsonl", BOTH, {"columns": {"prompt": 1}}, "columns"),
    ("number-refusal", "bad.jsonl", BOTH, {"refusal": 3}, "refusal"),
    ("empty-refusal", "bad.jsonl", BOTH, {"refusal": " "}, "refusal"),
    ("unknown-key", "bad.jsonl", BOTH, {"fromat": "columns"}, "fromat"),
    ("number-path", "none.jsonl", None, {"path": 3}, "path"),
    ("empty-path", "none.jsonl", None, {"path": ""}, "path: must name"),
    ("address", "none.jsonl", None, {"path": "https://example.org/rows.jsonl"}, "example.org"),
    ("hub-id-offline", "none.jsonl", None, {"path": "nobody/nothing"}, "nobody/nothing"),
    ("home-of-nobody", "none.jsonl", None, {"path": "~nobody-here/rows.jsonl"}, "nobody-here"),
    ("path-with-nul", "none.jsonl", None, {"path": "a\0b.jsonl"}, "path|harmful|a.*b"),
    ("path-too-long", "none.jsonl", None, {"path": "a" * 5000 + ".jsonl"}, "harmful|aaa"),
    (
        "map-of-named-schema",
        "bad.jsonl",
        lines([PAIR]),
        {"format": "beavertails", "columns": {"answer": "x"}},
        "answer",
    ),
]

SAME = {"path": "both.jsonl", "role": "harmful"}
OTHER = {"path": "both.jsonl", "role": "benign"}

# Name, changes of the grid, files, what has to be said.
GRIDS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("unknown-world", {"world": "garden"}, {}, "world.*garden"),
    ("number-world", {"world": 3}, {}, "world"),
    (
        "task-of-a-taken-name",
        {"data": {**OWN["data"], "tasks": {"benign": {"path": "t.jsonl"}}}},
        {"t.jsonl": BOTH},
        "tasks.*benign",
    ),
    (
        "task-of-an-odd-name",
        {"data": {**OWN["data"], "tasks": {"a/b": {"path": "t.jsonl"}}}},
        {"t.jsonl": BOTH},
        "tasks.*a/b",
    ),
    ("task-without-a-file", {"data": {**OWN["data"], "tasks": {"sums": {"path": "t.jsonl"}}}}, {}, "t.jsonl"),
    (
        "task-of-an-unknown-key",
        {"data": {**OWN["data"], "tasks": {"sums": {"paht": "t.jsonl"}}}},
        {},
        "tasks.sums.*paht",
    ),
    ("tasks-as-a-list", {"data": {**OWN["data"], "tasks": ["t.jsonl"]}}, {}, "tasks"),
    ("one-file-for-both", {"data": {"harmful": SAME, "benign": OTHER}}, {"both.jsonl": BOTH}, "harmful.*benign|both"),
    (
        "one-file-by-two-names",
        {"data": {"harmful": SAME, "benign": {**OTHER, "path": "./x/../both.jsonl"}}},
        {"both.jsonl": BOTH, "x": folder},
        "harmful.*benign|both",
    ),
    (
        "a-copy-for-both",
        {"data": {"harmful": SAME, "benign": {**OTHER, "path": "copy.jsonl"}}},
        {"both.jsonl": BOTH, "copy.jsonl": BOTH},
        "harmful.*benign|both",
    ),
    ("no-benign", {"data": {"benign": None}}, {}, "data.benign"),
    ("no-harmful", {"data": {"harmful": None}}, {}, "data.harmful"),
    ("source-is-a-path", {"data": {"harmful": "rows.jsonl"}}, {}, r"data\.harmful"),
    (
        "no-refusals",
        {"data": {"harmful": {"path": "bad.jsonl"}}, "defenses": ["refusal_loss"], "attacks": [SFT]},
        {"bad.jsonl": lines([without(row, "refusal") for row in GOOD])},
        "refusal",
    ),
    (
        "no-refusals-to-harden-with",
        {"data": {"harmful": {"path": "bad.jsonl"}}, "defenses": ["vaccine_alignment"], "attacks": [SFT]},
        {"bad.jsonl": lines([without(row, "refusal") for row in GOOD])},
        "refusal",
    ),
    (
        "no-answers",
        {"data": {"harmful": {"path": "bad.jsonl"}}, "attacks": [SFT]},
        {"bad.jsonl": lines([without(row, "response") for row in GOOD])},
        "response",
    ),
    (
        "null-answers",
        {"data": {"harmful": {"path": "bad.jsonl"}}, "attacks": [SFT]},
        {"bad.jsonl": lines([{**row, "response": None} for row in GOOD])},
        "response",
    ),
    (
        "no-preferences",
        {"data": {"harmful": {"path": "bad.jsonl"}}, "attacks": [DPO]},
        {"bad.jsonl": lines([without(row, "refusal") for row in GOOD])},
        "chosen|rejected|preference|refusal",
    ),
    (
        "no-reference-answers",
        {"data": {"benign": {"path": "bad.jsonl"}}},
        {"bad.jsonl": lines([without(row, "response") for row in benign_rows()])},
        "response",
    ),
    ("tasks-of-the-sandbox", {"attacks": [{"sft": {**SFT["sft"], "task": "summary"}}]}, {}, "task|summary"),
    (
        "benign-broken",
        {"data": {"benign": {"path": "bad.jsonl"}}},
        {"bad.jsonl": lines(benign_rows()) + "{oops\n"},
        r"bad\.jsonl, line 41",
    ),
]

# Changes of `data`, what has to be said.
SHARES: list[tuple[str, Any]] = [
    ("negative", {"defense": 0.5, "attack": 0.5, "development": 0.5, "test": -0.5}),
    ("sum-over-1", {"defense": 0.9, "attack": 0.9, "development": 0.9, "test": 0.9}),
    ("sum-under-1", {"defense": 0.1, "attack": 0.1, "development": 0.1, "test": 0.1}),
    ("unknown-split", {"defense": 0.25, "attack": 0.25, "development": 0.25, "train": 0.25}),
    ("one-split", {"test": 1.0}),
    ("nan", {"defense": float("nan"), "attack": 0.3, "development": 0.1, "test": 0.2}),
    ("zero", {"defense": 0.0, "attack": 0.5, "development": 0.2, "test": 0.3}),
    ("true", {"defense": True, "attack": 0.3, "development": 0.1, "test": 0.2}),
    ("text", {"defense": "most", "attack": 0.3, "development": 0.1, "test": 0.2}),
    ("list", [0.4, 0.3, 0.1, 0.2]),
]

SAND = f"attack sft --workers 0 {' '.join(QUICK)} models=[{{sandbox:{json.dumps(SANDBOX).replace(' ', '')}}}]"
MINE = f"attack sft --workers 0 {' '.join(QUICK)} -m @model"
BENIGN = "--benign @rows/benign.jsonl"
HARMFUL = "--harmful @rows/harmful.jsonl"

# Name, command line, what has to be said.
OPTIONS: list[tuple[str, str, str]] = [
    ("format-without-rows", f"{SAND} --harmful-format beavertails", "--harmful"),
    ("benign-format-without-rows", f"{SAND} --benign-format beavertails", "--benign"),
    ("refusal-without-rows", f"{SAND} --refusal no", "--refusal"),
    ("harmful-alone", f"{MINE} {HARMFUL}", "benign"),
    ("benign-alone", f"{MINE} {BENIGN}", "harmful"),
    ("one-file-for-both", f"{MINE} {HARMFUL} --benign @rows/harmful.jsonl", "benign"),
    ("unknown-format", f"{MINE} {HARMFUL} --harmful-format hh {BENIGN}", "hh"),
]


def _replaced(source: Mapping[str, Any]) -> dict[str, Any]:
    values = changed(OWN, {})
    values["data"] = {**OWN["data"], "harmful": dict(source)}
    return values


def cases() -> list[Case]:
    """All of them."""
    all_cases = [
        of_grid("data", f"row-{name}", _replaced({"path": "bad.jsonl"}), (LINE, says), files={"bad.jsonl": third(row)})
        for name, row, says in ROWS
    ]
    for format_, name, row, says in SCHEMAS:
        grid = _replaced({"path": "bad.jsonl", "format": format_})
        files = {"bad.jsonl": lines([row])}
        all_cases.append(of_grid("data", f"{format_}-{name}", grid, (r"bad\.jsonl, line 1", says), files=files))
    for name, file, content, source, says in FILES:
        grid = _replaced({"path": file, **source})
        files = {} if content is None else {file: content}
        all_cases.append(of_grid("data", f"file-{name}", grid, says, files=files))
    all_cases += [of_own("data", f"grid-{name}", changes, says, files=files) for name, changes, files, says in GRIDS]
    all_cases += [_shared(name, shares) for name, shares in SHARES]
    all_cases += [of_words("data", f"option-{name}", command, says) for name, command, says in OPTIONS]
    numbers = {
        "train": (0, -1, True, 1.5, "x", [], None),
        "held_out": (0, -1, True, "x"),
        "seed": (-1, True, 2**70, "x"),
        "domain": (3, True, [], "zorhc"),
    }
    for key, values in numbers.items():
        all_cases += [of_small("data", f"{key}={value}", {"data": {key: value}}, key) for value in values]
    return all_cases


def _shared(name: str, shares: Any) -> Case:
    values = changed(OWN, {})
    values["data"] = {**OWN["data"], "shares": shares}
    return of_grid("data", f"shares-{name}", values, "shares")
