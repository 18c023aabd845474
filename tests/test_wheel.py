"""What is built from the source installs and runs without it: no file is missing from the wheel or the archive."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from anew import python

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
LEFT_OUT = (".git", ".venv", "venv", "runs", "site", "build", "dist", "*.egg-info", "__pycache__", "*.pyc", ".*_cache")
BUILD = "from setuptools import build_meta as b; b.build_wheel('out'); b.build_sdist('out')"
READ = """
import json, sys
from importlib.resources import files
from pathlib import Path
import holdfast
from holdfast.cli import main
from holdfast.files.plain_yaml import yaml_value
root = Path(str(files("holdfast")))
for path in root.rglob("*"):
    if path.suffix == ".yaml":
        assert yaml_value(path.read_text(), str(path)), path
    if path.suffix == ".jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()], path
    if path.suffix == ".json":
        json.loads(path.read_text())
from holdfast.config import load_control, load_grid, presets
from holdfast.gate.gate_file import load_gate, presets as gates
from holdfast.published.tables import names
assert len(presets()) > 30 and len(gates()) > 1 and len(names()) > 5
for command in (["--version"], ["list"], ["show", "quickstart"], ["show", "sft"], ["show", "warm_start"]):
    sys.argv = ["holdfast", *command]
    try:
        main()
    except SystemExit as left:
        assert not left.code, command
print("in", root)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the source, since building leaves files beside it."""
    place = tmp_path_factory.mktemp("tree") / "source"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return place


@pytest.fixture(scope="module")
def built(tree):
    """The wheel and the source distribution, by the build system that `pyproject.toml` names."""
    (tree / "out").mkdir()
    ended = subprocess.run([sys.executable, "-c", BUILD], cwd=tree, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (wheel,), (archive,) = (list((tree / "out").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    return wheel, archive


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel in a folder of its own, without what it depends on, which this environment has."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", target, built[0]], check=True, timeout=240)
    return target


def files_below(folder):
    skipped = {"__pycache__"}
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and skipped.isdisjoint(path.parts) and not any(p.endswith(".egg-info") for p in path.parts)
    }


def test_every_file_of_the_source_is_in_the_wheel(installed):
    source, there = files_below(ROOT / "src" / "holdfast"), files_below(installed / "holdfast")
    assert len(source) > 400
    assert source - there == set()
    assert there - source == set()


def test_the_installed_wheel_lists_shows_and_reads_its_files(installed, tmp_path):
    code, said = python(["-c", READ], paths=[str(installed)], folder=tmp_path)
    assert code == 0, said[-2000:]
    assert f"in {installed / 'holdfast'}" in said
    assert "token_buncher" in said


def test_the_command_is_installed(installed):
    assert os.access(installed / "bin" / "holdfast", os.X_OK)


def test_the_source_distribution_has_every_file_that_tests_need(built, tree):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("src/holdfast", "tests", "docs", "examples", "findings", "benchmarks"):
        wanted = {f"{folder}/{name}" for name in files_below(tree / folder)}
        assert wanted
        assert wanted - names == set()
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "Makefile", "CHANGELOG.md"} <= names


def test_the_description_of_the_package_is_whole(installed):
    (about,) = installed.glob("holdfast_llm-*.dist-info")
    head, _, body = (about / "METADATA").read_text().partition("\n\n")
    assert body.lstrip().startswith("# Holdfast")
    assert "Description-Content-Type: text/markdown" in head
    assert "License-Expression: Apache-2.0" in head
