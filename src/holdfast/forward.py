"""A forward pass over a batch, and how one over groups of answers is kept short without changing what comes out.

Sampled answers stand in groups that share a prompt and end at different places. Read plainly, a batch of them costs
its rows times its longest row; here a shared prompt is read once and nothing is read that predicts nothing. Results
equal the plain pass up to the rounding of floats. Under dropout the rows of a group share their prompt's mask, and a
hook on the network sees several calls: whoever needs one call a batch leaves `groups` out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.tensors import target_logprobs


class _Columns(NamedTuple):
    """Logits (n, w, V) of `w` columns: of the rows given, (n,), or of all of them."""

    logits: Tensor
    rows: Tensor | None = None


def forward(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, S, V) of a batch.

    With `groups` in the batch, what the rows of a group share before any answer is read once, not once a row, and
    rows that end early are not read to the length of the longest. Then logits may be 0 where they predict nothing
    that is sampled: before all answers, and from a row's last token on.
    """
    start = _shared_columns(network, batch)
    if not start:
        return network(**_inputs(batch), use_cache=False).logits
    columns = _read_in_parts(network, batch, start)
    return _placed([(part.logits, part.rows) for part in columns], start - 1, batch["input_ids"].shape)


def answer_logprobs(network: torch.nn.Module, batch: Mapping[str, Tensor], *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each answer token under the full vocabulary, float32, (B, S - 1); finite elsewhere.

    As `token_logprobs` of `forward`, but no logits are computed for columns that are prompt in every row, nor is the
    last column read: on short answers to long prompts with a large vocabulary that is most of the memory.
    """
    targets = batch["input_ids"][:, 1:]
    first, columns = _answer_columns(network, batch)
    parts, column = [], first
    for logits, rows in columns:
        wanted = targets if rows is None else targets[rows]
        wanted = wanted[:, column : column + logits.shape[1]]
        # Columns beyond the last target predict nothing.
        parts.append((target_logprobs(logits[:, : wanted.shape[1]], wanted, temperature=temperature), rows))
        column += logits.shape[1]
    return _placed(parts, first, targets.shape)


def answer_logits(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (n, V) that the `n` answer tokens are predicted from, row by row; as cheap as `answer_logprobs`."""
    first, columns = _answer_columns(network, batch)
    chosen = batch["loss_mask"][:, 1:] > 0
    width = sum(logits.shape[1] for logits, _ in columns)
    return _placed(columns, 0, (len(chosen), width))[:, : chosen.shape[1] - first][chosen[:, first : first + width]]


def _answer_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[int, list[_Columns]]:
    """The first column that an answer token of any row is predicted from, and the logits from there on."""
    start = _shared_columns(network, batch)
    if start:
        return start - 1, _read_in_parts(network, batch, start)
    columns = batch["input_ids"].shape[1] - 1
    first = max(int(batch["loss_mask"].argmax(1).min()) - 1, 0)
    inputs = {name: value[:, :-1] for name, value in _inputs(batch).items()}
    return first, [_Columns(network(**inputs, use_cache=False, logits_to_keep=columns - first).logits)]


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def _placed(parts: Sequence[tuple[Tensor, Tensor | None]], first: int, shape: tuple[int, ...]) -> Tensor:
    """Columns from `first` on, one part after the other, in a tensor of `shape` that is 0 elsewhere."""
    whole = [
        values if rows is None else values.new_zeros(shape[0], *values.shape[1:]).index_copy(0, rows, values)
        for values, rows in parts
    ]
    joined = torch.cat(whole, 1) if len(whole) > 1 else whole[0]
    deeper = (0, 0) * (joined.dim() - 2)
    return functional.pad(joined, (*deeper, first, shape[1] - first - joined.shape[1]))


def _shared_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> int:
    """How many leading columns are prompt in every row, where reading them once a group can be done and pays."""
    if "groups" not in batch or "attention_mask" in batch or "position_ids" in batch:
        return 0
    # Layers that are computed again in the backward pass keep no cache; a wrapper for many devices may need one pass.
    recomputed = network.training and any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
    if recomputed or not hasattr(network, "config") or len(batch["groups"].unique()) == len(batch["groups"]):
        return 0
    return int(batch["loss_mask"].argmax(1).min())


def _read_in_parts(network: Any, batch: Mapping[str, Tensor], start: int) -> list[_Columns]:
    """The columns from `start - 1` on: that one from the first row of each group, the last from the rows so long."""
    from transformers import DynamicCache

    tokens, ends = batch["input_ids"], batch["lengths"] - 1
    # Where every answer is a single token there is nothing left to read, but models want at least one column.
    cut, end = max(_best_cut(ends, start), start + 1), max(int(ends.max()), start + 1)
    _, group, sizes = batch["groups"].unique_consecutive(return_inverse=True, return_counts=True)
    cache = DynamicCache(config=network.config)

    def read(tokens: Tensor, keep: int = 0) -> Tensor:
        return network(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits

    before = read(tokens[sizes.cumsum(0) - sizes, :start], 1)
    cache.batch_select_indices(group)
    columns = [_Columns(before[group]), _Columns(read(tokens[:, start:cut]))]
    if cut < end:
        long = (ends > cut).nonzero().squeeze(1)
        cache.batch_select_indices(long)
        columns.append(_Columns(read(tokens[long, cut:end]), long))
    return columns


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
