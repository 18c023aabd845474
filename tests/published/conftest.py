"""Run folders of invented records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from holdfast.records import Record


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run(records, name)`: a run folder of a grid of that name."""

    def write(records: Sequence[Record], name: str = "rpa_table_3") -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "grid.json").write_text(json.dumps({"name": name, "description": "invented"}))
        for record in records:
            folder = root / "cells" / record.key
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps(record.to_json()))
        return root

    return write
