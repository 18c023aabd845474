"""Golden cases: what published code computed on a tiny model, against what Holdfast computes.

Inputs, coefficients, expectations and tolerances are read from the case files of one folder, `HOLDFAST_GOLDEN` or
`tests/golden`; how a case is put to Holdfast is in the `checks_*.py` beside this file, in tables by case and the first
words of the result's name (`CASE/*` for all results of a case). A case file that no table answers to is a failure.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from golden_case import FOLDER, Case, Check
from safetensors.torch import load_file

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("checks_*.py"))
CHECKS: dict[str, Check] = {
    name: check for module in MODULES for name, check in importlib.import_module(module).CHECKS.items()
}


def case_files() -> list[Path]:
    """Every case of the folder; the manifest lists them and is none."""
    return [path for path in sorted(FOLDER.glob("*.json")) if not path.name.startswith("MANIFEST")]


def check_of(path: Path, result: str) -> Check | None:
    """The check whose name has most of the result's words."""
    words = result.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    return next((CHECKS[key] for name in [*names, "*"] if (key := f"{path.stem}/{name}") in CHECKS), None)


def collected() -> list[Any]:
    """Every result of every case in the folder."""
    return [
        pytest.param(path, result, id=f"{path.stem}/{result}")
        for path in case_files()
        for result in json.loads(path.read_text()).get("results") or [""]
    ]


def test_the_folder_holds_cases() -> None:
    assert case_files(), f"{FOLDER}: no golden case to check"


@pytest.mark.slow
@pytest.mark.parametrize(("path", "result"), collected())
def test_a_golden_result_is_reproduced(path: Path, result: str) -> None:
    check = check_of(path, result)
    assert check is not None, f"{path.name}: no check in {', '.join(MODULES)} answers to {result!r}"
    check(Case(json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")), result))
