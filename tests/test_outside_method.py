"""The examples of CONTRIBUTING.md, pasted into a package of its own or into this one: one file and one row each."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import anew
from holdfast.defenses.online import ONLINE
from holdfast.methods.describe import describe
from holdfast.methods.docstrings import BLOCKS
from holdfast.methods.tables import Row
from holdfast.records import HoldfastError

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


def test_the_examples_are_listed_shown_documented_and_had_from_python(installed, tmp_path):
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
sys.path[:0] = {[str(TESTS.parent / "docs" / "_build"), str(TESTS.parent / "benchmarks")]!r}
import pages
print(pages.page("online defense", "weight_anchor"))
for words in (["list"], ["show", "weight_anchor"]):
    sys.argv = ["holdfast", *words]
    try:
        main()
    except SystemExit as leaving:
        assert not leaving.code
"""
    said = installed("-c", code)
    assert said.split("\n")[:3] == ["0.5 True", "harmful in the box", "0.5"]
    assert "| `coef` | `0.01` | number: at least 0 | The weight of the squared distance; 0 is the plain run. |" in said
    assert "Not measured: no stored table has a run under it." in said
    assert re.search(r"^  weight_anchor\s.*from my-package", said, re.MULTILINE)
    assert re.search(r"^  length\s.*from my-package", said, re.MULTILINE)
    assert re.search(r"^  tickets\s+Columns prompt, reply, escalated", said, re.MULTILINE)
    description = said.partition("weight_anchor (online defense)")[2]
    for part in ("Idea", "Equation", "arXiv 1802.01483", "Differs from", "coef = 0.01", "my_package.weight_anchor"):
        assert part in description


def test_the_contract_tests_of_every_table_run_on_the_example_and_pass(installed):
    files = [TESTS / "training" / "test_contracts.py", TESTS / "methods" / "test_tables.py"]
    done = installed("-m", "pytest", "-p", "no:cacheprovider", "-n0", "-k", "weight_anchor", *map(str, files))
    passed = int(re.search(r"(\d+) passed", done)[1])
    assert passed > 10, done


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    """`pasted(module, code)`: a table of online defenses with only the example, as a built-in method."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(TESTS.parent / "docs" / "_build"))

    def paste(module: str, code: str):
        (tmp_path / f"{module}.py").write_text(code)
        row = Row(f"{module}:WeightAnchor", "L2 distance to the start")
        return replace(ONLINE, built_in={"weight_anchor": row})

    yield paste
    for name in ("whole_anchor", "part_anchor", "pages", "measured"):
        sys.modules.pop(name, None)


def test_the_method_of_the_example_in_this_repository_has_a_whole_description_and_a_page(pasted, monkeypatch):
    table = pasted("whole_anchor", examples()[0]["weight_anchor"])
    method = describe(table, "weight_anchor")
    assert set(method.documentation.blocks) == set(BLOCKS)
    assert [(setting.name, bool(setting.meaning)) for setting in method.settings] == [("coef", True)]
    import pages

    monkeypatch.setattr(pages, "kinds", lambda: {"online defense": table})
    made = pages.all_pages()
    assert "theta_i(0)" in made["online-defenses/weight_anchor.md"]
    assert "Verdict: **not reviewed**" in made["online-defenses/weight_anchor.md"]
    assert "weight_anchor" in made["faithfulness.md"]


def test_a_method_whose_docstring_lacks_a_block_is_named_with_its_file_where_pages_are_made(pasted, monkeypatch):
    code = re.sub(r"^Equation: .*\n", "", examples()[0]["weight_anchor"], flags=re.MULTILINE)
    table = pasted("part_anchor", code)
    import pages

    monkeypatch.setattr(pages, "kinds", lambda: {"online defense": table})
    with pytest.raises(HoldfastError, match=r"'weight_anchor': .*part_anchor\.py has no block `Equation: \.\.\.`"):
        pages.all_pages()
