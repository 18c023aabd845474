"""What `holdfast doctor` says of a machine that lacks something."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest

from holdfast.commands import doctor


@pytest.fixture
def examined(monkeypatch, capsys):
    """`examined(*missing, others=())`: exit code, standard output and error without these packages, with those."""

    def run(*missing, others=()):
        def known(name):
            if name in missing:
                raise PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(doctor, "version", known)
        monkeypatch.setattr(doctor, "distributions", lambda: others)
        code = doctor.examine()
        return (code, *capsys.readouterr())

    return run


def test_a_required_package_that_is_missing_is_named_with_the_way_to_get_it(examined, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    code, out, err = examined("torch", "optuna")
    assert (code, err) == (1, "error: torch is not installed: pip install holdfast-llm\n")
    assert "torch         missing\n" in out
    assert "extra         search: not installed (pip install 'holdfast-llm[search]')\n" in out


def test_a_torch_that_cannot_be_imported_is_named_with_the_reason(examined, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = examined()
    assert code == 1
    assert err.startswith("error: torch is installed but cannot be imported (import of torch halted")
    assert "extra         trl: " in out, "the rest is said all the same"


def test_another_package_under_the_same_import_name_is_named_with_the_way_out(examined):
    other = SimpleNamespace(name="holdfast", files=[SimpleNamespace(parts=("holdfast", "__init__.py"))])
    code, _, err = examined(others=[other])
    assert code == 1
    assert "pip uninstall holdfast, then install holdfast-llm again" in err


def test_a_cache_that_cannot_be_written_to_is_named_with_the_variable_that_moves_it(examined, monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    code, out, err = examined()
    assert code == 1
    assert f"{tmp_path / 'cache'}" in err
    assert "is not writable; set HOLDFAST_CACHE to a writable folder" in err
    assert f"cache         {tmp_path / 'cache'}" in out


def test_an_accelerator_is_named_with_its_memory(examined, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=80 * 2**30))
    assert "accelerator   Some GPU, 80 GiB\n" in examined()[1]
