"""Masks, the shift between logits and targets, token log-probabilities, entropy, padding.

The shift by one is implemented only here. Shapes: `B` sequences, `S` tokens, `V` vocabulary. Logits at position `t`
predict token `t + 1`, so everything per target has `S - 1` columns. A `loss_mask` has `S` columns, aligned with
`input_ids`: 1 where a token is part of an answer and is to be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Batch = dict[str, Tensor]
"""Named tensors. `input_ids` and `loss_mask` (B, S) are always present, right-padded; `attention_mask` only if padding
is not on the right (a causal model ignores later tokens). `lengths` (B,) counts real tokens, and `rollout_tokens` those
used in sampling. `groups` (B,) is the index of the prompt, for consecutive rows that share it; without it each row is
read completely. `log/NAME` is a number to log. `num_tokens` and `num_sequences` are the totals of the whole optimizer
step that the batch is part of: a mean over them is exact under accumulation. Rows of a batch with an entry `uncounted`
are not in these totals."""


def exact(values: Tensor) -> Tensor:
    """The same numbers in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def token_logprobs(logits: Tensor, input_ids: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target under the full vocabulary, float32 at least, (B, S - 1)."""
    return target_logprobs(logits[:, :-1], input_ids[:, 1:], temperature=temperature)


def target_logprobs(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each of `targets` (...) under `logits` (..., V) over `temperature`, float32 or more, (...)."""
    scaled = exact(logits.flatten(0, -2))
    scaled = scaled if temperature == 1 else scaled / temperature
    return -functional.cross_entropy(scaled, targets.flatten(), reduction="none").view(targets.shape)


def target_mask(loss_mask: Tensor) -> Tensor:
    """The mask over targets (B, S - 1), as floats, from the mask over tokens (B, S)."""
    return loss_mask[:, 1:].float()


def masked_mean(values: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Sum of the masked values divided by `total`, by default the number of masked ones; 0 if that is 0.

    Masked-out entries may have any value, including infinities.
    """
    kept = values.masked_fill(mask == 0, 0.0)
    return (kept * mask).sum() / (mask.sum() if total is None else total).clamp(min=1)


def masked_mean_per_sequence(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row's masked values, (B,); 0 for a row without any."""
    kept = values.masked_fill(mask == 0, 0.0)
    return (kept * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def masked_sum_per_sequence(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of each row's masked values, (B,): of log-probabilities, the log-density of the row's answer."""
    return (values.masked_fill(mask == 0, 0.0) * mask).sum(-1)


def as_columns(values: Tensor) -> Tensor:
    """Numbers of answers, (N,), as (N, 1); those of tokens, (N, T), unchanged."""
    return values[:, None] if values.dim() == 1 else values


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of unequal length as one (B, S) tensor of int64, padded with `value` on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows padded on the left, and the attention mask of real tokens; both (B, S), int64."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*([value] * (width - len(row))), *row] for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return tokens, mask


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, pad_id: int) -> Batch:
    """(prompt tokens, answer tokens) pairs as a right-padded batch whose `loss_mask` covers the answers."""
    return {
        "input_ids": pad_right([[*prompt, *answer] for prompt, answer in pairs], pad_id),
        "loss_mask": pad_right([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0),
        "lengths": torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs]),
    }


def distinct_rows(batch: Mapping[str, Tensor]) -> tuple[Batch, Tensor]:
    """The rows of a right-padded batch that are unlike all rows before them, (D, ...), and each row's place in them.

    `distinct["input_ids"][place]`, with `place` (B,), are the batch's own.
    """
    names = [name for name in ("input_ids", "loss_mask", "lengths", "groups") if name in batch]
    contents = torch.cat([batch["input_ids"], batch["loss_mask"]], 1).cpu().numpy()
    seen: dict[bytes, int] = {}
    place = [seen.setdefault(row.tobytes(), len(seen)) for row in contents]
    first = torch.tensor([place.index(i) for i in range(len(seen))], device=batch["input_ids"].device)
    return {name: batch[name][first] for name in names}, torch.tensor(place, device=first.device)


def num_targets(batch: Mapping[str, Tensor]) -> Tensor:
    """The number of learnt tokens of a batch."""
    return target_mask(batch["loss_mask"]).sum()


def with_totals(batches: Sequence[Batch]) -> list[Batch]:
    """The batches of one optimizer step, each with the totals of all of them that are counted."""
    counted = [batch for batch in batches if "uncounted" not in batch]
    tokens = torch.stack([num_targets(batch) for batch in counted]).sum()
    sequences = torch.tensor(float(sum(len(batch["input_ids"]) for batch in counted)))
    return [{**batch, "num_tokens": tokens, "num_sequences": sequences} for batch in batches]
