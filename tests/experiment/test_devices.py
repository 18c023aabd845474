"""GPUs are shared by worker processes; there is none here, so torch is asked in its place."""

import os

import pytest
import torch

from holdfast.experiment import devices
from holdfast.records import HoldfastError


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(devices, "DRIVERS", ("null",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(devices.VISIBLE, raising=False)


def test_gpus_are_called_as_the_environment_calls_them(three_gpus, monkeypatch):
    assert devices.gpus() == ("0", "1", "2")
    monkeypatch.setenv(devices.VISIBLE, "4, GPU-1a2b,7")
    assert devices.gpus() == ("4", "GPU-1a2b", "7")


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setattr(devices, "DRIVERS", ("no such driver",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.gpus() == ()


def test_a_hidden_gpu_is_not_used(three_gpus, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "-1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.gpus() == ()


def test_the_least_used_gpu_is_next():
    assert devices.least_used(("0", "1", "2"), ["0", "2"]) == "1"
    assert devices.least_used(("0", "1"), ["0", "1", "1"]) == "0"
    assert devices.least_used((), []) is None


def test_workers_on_one_gpu_share_its_memory():
    assert devices.share_of(("0", "1"), 2) == 1
    assert devices.share_of(("0", "1"), 4) == 1 / 2
    assert devices.share_of(("0", "1"), 5) == 1 / 3
    assert devices.share_of((), 8) == 1


def test_a_worker_limits_itself_to_its_share(monkeypatch):
    limits = []
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    devices.take("1", 1.0)
    assert not limits
    devices.take("1", 0.25)
    assert limits == [0.25]


def test_a_process_that_uses_a_gpu_cannot_be_given_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(HoldfastError, match="already uses a GPU"):
        devices.take("1", 1.0)


def test_on_amds_gpus_its_own_variable_is_read_and_set(three_gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setenv(devices.VISIBLE_OF_AMD, "5,6")
    monkeypatch.setenv(devices.VISIBLE, "0,1,2")
    assert devices.gpus() == ("5", "6")
    devices.take("6", 1.0)
    assert os.environ[devices.VISIBLE_OF_AMD] == "6"
    monkeypatch.delenv(devices.VISIBLE_OF_AMD)
    assert devices.gpus() == ("0", "1", "2")
