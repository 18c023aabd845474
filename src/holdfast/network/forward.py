"""The forward pass over a batch, with shared prompts read once; results do not change.

Sampled answers are in groups that share a prompt, and have different lengths. The plain pass costs the number of rows
times the longest row; here a shared prompt is read once, and positions that predict nothing are not read. Results equal
the plain pass up to rounding. Under dropout the rows of a group share their prompt's mask, and a hook on the network
sees several calls: for a single call per batch, omit `groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from holdfast.distributions import Distributions, Logits, LogProb, Projected
from holdfast.network.heads import HeadReader, without_logits
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
    return scatter_parts([(part.values, part.rows) for part in columns], start - 1, batch["input_ids"].shape)


def target_distributions(
    network: torch.nn.Module, batch: Mapping[str, Tensor], mask: Tensor | None = None
) -> Distributions:
    """The distributions (B, S - 1) that targets are predicted from: for a large vocabulary without their logits.

    Their statistics are 0, or any finite number, at targets that are not in the mask.

    Args:
        network: read as by `forward`.
        batch: with `groups` in it, the targets of the mask are sampled tokens.
        mask: (B, S - 1), above 0 at the targets that count; by default the answers'.
    """
    counted = (batch["loss_mask"][:, 1:] if mask is None else mask) > 0
    if not without_logits(network, counted.numel()):
        return Logits(forward(network, batch)[:, :-1])
    return _projected(network, batch, counted)


def chosen_distributions(network: torch.nn.Module, batch: Mapping[str, Tensor], places: Tensor) -> Distributions:
    """The distributions (n,) at the `n` positions of a mask (B, S), row by row, without the logits of a large
    vocabulary.

    All columns of the batch are read, as by `forward`, so that hooks on a network see all of them.
    """
    if not without_logits(network, places.numel()):
        return Logits(forward(network, batch)[places])
    reader = HeadReader()
    states = reader(network, places.shape[1], **_inputs(batch), use_cache=False)
    return Projected(states[places], reader.head)


def distributions_and_states(
    network: torch.nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Distributions, tuple[Tensor, ...]]:
    """The answers' distributions (B, S - 1), as `target_distributions`, and all hidden states, (B, S, H) a layer."""
    inputs = {**_inputs(batch), "output_hidden_states": True, "use_cache": False}
    counted = batch["loss_mask"][:, 1:] > 0
    if not without_logits(network, counted.numel()):
        output = network(**inputs)
        return Logits(output.logits[:, :-1]), output.hidden_states
    reader = HeadReader()
    states = reader(network, counted.shape[1] + 1, **inputs)
    return Projected(states[:, :-1][counted], reader.head, counted), reader.output.hidden_states


def hidden_states(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """All hidden states, (B, S, H) a layer; of a large vocabulary no logits are computed."""
    return distributions_and_states(network, batch)[1]


def answer_distributions(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> Distributions:
    """The distributions (n,) that the `n` answer tokens are predicted from, row by row; see `answer_logits`."""
    counted = batch["loss_mask"][:, 1:] > 0
    if not without_logits(network, _answer_positions(batch)):
        return Logits(answer_logits(network, batch))
    return replace(_projected(network, batch, counted), places=None)


def answer_logprobs(network: torch.nn.Module, batch: Mapping[str, Tensor], *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each answer token under the full vocabulary, float32 at least, (B, S - 1); finite elsewhere.

    As `token_logprobs` of `forward`, but no logits are computed for columns that are prompt in every row, nor is the
    last column read; for a large vocabulary, the answers' logits are not all in memory either (`distributions`).
    """
    targets = batch["input_ids"][:, 1:]
    if without_logits(network, _answer_positions(batch)):
        answers = _projected(network, batch, batch["loss_mask"][:, 1:] > 0)
        return answers.measure(LogProb(targets), temperature=temperature)[0]
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


def _projected(network: torch.nn.Module, batch: Mapping[str, Tensor], counted: Tensor) -> Projected:
    """The distributions of the targets in a mask (B, S - 1), as hidden states and the head."""
    reader = HeadReader()
    first, columns = _columns(network, batch, _first(counted), reader)
    states = scatter_parts([(part.values, part.rows) for part in columns], first, batch["input_ids"].shape)
    return Projected(states[:, :-1][counted], reader.head, counted)


def _answer_columns(network: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[int, list[Columns]]:
    """The first column that an answer token of any row is predicted from, and the logits from that column on."""
    return _columns(network, batch, max(int(batch["loss_mask"].argmax(1).min()) - 1, 0), last_logits)


def _columns(
    network: torch.nn.Module, batch: Mapping[str, Tensor], first: int, reader: Callable[..., Tensor]
) -> tuple[int, list[Columns]]:
    """The columns from `first` on, or from an earlier one, with the number of the first of them."""
    start = _shared_columns(network, batch)
    if start:
        return start - 1, read_in_parts(network, batch, start, reader)
    columns = batch["input_ids"].shape[1] - 1
    inputs = {name: value[:, :-1] for name, value in _inputs(batch).items()}
    return first, [Columns(reader(network, columns - first, **inputs, use_cache=False))]


def _first(counted: Tensor) -> int:
    """The first column of a mask (B, S - 1) in which it is set, or the last one."""
    columns = counted.any(0)
    return int(columns.int().argmax()) if bool(columns.any()) else len(columns) - 1


def _answer_positions(batch: Mapping[str, Tensor]) -> int:
    """The number of positions of which `answer_logprobs` needs distributions, and some others between them."""
    first = _first(batch["loss_mask"][:, 1:] > 0)
    return len(batch["loss_mask"]) * (batch["loss_mask"].shape[1] - 1 - first)


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
