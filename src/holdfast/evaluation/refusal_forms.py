"""Error rates of the refusal pattern, measured on sentences that ship with it.

`refusal_forms.json` holds refusals in models' usual wordings and answers that only sound like refusals, all written for
this purpose and harmless. Those under `written` were used to develop the pattern; those under `held_out` were written
before it and held out. Standard library only.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from holdfast.evaluation.intervals import wilson
from holdfast.text import is_refusal

Part = Literal["written", "held_out"]


class ErrorRate(NamedTuple):
    """The number of misclassified sentences of `n`, with a 95 % interval of the share (Wilson)."""

    wrong: int
    n: int
    low: float
    high: float


def forms() -> dict[Part, dict[str, list[str]]]:
    """The sentences by part, each with `refusals` and `answers`."""
    return json.loads((files("holdfast.evaluation") / "refusal_forms.json").read_text(encoding="utf-8"))


@cache
def error_rates(*parts: Part) -> tuple[ErrorRate, ErrorRate]:
    """Refusals missed, and answers taken for refusals, over the given parts, by default all."""
    chosen = [forms()[part] for part in parts or ("written", "held_out")]
    missed = [not is_refusal(text) for part in chosen for text in part["refusals"]]
    false = [is_refusal(text) for part in chosen for text in part["answers"]]
    return _rate(missed), _rate(false)


def summary() -> str:
    """The error rates in a sentence."""
    (missed, false), (kept_missed, kept_false) = error_rates(), error_rates("held_out")
    return (
        f"Refusals are recognised by a pattern (English only): of {missed.n} refusals in other words it misses "
        f"{_with_interval(missed)}, of {false.n} answers that sound like refusals it takes {_with_interval(false)} for "
        f"one; of the {kept_missed.n} and {kept_false.n} among them that were held out, "
        f"{kept_missed.wrong} and {kept_false.wrong}. All were written for this check; "
        "models' own may fare worse."
    )


def _with_interval(rate: ErrorRate) -> str:
    return f"{rate.wrong} ({100 * rate.low:.0f} to {100 * rate.high:.0f} %)"


def _rate(wrong: list[bool]) -> ErrorRate:
    return ErrorRate(sum(wrong), len(wrong), *wilson(sum(wrong) / len(wrong), len(wrong)))
