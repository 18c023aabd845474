"""A shorter forward pass over groups of answers: the common beginning of a group's rows is read once.

Rows of a group share their prompt and have different lengths: the prompt is read once and its cache is repeated, and
columns that predict nothing are not read. Gradients flow back through the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.network.reading import last_logits, select


class Columns(NamedTuple):
    """What was read of `w` columns, (n, w, V) logits or (n, w, D) states: of the given rows, (n,), or of all."""

    values: Tensor
    rows: Tensor | None = None


def shared_columns(batch: Mapping[str, Tensor]) -> int:
    """How many leading columns are prompt in every row of a batch in `groups`, 0 if no group has several rows."""
    if len(batch["groups"].unique()) == len(batch["groups"]):
        return 0
    return int(batch["loss_mask"].argmax(1).min())


def read_in_parts(
    network: Any, batch: Mapping[str, Tensor], start: int, reader: Callable[..., Tensor] = last_logits
) -> list[Columns]:
    """The columns from `start - 1` on: that one from the first row of each group, the last ones only from long rows.

    `reader` reads the last columns of a call: `last_logits`, or a reader of something else with its arguments.
    """
    from transformers import DynamicCache

    tokens, ends = batch["input_ids"], batch["lengths"] - 1
    # If every answer is a single token nothing is left to read, but models need at least one column.
    cut, end = max(_best_cut(ends, start), start + 1), max(int(ends.max()), start + 1)
    _, group, sizes = batch["groups"].unique_consecutive(return_inverse=True, return_counts=True)
    cache = DynamicCache(config=network.config)

    def read(tokens: Tensor, keep: int | None = None) -> Tensor:
        count = tokens.shape[1] if keep is None else keep
        return reader(network, count, input_ids=tokens, past_key_values=cache, use_cache=True)

    before = read(tokens[sizes.cumsum(0) - sizes, :start], 1)
    select(cache, group)
    columns = [Columns(before[group]), Columns(read(tokens[:, start:cut]))]
    if cut < end:
        long = (ends > cut).nonzero().squeeze(1)
        select(cache, long)
        columns.append(Columns(read(tokens[long, cut:end]), long))
    return columns


def scatter_parts(parts: Sequence[tuple[Tensor, Tensor | None]], first: int, shape: tuple[int, ...]) -> Tensor:
    """Columns from `first` on, one part after the other, in a tensor of `shape` that is 0 elsewhere."""
    filled = [
        values if rows is None else values.new_zeros(shape[0], *values.shape[1:]).index_copy(0, rows, values)
        for values, rows in parts
    ]
    joined = torch.cat(filled, 1) if len(filled) > 1 else filled[0]
    deeper = (0, 0) * (joined.dim() - 2)
    return functional.pad(joined, (*deeper, first, shape[1] - first - joined.shape[1]))


def _best_cut(ends: Tensor, start: int) -> int:
    """The column after which only longer rows are read, chosen to save the most; the last one if it saves little.

    Args:
        ends: the number of columns to read of each row, (B,).
        start: the first column in question.
    """
    ordered = ends.sort().values
    longer = torch.arange(len(ends) - 1, -1, -1, device=ends.device)
    tokens = (ordered - start) * len(ends) + longer * (ordered[-1] - ordered)
    best = tokens.argmin()
    saves = tokens[best] < 0.9 * tokens[-1] and ordered[best] > start
    return int(ordered[best] if saves else ordered[-1])
