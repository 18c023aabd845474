"""Pass a batch through the network in parts of similar length, within a budget of tokens; the step stays the same.

A batch is padded to its longest row, so that one long row makes all others expensive, and its activations are in memory
at once. Losses are sums over rows, divided by totals of the whole optimizer step, so the gradients of parts add up to
the batch's own, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from holdfast.records import HoldfastError
from holdfast.tensors import Batch
from holdfast.training.plan import Plan, backprop

Marked = TypeVar("Marked", bound=Callable[..., Any])
_MARK = "_holdfast_by_rows"


def by_rows(objective: Marked) -> Marked:
    """Mark an objective as a sum over the rows of its batch, divided by totals of the step."""
    vars(objective)[_MARK] = True
    return objective


def refuse_unsplittable(plan: Plan) -> None:
    """Refuse `max_tokens_per_batch` for a plan whose objective is not known to be a sum over rows, or whose backward
    rule is not the plain one.

    Raises:
        HoldfastError: says what to do instead.
    """
    if plan.optim.max_tokens_per_batch is None:
        return
    if not getattr(plan.objective, _MARK, False) or plan.backward is not backprop:
        raise HoldfastError(
            "optim.max_tokens_per_batch: only for SFT and policy gradients without a guard, and without a defense in "
            "their loss, since others compare rows of a batch; lower per_device_train_batch_size and raise "
            "gradient_accumulation_steps instead"
        )


def split(batch: Batch, budget: int) -> list[Batch]:
    """The batch in parts of at most `budget` tokens, padding included, and at least one row; shortest rows first.

    Rows of one of the batch's `groups` stay together if they fit, because they share a prompt. Tensors of tokens are
    cut to a part's longest row; totals are those of the whole batch.
    """
    lengths = batch["lengths"].tolist()
    return [_rows_of(batch, part) for part in _parts(_units(batch, budget, lengths), budget, lengths)]


def _units(batch: Batch, budget: int, lengths: Sequence[int]) -> list[list[int]]:
    """Rows that stay together, by their longest: groups, or pieces of a group that is too large, or single rows."""
    if "groups" not in batch:
        return sorted([[row] for row in range(len(lengths))], key=lambda unit: lengths[unit[0]])
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(batch["groups"].tolist()):
        groups.setdefault(group, []).append(row)
    units = []
    for group_rows in groups.values():
        size = max(1, budget // max(lengths[row] for row in group_rows))
        units += [group_rows[start : start + size] for start in range(0, len(group_rows), size)]
    return sorted(units, key=lambda unit: max(lengths[row] for row in unit))


def _parts(units: Sequence[list[int]], budget: int, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Units in order, put together as long as their rows, padded, are within the budget."""
    part: list[int] = []
    for unit in units:
        joined = [*part, *unit]
        if part and len(joined) * max(lengths[row] for row in joined) > budget:
            yield part
            joined = unit
        part = joined
    yield part


def _rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch, cut to the longest of them."""
    count, width = batch["input_ids"].shape
    index = torch.tensor(rows, device=batch["input_ids"].device)
    longest = int(batch["lengths"][index].max())

    def cut(value: Tensor) -> Tensor:
        if value.dim() == 0 or len(value) != count:
            return value
        columns = value.shape[1] if value.dim() > 1 else 0
        chosen = value[index]
        return chosen[:, : longest - (width - columns)] if columns in (width, width - 1) and columns > 1 else chosen

    return {name: cut(value) for name, value in batch.items()}
