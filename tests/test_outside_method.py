"""The examples of CONTRIBUTING.md, pasted into a package of its own: one file and one row each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import anew

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
CONTRIBUTING = TESTS.parent / "CONTRIBUTING.md"
FILE = re.compile(r"```python\n# (?:src/holdfast/defenses/online|my_package)/(\w+)\.py\n(.*?)```", re.DOTALL)
ROWS = re.compile(r"```toml\n(.*?)```", re.DOTALL)


def examples() -> tuple[dict[str, str], str]:
    """The files by name and the entry points, as they stand in CONTRIBUTING.md."""
    text = CONTRIBUTING.read_text()
    rows = "\n".join(ROWS.findall(text))
    files = {name: code for name, code in FILE.findall(text) if name != "__init__"}
    return files, re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", rows).replace('"', "")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`installed(*command)`: what Python prints, where the outside package is installed."""
    site = tmp_path_factory.mktemp("site")
    files, rows = examples()
    (site / "my_package").mkdir()
    (site / "my_package" / "__init__.py").touch()
    for name, code in files.items():
        (site / "my_package" / f"{name}.py").write_text(code)
    about = site / "my_package-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(rows)

    def run(*command: str) -> str:
        code, said = anew.python(command, paths=[str(site)], folder=site)
        assert code == 0, said
        return said

    return run


def test_there_are_the_three_examples():
    assert set(examples()[0]) == {"weight_anchor", "length", "tickets"}


def test_the_judge_of_the_example_is_tried_as_shown(installed):
    (shown,) = re.findall(
        r"```python\n(from holdfast\.records import Completion.*?)```", CONTRIBUTING.read_text(), re.DOTALL
    )
    assert "Verdict(score=0.6," in installed("-c", f"from my_package.length import Length\n{shown}")


def test_the_examples_are_listed_and_had_from_python(installed, tmp_path):
    row = {"prompt": "where is it?", "reply": "in the box", "escalated": True}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    code = f"""
import sys
from holdfast import api
from holdfast.cli import main
from holdfast.data.read import read
from holdfast.records import Completion
print(api.WeightAnchor(coef=0.5).coef, "WeightAnchor" in api.__all__)
(row,) = read(api.Source(path={str(tmp_path / "rows.jsonl")!r}, format="tickets"))
print(row.role, row.response)
print(api.judge("length", tokens=4)([Completion(example=row, text="in the box", num_tokens=2)])[0].score)
sys.argv = ["holdfast", "list"]
main()
"""
    said = installed("-c", code)
    assert said.split("\n")[:3] == ["0.5 True", "harmful in the box", "0.5"]
    assert re.search(r"^  weight_anchor\s.*from my-package", said, re.MULTILINE)
    assert re.search(r"^  length\s.*from my-package", said, re.MULTILINE)
    assert re.search(r"^  tickets\s+Columns prompt, reply, escalated", said, re.MULTILINE)


def test_the_contract_tests_of_every_table_run_on_the_example_and_pass(installed):
    files = [TESTS / "training" / "test_contracts.py", TESTS / "methods" / "test_tables.py"]
    done = installed("-m", "pytest", "-p", "no:cacheprovider", "-n0", "-k", "weight_anchor", *map(str, files))
    passed = int(re.search(r"(\d+) passed", done)[1])
    assert passed > 10, done
