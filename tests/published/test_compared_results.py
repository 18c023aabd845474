"""The verdicts in the docs are those of the stored comparisons."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from holdfast.published.tables import published

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "benchmarks" / "results" / "compared").glob("*.csv"))
STANDINGS = ("same side", "miss", "cannot tell", "not compared")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_docs_count_the_stored_rows(path):
    own = rows(path)
    counts = Counter(row["standing"] for row in own)
    useless = sum(row["standing"] == "same side" and "of no use" in row["why"] for row in own)
    cells = " | ".join(str(number) for number in (*(counts[name] for name in STANDINGS), useless))
    text = (ROOT / "docs" / "compare.md").read_text()
    assert re.search(rf"^\| {path.stem} \| {re.escape(cells)} \|", text, re.MULTILINE), f"{path.stem}: {cells}"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_rows_have_the_published_numbers(path):
    table = published(path.stem)
    printed = sorted(value.middle for row in table.rows if (value := row.values.get(table.metrics[0])) is not None)
    stored = [row[f"reported_{table.metrics[0]}"] for row in rows(path)]
    assert sorted(float(value) for value in stored if value) == pytest.approx(printed)


def test_there_are_stored_comparisons():
    assert len(STORED) >= 2
