"""The forward pass over a batch, with shared prompts read once; results do not change.

Sampled answers are in groups that share a prompt, and have different lengths. The plain pass costs the number of rows
times the longest row; here a shared prompt is read once, and positions that predict nothing are not read. Results equal
the plain pass up to rounding. Under dropout the rows of a group share their prompt's mask, and a hook on the network
sees several calls: for a single call per batch, omit `groups`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from holdfast.network.prefixes import Columns, read_in_parts, scatter_parts, shared_columns
from holdfast.network.reading import last_logits
from holdfast.network.shortcuts import shortcuts
from holdfast.tensors import masked_sum_per_sequence, target_logprobs, target_mask


def forward(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, S, V) of a batch.

    With `groups` in the batch, the common beginning of a group's rows is read once instead of once per row, and short
    rows are not read to the length of the longest. Then logits may be 0 where they predict no sampled token: before all
    answers, and from a row's last token on.
    """
    start = _shared_columns(network, batch)
    if not start:
        return network(**_inputs(batch), use_cache=False).logits
    columns = read_in_parts(network, batch, start)
    return scatter_parts([(part.logits, part.rows) for part in columns], start - 1, batch["input_ids"].shape)


def answer_logprobs(network: torch.nn.Module, batch: Mapping[str, Tensor], *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each answer token under the full vocabulary, float32 at least, (B, S - 1); finite elsewhere.

    As `token_logprobs` of `forward`, but no logits are computed for columns that are prompt in every row, nor is the
    last column read: for short answers to long prompts with a large vocabulary this saves most of the memory.
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
    return scatter_parts(parts, first, targets.shape)


def sequence_logprobs(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Sum of the log-probabilities of each row's answer tokens, (B,)."""
    return masked_sum_per_sequence(answer_logprobs(network, batch), target_mask(batch["loss_mask"]))


def answer_logits(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (n, V) that the `n` answer tokens are predicted from, row by row; as cheap as `answer_logprobs`."""
    first, columns = _answer_columns(network, batch)
    chosen = batch["loss_mask"][:, 1:] > 0
    width = sum(logits.shape[1] for logits, _ in columns)
    logits = scatter_parts(columns, 0, (len(chosen), width))[:, : chosen.shape[1] - first]
    return logits[chosen[:, first : first + width]]


def _answer_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[int, list[Columns]]:
    """The first column that an answer token of any row is predicted from, and the logits from that column on."""
    start = _shared_columns(network, batch)
    if start:
        return start - 1, read_in_parts(network, batch, start)
    columns = batch["input_ids"].shape[1] - 1
    first = max(int(batch["loss_mask"].argmax(1).min()) - 1, 0)
    inputs = {name: value[:, :-1] for name, value in _inputs(batch).items()}
    return first, [Columns(last_logits(network, columns - first, **inputs, use_cache=False))]


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def _shared_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> int:
    """How many leading columns are prompt in every row, if reading them once per group is possible and saves time."""
    if "groups" not in batch or "attention_mask" in batch or "position_ids" in batch:
        return 0
    # Checkpointed layers keep no cache; a wrapper for distributed training may need a single pass.
    recomputed = network.training and any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
    if recomputed or not hasattr(network, "config"):
        return 0
    start = shared_columns(batch)
    return start if start and shortcuts(network).prefixes else 0
