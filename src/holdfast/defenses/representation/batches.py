"""Rows to batches: harmful answers and refusals of the same prompts, and benign text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from holdfast.defenses.representation.removal import Removal
from holdfast.network.models import Model, answer_batch
from holdfast.records import Example
from holdfast.tensors import Batch
from holdfast.training.plan import Examples


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The family's `prepare`.

    A batch holds the harmful answers and, after them, the refusals of the same prompts in the same order; `harmful`
    (B,) distinguishes them, `read` (B, S) marks the positions of `Z`, `topic` (B,) is the index of the domain. Benign
    text is under `retain/`. `progress` is the share of the steps done including this one, `noise_seed` the seed of the
    noise.
    """

    removal: Removal
    seed: int
    max_steps: int
    domains: tuple[str, ...]
    of_domain: tuple[Callable[[int], list[Example]], ...]
    benign: Callable[[int], list[Example]]

    def __call__(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        """The batches, in order."""
        sizes = [len(rows) for rows in micro_batches]
        if self.removal.alternate_domains:
            turn, lap = step % len(self.domains), step // len(self.domains)
            micro_batches = _split_to_batches(self.of_domain[turn](lap), sizes)
        benign = _split_to_batches(self.benign(step), sizes) if self.removal.retains else [[] for _ in sizes]
        return [
            {
                **self._pairs(model, rows),
                **{f"retain/{key}": value for key, value in self._retain(model, others).items()},
                "progress": torch.tensor((step + 1) / self.max_steps),
                "noise_seed": torch.tensor(Random(f"{self.seed} {step} {i}").getrandbits(62)),
            }
            for i, (rows, others) in enumerate(zip(micro_batches, benign, strict=True))
        ]

    def _pairs(self, model: Model, rows: Examples) -> Batch:
        answers = [(row, row.response or "") for row in rows]
        refusals = [(row, row.refusal or "") for row in rows] if self.removal.pairs else []
        batch = answer_batch(model, [*answers, *refusals], max_length=self.removal.max_length)
        harmful = torch.arange(len(batch["input_ids"])) < len(rows)
        if self.removal.quirks:
            one, other = batch["input_ids"].chunk(2)
            batch["loss_mask"] = (one != other).long().repeat(2, 1)
        read = batch["loss_mask"] if self.removal.positions == "answer" else _real(batch)
        topic = torch.tensor([self.domains.index(row.domain) for row in rows])
        return {**batch, "harmful": harmful, "read": read, "topic": topic}

    def _retain(self, model: Model, rows: Examples) -> Batch:
        if not rows:
            return {}
        pairs = [(row, row.response or "") for row in rows]
        batch = answer_batch(model, pairs, max_length=self.removal.max_length)
        return {**batch, "read": _real(batch)}


def _real(batch: Batch) -> Tensor:
    """The mask of tokens that are not padding, (B, S)."""
    return (torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]).long()


def _split_to_batches(rows: Sequence[Example], sizes: Sequence[int]) -> list[Sequence[Example]]:
    """The first rows, in batches of the given sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]
