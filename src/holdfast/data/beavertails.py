"""PKU-Alignment/BeaverTails: one question-answer pair per row, labelled safe or unsafe by annotators."""

from __future__ import annotations

from holdfast.data.raw_rows import RawRow, Schema
from holdfast.records import Example


def examples(row: RawRow) -> list[Example]:
    """Columns `prompt`, `response`, `is_safe`, `category` (14 booleans by name, or that as JSON text).

    An unsafe pair is `harmful`, its domain the first category that is true. A safe pair is a `refusal`: annotators
    accepted its answer to a red-team prompt, so the response serves as a refusal. Flags may be true and false, 0 and 1,
    or these as text. Raises `HoldfastError`.
    """
    prompt, response, safe = row.prompt(), row.text("response"), row.flag("is_safe")
    if safe:
        return [Example(prompt=prompt, response=response, refusal=response, role="refusal", source=row.place)]
    domain = next((name for name, holds in row.flags("category").items() if holds), "")
    return [Example(prompt=prompt, response=response, role="harmful", domain=domain, source=row.place)]


SCHEMA = Schema(examples, ("prompt", "response", "is_safe", "category"))
