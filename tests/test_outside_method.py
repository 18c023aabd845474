"""The example of CONTRIBUTING.md, pasted into a package of its own: one file and one row make a method."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAME, CLASS = "weight_anchor", "WeightAnchor"


def example() -> tuple[str, str]:
    """The file and the entry point, as they stand in CONTRIBUTING.md."""
    text = (TESTS.parent / "CONTRIBUTING.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"class {CLASS}" in block)
    (row,) = re.findall(rf'^{NAME} = "(my_package\.[^"]+)"$', text, re.MULTILINE)
    return code, row


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`installed(*command)`: what Python prints, where the outside package is installed."""
    site = tmp_path_factory.mktemp("site")
    code, row = example()
    (site / "my_package").mkdir()
    (site / "my_package" / "__init__.py").touch()
    (site / "my_package" / f"{NAME}.py").write_text(code)
    about = site / "my_package-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(f"[holdfast.defenses.online]\n{NAME} = {row}\n")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=site)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_example_is_listed_with_its_package(installed):
    assert re.search(rf"{NAME}\s.*from my-package", installed("-m", "holdfast.cli", "list", "defenses"))


def test_the_example_is_had_from_the_api(installed):
    code = f"from holdfast import api; print(api.{CLASS}(coef=0.5).coef, {CLASS!r} in api.__all__)"
    assert installed("-c", code).split() == ["0.5", "True"]


@pytest.mark.slow
def test_the_contract_tests_of_every_table_run_on_the_example_and_pass(installed):
    files = [TESTS / "training" / "test_contracts.py", TESTS / "methods" / "test_tables.py"]
    done = installed("-m", "pytest", "-p", "no:cacheprovider", "-n0", "-k", NAME, *map(str, files))
    passed = int(re.search(r"(\d+) passed", done)[1])
    assert passed > 10, done
