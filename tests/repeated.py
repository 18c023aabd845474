"""Cases that repeat a claim without running another branch of ours, for `make exhaustive`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def repeated(*cases: Any) -> tuple[Any, ...]:
    """Parameters of a test that `make test` leaves out; a case of several values is a tuple."""
    return tuple(
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive) for case in cases
    )


def thinned(cases: Iterable[Any], kept: Callable[..., bool], *, single: bool = False) -> list[Any]:
    """All cases in their order; those for which `kept` does not hold are left out by `make test`.

    A case of several values is a tuple, whose values `kept` gets; it is the value of a `single` parameter if so said.
    """

    def case_of(case: Any) -> Any:
        values = case if isinstance(case, tuple) else (case,)
        marks = () if kept(*values) else pytest.mark.exhaustive
        return pytest.param(*((case,) if single else values), marks=marks)

    return [case_of(case) for case in cases]
