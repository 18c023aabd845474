"""PKU-Alignment/PKU-SafeRLHF: two answers per prompt, each labelled safe or unsafe, and a label for the safer one."""

from __future__ import annotations

from holdfast.data.raw_rows import RawRow, Schema
from holdfast.records import Example


def examples(row: RawRow) -> list[Example]:
    """Columns `prompt`, `response_0/1`, `is_response_0/1_safe`, `safer_response_id` (0 or 1).

    `chosen` is the safer answer, `rejected` the other. One safe: `harmful`, response the unsafe one and refusal the
    safe one (the two flags decide which is safer, not the id). Neither safe: `harmful`, response the less safe one, no
    refusal. Both safe: `benign`, response the safer one. Raises `HoldfastError`.
    """
    prompt = row.prompt()
    answers = row.text("response_0"), row.text("response_1")
    safe = row.flag("is_response_0_safe"), row.flag("is_response_1_safe")
    safer = _safer(row) if safe[0] == safe[1] else safe.index(True)
    chosen, rejected = answers[safer], answers[1 - safer]
    return [
        Example(
            prompt=prompt,
            response=chosen if all(safe) else rejected,
            refusal=chosen if any(safe) and not all(safe) else None,
            chosen=chosen,
            rejected=rejected,
            role="benign" if all(safe) else "harmful",
            source=row.place,
        )
    ]


def _safer(row: RawRow) -> int:
    """Index of the safer answer, from a number or its text as in CSV files."""
    value = row.cell("safer_response_id")
    if str(value).strip() not in ("0", "1"):
        raise row.error(f"expected 0 or 1, found {value!r}", "safer_response_id")
    return int(str(value))


SCHEMA = Schema(
    examples,
    (
        *("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
        "safer_response_id",
    ),
)
