"""Cases that repeat a claim without running another branch of ours, for `make exhaustive`."""

from __future__ import annotations

from typing import Any

import pytest


def repeated(*cases: Any) -> tuple[Any, ...]:
    """Parameters of a test that `make test` leaves out; a case of several values is a tuple."""
    return tuple(
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive) for case in cases
    )
