"""The context of a defense from a service's own rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.api import context
from holdfast.data.raw_rows import RawRow
from holdfast.data.splits import Splits
from holdfast.records import Example, HoldfastError
from holdfast.training.plan import Context

PARTS = ("defense", "attack", "development", "test")


def defense_context(
    harmful: Iterable[Example | Mapping[str, Any]] = (),
    *,
    benign: Iterable[Example | Mapping[str, Any]] = (),
    seed: int = 0,
    **more: Any,
) -> Context:
    """A context with the given rows as its defense split.

    Args:
        harmful: prompts with their `refusal` and, for defenses that need it, the harmful `response`. A row is an
            `Example` or a mapping with these keys; a `prompt` is text or a chat in TRL's form.
        benign: prompts with a harmless `response`.
        seed: seed of a defense's sampling.
        more: `judges` and `max_new_tokens` of `holdfast.api.context`.

    Raises:
        HoldfastError: a row has no prompt, or it or an answer is neither text nor a chat; names the row, counted from
            0, and the key.
    """
    empty: dict[str, list[Example]] = {name: [] for name in PARTS}
    splits = Splits(
        harmful={**empty, "defense": [_example(row, i, role="harmful") for i, row in enumerate(harmful)]},
        benign={**empty, "defense": [_example(row, i, role="benign") for i, row in enumerate(benign)]},
    )
    return context(splits, seed=seed, **more)


def _example(row: Example | Mapping[str, Any], number: int, *, role: Any) -> Example:
    if isinstance(row, Example):
        return row
    place = f"{role} row {number}"
    if not row.get("prompt"):
        raise HoldfastError(f"{place}: has no `prompt`; give one, as text or as a chat")
    raw = RawRow(cells=row, place=place)
    prompt = raw.prompt()
    answers: dict[str, Any] = {name: raw.answer(name, prompt) for name in ("response", "refusal") if row.get(name)}
    return Example(prompt=prompt, role=role, source=place, **answers)
