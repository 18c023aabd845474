"""What docstrings, comments and documents call by its dotted name is there."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"\bholdfast((?:\.[A-Za-z_]\w*)+)")
FILES = sorted(
    path
    for place in ("src", "docs", "benchmarks", "examples", "README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")
    for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
    if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".j2", ""} and path.is_file()
)
OTHER = {
    *("yaml", "egg", "css", "svg"),  # files that are called so
    *("held_share", "outcome", "time_to_break"),  # metrics of an exported file: `holdfast.held_share`
    *("formats", "defenses.online.weight_anchor", "defenses.online.weight_anchor.WeightAnchor"),  # a group, an example
}


@cache
def is_there(dotted: str) -> bool:
    """Whether a module, or what it holds, is called so."""
    parts = ["holdfast", *dotted.split(".")]
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            if not hasattr(thing, name) and name not in getattr(thing, "__annotations__", ()):
                return False
            thing = getattr(thing, name, None)
        return True
    return False


@pytest.mark.slow
def test_what_a_file_names_is_there():
    named = [
        (str(path.relative_to(ROOT)), name.strip("."))
        for path in FILES
        for name in dict.fromkeys(NAME.findall(path.read_text(encoding="utf-8")))
    ]
    assert len(named) > 1000
    assert [(file, name) for file, name in named if name not in OTHER and not is_there(name)] == []
