"""The context of a defense from a service's own rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.api import context
from holdfast.data.splits import Splits
from holdfast.records import Example, HoldfastError, Message, user
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
        HoldfastError: a row has no prompt; names the row.
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
    prompt = row.get("prompt")
    if not prompt:
        raise HoldfastError(f"{role} row {number}: has no `prompt`; give one, as text or as a chat")
    turns = user(prompt) if isinstance(prompt, str) else tuple(Message(t["role"], t["content"]) for t in prompt)
    named = {name: row[name] for name in ("response", "refusal") if row.get(name)}
    return Example(prompt=turns, role=role, source=f"{role} row {number}", **named)
