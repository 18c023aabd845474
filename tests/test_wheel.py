"""What is built from the source installs and runs without it: no file is missing from the wheel or the archive."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.utils import parse_sdist_filename, parse_wheel_filename

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


def test_a_package_index_takes_the_metadata_of_both(built):
    """By the rules of the standard; `twine`, which needs more packages, checks them as well before a release."""
    wheel, archive = built
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        of_wheel = Metadata.from_email(opened.read(name), validate=True)
    with tarfile.open(archive) as opened:
        (name,) = (name for name in opened.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO"))
        of_archive = Metadata.from_email(opened.extractfile(name).read(), validate=True)
    assert of_wheel.name == "holdfast-llm"
    assert of_wheel.description == of_archive.description
    assert (of_wheel.version, of_wheel.requires_dist) == (of_archive.version, of_archive.requires_dist)
    assert parse_wheel_filename(wheel.name)[:2] == parse_sdist_filename(archive.name)


GRID = """
name: tiny
models: [{sandbox: {num_base: 640, num_aligned: 320, base: {max_steps: 6}, aligned: {max_steps: 4}}}]
attacks: [{sft: {num_samples: 16, optim: {max_steps: 4, per_device_train_batch_size: 4}}}]
data: {train: 24, held_out: 6}
evaluation: {every: 2, num_prompts: 4, max_new_tokens: 8}
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_make_dist_is_checked_by_twine_and_its_wheel_works_in_an_empty_environment(tree, tmp_path):
    """Installs everything anew, which takes minutes; needs a package index."""

    def called(*words, folder=tmp_path, code=0):
        ended = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True, env=environment)
        assert ended.returncode == code, (words, ended.stdout[-2000:], ended.stderr[-2000:])
        return ended.stdout

    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HOLDFAST_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    said = called("make", "dist", f"PYTHON={sys.executable}", f"VENV={tmp_path / 'tools'}", folder=tree)
    assert said.count("PASSED") == 2
    (wheel,), (archive,) = (list((tree / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    called(sys.executable, "-m", "venv", tmp_path / "empty")
    own = tmp_path / "empty" / "bin"
    pip = [own / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    called(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    (tmp_path / "tiny.yaml").write_text(GRID)
    for words, code in (
        (["--version"], 0),
        (["list"], 0),
        (["run", "tiny.yaml", "--workers", "0"], 0),
        (["report", "runs/tiny", "--out", "page.html"], 0),
        (["gate", "open_weights", "runs/tiny"], 3),
        (["pack", "runs/tiny", "-o", "evidence.zip", "--gate", "open_weights"], 0),
        (["verify", "evidence.zip", "--against", "runs/tiny"], 0),
    ):
        called(own / "holdfast", *words, code=code)
    called(*pip, "--no-deps", "--force-reinstall", archive)
    assert called(own / "holdfast", "verify", "evidence.zip").splitlines()[-1] == "evidence.zip: agrees, 1 cell"
