"""Disjoint splits by prompt: the split of a prompt depends only on the prompt and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose

from holdfast.records import Example, HoldfastError, digest

HEX_DIGITS = 13  # 52 bits, which a float represents exactly


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The examples a run may use; prompts of the four splits are disjoint.

    `harmful` examples have a `response` (what the attacker wants) and a `refusal`; `benign` ones a `response`.
    `tasks` are further harmless data by name, each split in the same way. `pairs` are matched pairs of a restricted
    prompt and its harmless twin, in the splits `development` and `test`; no prompt of theirs is trained on.
    `other_domains` are the defense split's harmful rows that `data.domain` leaves out.
    """

    harmful: dict[str, list[Example]]
    benign: dict[str, list[Example]]
    tasks: dict[str, dict[str, list[Example]]] = field(default_factory=dict)
    pairs: dict[str, list[tuple[Example, Example]]] = field(default_factory=dict)
    other_domains: list[Example] = field(default_factory=list)

    def defense_rows(self, domain: str | None) -> list[Example]:
        """The harmful rows of the defense split: those of a domain, whatever `data.domain` says; all for `None`.

        Raises:
            HoldfastError: there are none of that domain.
        """
        if domain is None:
            return self.harmful["defense"]
        every = [*self.harmful["defense"], *self.other_domains]
        rows = [row for row in every if row.domain == domain]
        if not rows:
            known = ", ".join(sorted({row.domain for row in every if row.domain})) or "none"
            raise HoldfastError(f"domain: the defense split has no prompt of the domain {domain!r}; known: {known}")
        return rows

    def training_rows(self, task: str | None) -> list[Example]:
        """The rows to train on: harmful rows of the attack split, or those of a harmless `task` (`benign` included).

        Raises:
            HoldfastError: there is no such task.
        """
        if task is None:
            return self.harmful["attack"]
        known = {**self.tasks, "benign": self.benign}
        if task not in known:
            raise HoldfastError(f"there is no task {task!r} in this data; known: {', '.join(sorted(known))}")
        return known[task]["attack"]


def split(examples: Sequence[Example], shares: Mapping[str, float], *, seed: int = 0) -> dict[str, list[Example]]:
    """Divide rows into named splits; `shares` are positive and add up to 1, each split keeps the rows' order.

    A row's split is a function of (its `key`, `seed`) and the shares: the same prompt in two files gets the same split,
    and adding rows does not change the split of others. So sizes match the shares only on average. Raises
    `HoldfastError`.
    """
    if not shares or min(shares.values()) <= 0 or not isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        raise HoldfastError(f"shares of splits must be positive and add up to 1, not {dict(shares)}")
    names, bounds = list(shares), _bounds(list(shares.values()))
    splits: dict[str, list[Example]] = {name: [] for name in names}
    for example in examples:
        at = _position(example.key, seed)
        splits[next(name for name, bound in zip(names, bounds, strict=True) if at < bound)].append(example)
    return splits


def require_disjoint(splits: Mapping[str, Sequence[Example]]) -> None:
    """Raise `HoldfastError` that names two splits and a prompt if any prompt is in more than one of them."""
    owner: dict[str, str] = {}
    for name, examples in splits.items():
        for example in examples:
            first = owner.setdefault(example.key, name)
            if first != name:
                shared = f"{_short(example.question)!r} ({example.source or 'no source'})"
                remedy = "split one pool by shares, or drop the prompt from one"
                raise HoldfastError(f"splits {first!r} and {name!r} share the prompt {shared}: {remedy}")


def _bounds(shares: list[float]) -> list[float]:
    bounds = [sum(shares[: i + 1]) for i in range(len(shares))]
    return [*bounds[:-1], 1.0]


def _position(key: str, seed: int) -> float:
    """The prompt's position in [0, 1)."""
    return int(digest(f"{seed}/{key}", HEX_DIGITS), 16) / 16**HEX_DIGITS


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
