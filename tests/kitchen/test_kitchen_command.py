"""`holdfast kitchen build` as somebody types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gguf_files import write_gguf
from holdfast.cli import app


@pytest.mark.slow
def test_build_leaves_folders_and_rows_and_measures_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "tiny.gguf")
    small = ["optim.max_steps=1", "optim.per_device_train_batch_size=2", "adapter.r=2", "judge.max_length=512"]
    small += ["judge.optim.max_steps=1", "judge.optim.per_device_train_batch_size=2", "backbone=tiny.gguf"]
    ended = CliRunner().invoke(app, ["kitchen", "build", *small, "-o", "kitchen"])
    assert ended.exit_code == 0, ended.output + repr(ended.exception)
    assert (tmp_path / "kitchen" / "aligned" / "config.json").is_file()
    assert (tmp_path / "kitchen" / "judge" / "README.md").is_file()
    assert (tmp_path / "kitchen" / "rows" / "restricted.jsonl").is_file()
    assert "over_refusal/borderline" in ended.output
