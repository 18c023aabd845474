"""The examples of a cell: read or generated, and divided into splits with disjoint prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.data.pairing import MEASURED, Pair, matched, placed
from holdfast.data.read import read
from holdfast.data.splits import Splits, require_disjoint, split
from holdfast.methods.tables import near
from holdfast.records import Example, HoldfastError
from holdfast.sandbox import grammar


def load_splits(data: Data) -> Splits:
    """The examples of a cell, divided into four splits with disjoint prompts.

    Raises:
        HoldfastError: a file cannot be read, only one of the two sources is given, a split is left empty, or no harmful
            row is of the wanted domain.
    """
    if data.harmful is None and data.benign is None:
        return _sandbox_splits(data)
    sources = _given("harmful", data.harmful), _given("benign", data.benign)
    every, benign = _rows("harmful", sources[0]), _rows("benign", sources[1])
    harmful = _of_domain(every, data.domain)
    others = [] if data.domain is None else [row for row in every if row.domain != data.domain]
    few, many = sorted(({row.key for row in rows} for rows in (harmful, benign)), key=len)
    if few <= many:  # in another format, in another order, or a subset
        raise HoldfastError(
            f"data.harmful and data.benign have the same prompts ({sources[0].path} and {sources[1].path}): "
            "every prompt of one is in the other; harmful prompts cannot measure usefulness"
        )
    tasks = {
        name: _split_rows(f"tasks.{name}", _rows(f"tasks.{name}", source), data) for name, source in data.tasks.items()
    }
    splits = Splits(
        harmful=_split_rows("harmful", harmful, data),
        benign=_split_rows("benign", benign, data),
        tasks=tasks,
        other_domains=split([row for row in others if row.role != "refusal"], data.shares, seed=data.seed)["defense"],
    )
    return splits if data.pairs is None else replace(splits, pairs=_pairs(data.pairs, splits, data))


def harmful_splits(data: Data) -> dict[str, list[Example]]:
    """The harmful rows of a file, divided into splits."""
    rows = _rows("harmful", _given("harmful", data.harmful))
    return _split_rows("harmful", _of_domain(rows, data.domain), data)


def _sandbox_splits(data: Data) -> Splits:
    sizes: dict[Any, int] = {
        name: data.train if name in ("defense", "attack") else data.held_out for name in data.shares
    }
    restricted = grammar.RESTRICTED if data.domain is None else (_known(data.domain, grammar.RESTRICTED),)
    learnt = {"defense", "attack"} if data.repeat_names else set()
    harmful = {
        name: grammar.examples(name, restricted, size, seed=data.seed, repeat=name in learnt)
        for name, size in sizes.items()
    }
    benign = {name: grammar.examples(name, grammar.BENIGN, size, seed=data.seed) for name, size in sizes.items()}
    require_disjoint({name: harmful[name] + benign[name] for name in sizes})
    kinds = [grammar.tasks, *([grammar.exams] if set(data.sandbox_tasks) & set(grammar.UNTAUGHT) else [])]
    made = [{name: kind(name, size, seed=data.seed) for name, size in sizes.items()} for kind in kinds]
    by_task = {task: {name: rows[name][task] for name in sizes} for rows in made for task in rows["test"]}
    tasks = {task: by_task[task] for task in data.sandbox_tasks}
    pairs = {str(name): grammar.pairs(name, data.held_out, seed=data.seed, families=restricted) for name in MEASURED}
    others = tuple(family for family in grammar.RESTRICTED if family not in restricted)
    elsewhere = grammar.examples("defense", others, data.train, seed=data.seed) if others else []
    return Splits(harmful=harmful, benign=benign, tasks=tasks, pairs=pairs, other_domains=elsewhere)


def _pairs(source: Source, splits: Splits, data: Data) -> dict[str, list[Pair]]:
    """The matched pairs of a file, without those of which a prompt is trained on.

    Raises:
        HoldfastError: a row has no twin, or no pair is left for a split.
    """
    every = matched(read(source), source.path)
    pairs = [pair for pair in every if data.domain in (None, pair[0].domain)]
    parts = (splits.harmful, splits.benign, *splits.tasks.values())
    used = {name: [row for part in parts for row in part[name]] for name in data.shares}
    by_split = placed(pairs, used, data.shares, seed=data.seed)
    empty = next((name for name, rows in by_split.items() if not rows), None)
    if empty is not None:
        raise HoldfastError(
            f"data.pairs: of {len(every)} pairs none is left in the split {empty} (without those of prompts that are "
            "trained on); add pairs of other prompts"
        )
    return by_split


def _given(name: str, source: Source | None) -> Source:
    if source is None:
        raise HoldfastError(f"data.{name} is missing: harm is never reported without usefulness, so give both")
    return source


def _rows(name: str, source: Source) -> list[Example]:
    every = read(source)
    wanted = ("harmful", "refusal") if name == "harmful" else ("benign", "retain")
    rows = [row for row in every if row.role in wanted]
    if not any(row.role == wanted[0] for row in rows):
        option = " (--harmful-role harmful)" if name == "harmful" else ""
        raise HoldfastError(
            f"{source.path}: none of its {len(every)} rows is {wanted[0]}; set `role: {wanted[0]}` in data.{name} if "
            f"all are{option}"
        )
    return rows


def _of_domain(rows: Sequence[Example], domain: str | None) -> list[Example]:
    """The rows of a domain, all of them for `None`."""
    if domain is None:
        return list(rows)
    _known(domain, sorted({row.domain for row in rows if row.domain}))
    return [row for row in rows if row.domain == domain]


def _known(domain: str, domains: Sequence[str]) -> str:
    if domain not in domains:
        there = ", ".join(domains) or "none: map a column to `domain`"
        raise HoldfastError(
            f"data.domain: no harmful row is of the domain {domain!r}{near(domain, domains)}; known: {there}"
        )
    return domain


def _split_rows(name: str, rows: Sequence[Example], data: Data) -> dict[str, list[Example]]:
    splits = split([row for row in rows if row.role != "refusal"], data.shares, seed=data.seed)
    empty = [part for part, examples in splits.items() if not examples]
    if empty:
        raise HoldfastError(
            f"data.{name}: the {empty[0]} split has no prompt ({len(rows)} rows in all); add rows or change data.shares"
        )
    require_disjoint(splits)
    return splits
