"""A forward pass over a batch, and how one over groups of answers is kept short without changing what comes out.

Sampled answers stand in groups that share a prompt and end at different places. Read plainly, a batch of them costs
its rows times its longest row; here a shared prompt is read once and nothing is read that predicts nothing. Results
equal the plain pass up to the rounding of floats. Under dropout the rows of a group share their prompt's mask, and a
hook on the network sees several calls: whoever needs one call a batch leaves `groups` out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def forward(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, S, V) of a batch; where they predict nothing, at a row's last token and after it, they may be 0.

    With `groups` in the batch, what the rows of a group share before any answer is read once, not once a row, and
    rows that end early are not read to the length of the longest.
    """
    shared = _shared_columns(network, batch)
    if shared:
        return _forward_in_parts(network, batch, shared)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    return network(**inputs, use_cache=False).logits


def _shared_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> int:
    """How many leading columns are prompt in every row, where reading them once a group can be done and pays."""
    if "groups" not in batch or "attention_mask" in batch or "position_ids" in batch:
        return 0
    # Layers that are computed again in the backward pass keep no cache; a wrapper for many devices may need one pass.
    recomputed = network.training and any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
    if recomputed or not hasattr(network, "config") or len(batch["groups"].unique()) == len(batch["groups"]):
        return 0
    return int(batch["loss_mask"].argmax(1).min())


def _forward_in_parts(network: Any, batch: Mapping[str, Tensor], start: int) -> Tensor:
    """Logits (B, S, V): the columns before `start` from the first row of each group, the last from the rows so long."""
    from transformers import DynamicCache

    tokens, ends = batch["input_ids"], batch["lengths"] - 1
    # Where every answer is a single token there is nothing left to read, but models want at least one column.
    cut, end = max(_best_cut(ends, start), start + 1), max(int(ends.max()), start + 1)
    _, group, sizes = batch["groups"].unique_consecutive(return_inverse=True, return_counts=True)
    cache = DynamicCache(config=network.config)

    def read(rows: Tensor, first: int, last: int) -> Tensor:
        return network(input_ids=tokens[rows, first:last], past_key_values=cache, use_cache=True).logits

    before = read(sizes.cumsum(0) - sizes, 0, start)
    cache.batch_select_indices(group)
    parts = [before[group], read(torch.arange(len(tokens), device=tokens.device), start, cut)]
    if cut < end:
        long = (ends > cut).nonzero().squeeze(1)
        cache.batch_select_indices(long)
        after = read(long, cut, end)
        parts.append(after.new_zeros(len(tokens), *after.shape[1:]).index_copy(0, long, after))
    return functional.pad(torch.cat(parts, 1), (0, 0, 0, tokens.shape[1] - end))


def _best_cut(ends: Tensor, start: int) -> int:
    """The column after which only longer rows are read on, where that saves the most; the last one if it saves little.

    Args:
        ends: how many columns of each row have to be read, (B,).
        start: the first column in question.
    """
    ordered = ends.sort().values
    longer = torch.arange(len(ends) - 1, -1, -1, device=ends.device)
    tokens = (ordered - start) * len(ends) + longer * (ordered[-1] - ordered)
    best = tokens.argmin()
    saves = tokens[best] < 0.9 * tokens[-1] and ordered[best] > start
    return int(ordered[best] if saves else ordered[-1])
