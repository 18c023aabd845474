"""What this project is called where packages are installed from; its import name belongs to somebody else there."""

import re
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from holdfast.commands import doctor

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
READ = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "src")]
READ += [ROOT / name for name in ("benchmarks", "examples", "tests")]


def texts():
    for place in READ:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in {".py", ".md", ".yaml", ".j2", ".sh", ""} and path.is_file() and path != Path(__file__):
                yield path, path.read_text()


@pytest.mark.slow
def test_every_hint_names_our_distribution_and_an_extra_that_it_has():
    hints = []
    for path, text in texts():
        for line in text.splitlines():
            if "pip install" in line or "holdfast[" in line or "holdfast-llm[" in line:
                hints += [(path, name, extra) for name, extra in re.findall(r"\b(holdfast(?:-llm)?)\\?(\[\w+)", line)]
                if re.search(r"pip install\s+(-\S+\s+)*['\"]?holdfast\b(?!-llm)", line):
                    hints.append((path, "holdfast", ""))
    assert len(hints) >= 4
    assert {name for _, name, _ in hints} == {PROJECT["name"]}, hints
    extras = {extra.lstrip("[") for _, _, extra in hints if extra}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_distribution_is_not_called_like_the_strangers_project():
    assert PROJECT["name"] == doctor.DISTRIBUTION == "holdfast-llm"
    assert PROJECT["scripts"] == {"holdfast": "holdfast.cli:main"}
    assert set(doctor.EXTRAS) == set(PROJECT["optional-dependencies"]) - {"docs", "browser", "dev"}


@pytest.fixture
def installed(tmp_path):
    """`installed(name, *files)`: a distribution whose record lists the files."""

    def make(name, *files):
        place = tmp_path / f"{name}-1.0.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (place / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return Distribution.at(place)

    return make


def test_doctor_names_a_package_whose_files_stand_under_our_import_name(installed, monkeypatch, capsys):
    ours = installed("holdfast_llm", "holdfast/__init__.py")
    editable = installed("holdfast-llm", "__editable__.holdfast_llm-0.1.0.pth")
    other = installed("requests", "requests/__init__.py")
    stranger = installed("holdfast", "holdfast/__init__.py", "holdfast/core.py")
    assert doctor.foreign_distributions([ours, editable, other]) == []
    assert doctor.foreign_distributions([ours, other, stranger]) == ["holdfast"]

    monkeypatch.setattr(doctor, "distributions", lambda: [ours, stranger])
    assert doctor.examine() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "holdfast has installed its own files under the import name holdfast: pip uninstall holdfast" in said
