"""Run folders of invented records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from holdfast.records import Record
from invented_gates import written


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run(records, name)`: a run folder of a grid of that name."""

    def write(records: Sequence[Record], name: str = "rpa_table_3") -> Path:
        return written(records, tmp_path / name, name)

    return write
