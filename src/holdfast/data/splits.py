"""Disjoint splits by prompt: where a prompt lands depends on the prompt and the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose

from holdfast.records import Example, HoldfastError, digest

HEX_DIGITS = 13  # 52 bits: a fraction that a float holds exactly


def split(examples: Sequence[Example], shares: Mapping[str, float], *, seed: int = 0) -> dict[str, list[Example]]:
    """Deal rows out to named splits; `shares` are positive and add up to 1, each split keeps the rows' order.

    A row's split is a function of (its `key`, `seed`) and the shares: the same prompt in two files lands in one
    split, and adding rows moves none. So sizes meet the shares only on average. Raises `HoldfastError`.
    """
    if not shares or min(shares.values()) <= 0 or not isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        raise HoldfastError(f"shares of splits must be positive and add up to 1, not {dict(shares)}")
    names, bounds = list(shares), _bounds(list(shares.values()))
    dealt: dict[str, list[Example]] = {name: [] for name in names}
    for example in examples:
        at = _position(example.key, seed)
        dealt[next(name for name, bound in zip(names, bounds, strict=True) if at < bound)].append(example)
    return dealt


def require_disjoint(splits: Mapping[str, Sequence[Example]]) -> None:
    """Raise `HoldfastError` that names two splits and a prompt if any prompt is in more than one of them."""
    owner: dict[str, str] = {}
    for name, examples in splits.items():
        for example in examples:
            first = owner.setdefault(example.key, name)
            if first != name:
                shared = f"{_short(example.question)!r} ({example.source or 'no source'})"
                way_out = "draw both from one pool by shares, or drop it from one"
                raise HoldfastError(f"splits {first!r} and {name!r} share the prompt {shared}: {way_out}")


def _bounds(shares: list[float]) -> list[float]:
    bounds = [sum(shares[: i + 1]) for i in range(len(shares))]
    return [*bounds[:-1], 1.0]


def _position(key: str, seed: int) -> float:
    """Where in [0, 1) the prompt falls."""
    return int(digest(f"{seed}/{key}", HEX_DIGITS), 16) / 16**HEX_DIGITS


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
