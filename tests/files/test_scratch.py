"""Temporary folders: removed after use, and by the next of their kind where a process was killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from holdfast.files.scratch import scratch_folder

HOLDING = """
import time
from holdfast.files.scratch import scratch_folder
with scratch_folder("test") as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_empty_and_is_gone_afterwards(temporary):
    with scratch_folder("test") as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_killed_process_s_folder_is_removed_by_the_next_and_a_living_one_s_is_kept(temporary):
    environment = {**os.environ, "TMPDIR": str(temporary)}
    holding = [
        subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    killed, living = (Path(process.stdout.readline().strip()) for process in holding)
    try:
        holding[0].send_signal(signal.SIGKILL)
        holding[0].wait()
        for folder in (killed, living):
            os.utime(folder.parent, (time.time() - 3600,) * 2)
        with scratch_folder("other"):
            assert killed.exists()
        with scratch_folder("test"):
            assert not killed.parent.exists()
            assert living.exists()
    finally:
        for process in holding:
            process.kill()
            process.communicate()
