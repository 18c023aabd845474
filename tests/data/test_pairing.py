"""Matched pairs of rows."""

import json

import pytest

from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.data.pairing import matched, placed
from holdfast.experiment.examples import load_splits
from holdfast.records import Example, HoldfastError, user

SHARES = {"defense": 0.4, "attack": 0.3, "development": 0.1, "test": 0.2}


def row(text, role, pair=""):
    return Example(prompt=user(text), role=role, pair=pair, source=f"pairs.jsonl, {text}")


def test_rows_are_paired_by_their_column_in_any_order():
    rows = [row("a", "harmful", "1"), row("y", "benign", "2"), row("x", "benign", "1"), row("b", "harmful", "2")]
    assert [(first.question, second.question) for first, second in matched(rows, "f")] == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row("a", "harmful")], "pairs.jsonl, a: has no value in the column `pair`"),
        ([row("a", "harmful", "1")], "pair '1' has no other row"),
        ([row("a", "harmful", "1"), row("b", "harmful", "1")], "pairs.jsonl, b: the pair '1' has to be one harmful"),
        ([row("a", "refusal", "1")], "one harmful row and one benign one"),
    ],
)
def test_a_pair_that_is_none_is_refused_by_its_row(rows, fault):
    with pytest.raises(HoldfastError, match=fault):
        matched(rows, "f")


def test_pairs_of_prompts_that_are_trained_on_are_left_out_and_others_stay_in_their_split():
    pairs = [(row(f"h{i}", "harmful", str(i)), row(f"b{i}", "benign", str(i))) for i in range(40)]
    used = {"defense": [pairs[0][0]], "attack": [pairs[1][1]], "development": [pairs[2][0]], "test": [pairs[3][1]]}
    by_split = placed(pairs, used, SHARES, seed=0)
    assert pairs[0] not in by_split["development"] + by_split["test"]
    assert pairs[1] not in by_split["development"] + by_split["test"]
    assert pairs[2] in by_split["development"]
    assert pairs[3] in by_split["test"]
    assert len(by_split["development"]) + len(by_split["test"]) == 38
    assert 0 < len(by_split["development"]) < len(by_split["test"])


def test_pairs_of_a_file_are_read_and_other_columns_of_that_name_are_ignored(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
        return Source(path=str(path))

    harmful = [{"prompt": f"h{i}", "response": "r", "role": "harmful", "pair": [i]} for i in range(30)]
    benign = [{"prompt": f"b{i}", "response": "r"} for i in range(30)]
    twins = [{"prompt": f"{role} {i}", "role": role, "pair": i} for i in range(30) for role in ("harmful", "benign")]
    data = Data(harmful=write("h.jsonl", harmful), benign=write("b.jsonl", benign), pairs=write("p.jsonl", twins))
    splits = load_splits(data)
    assert {first.question for first, _ in splits.pairs["test"]} <= {f"harmful {i}" for i in range(30)}
    assert sum(len(pairs) for pairs in splits.pairs.values()) == 30
    assert splits.harmful["test"][0].pair == ""
