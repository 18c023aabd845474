"""The training of a judge as a plan: its batches and its loss, and the run from backbone to scored judge.

Equations: `-log sigmoid(r(x, y_w) - r(x, y_l))` over pairs (Bradley-Terry), cross entropy over labels (classifier).
Source: the reward model and the harm classifier of Rosati et al. 2024 (arXiv 2409.12914).
Differs from the paper in: a part of the prompts is held out and never trained on; the learning rate is constant and
gradients are clipped at 1, which the paper does not state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.data.splits import Splits
from holdfast.judge_training.backbone import backbone, refuse_foreign_words
from holdfast.judge_training.held_out import held_out_scores
from holdfast.judge_training.recipes import Classifier, RewardModel
from holdfast.judge_training.rows import is_harmful, labelled_rows, preference_rows
from holdfast.judge_training.scores import Bin
from holdfast.losses.preference import bradley_terry
from holdfast.network import scoring
from holdfast.network.models import Model
from holdfast.records import Score
from holdfast.tensors import Batch
from holdfast.training.plan import Examples, Fit, Fitted, Metrics, Optim, Plan, Prepare

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained judge, its scores on held-out rows, and the numbers of training and held-out rows."""

    model: Model
    settings: RewardModel | Classifier
    scores: tuple[Score, ...]
    reliability: tuple[Bin, ...]
    num_train: int
    num_held_out: int
    fitted: Fitted


def train(settings: RewardModel | Classifier, splits: Splits, fit: Fit) -> Trained:
    """Train a judge on one split and score it on that split's held-out prompts.

    Raises:
        HoldfastError: the rows lack a required answer, or the backbone cannot be loaded or cannot read them.
    """
    pairs = isinstance(settings, RewardModel)
    rows = preference_rows(settings, splits) if isinstance(settings, RewardModel) else labelled_rows(settings, splits)
    model = backbone(settings)
    refuse_foreign_words(settings, model, rows.train)
    fitted = fit(
        Plan(
            model=model,
            data=rows.train,
            prepare=pairs_of(settings) if pairs else answers_of(settings),
            objective=preference if pairs else classification,
            optim=_steps(settings, len(rows.train)),
            seed=settings.seed,
        )
    )
    scores, bins = held_out_scores(settings, fitted.model, rows.held_out)
    return Trained(
        model=fitted.model,
        settings=settings,
        scores=scores,
        reliability=bins,
        num_train=len(rows.train),
        num_held_out=len(rows.held_out),
        fitted=fitted,
    )


def _steps(settings: RewardModel | Classifier, num_rows: int) -> Optim:
    optim = settings.optim
    if settings.epochs is None:
        return optim
    batch = optim.per_device_train_batch_size * optim.gradient_accumulation_steps
    return replace(optim, max_steps=max(1, ceil(settings.epochs * ceil(num_rows / batch))))


def pairs_of(settings: RewardModel | Classifier) -> Prepare:
    """Batches of 2 P answers: first the chosen ones of all rows, then the rejected ones."""

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:  # noqa: ARG001
        return [
            _batch(
                settings, model, [(row, row.chosen or "") for row in rows] + [(row, row.rejected or "") for row in rows]
            )
            for rows in micro_batches
        ]

    return prepare


def answers_of(settings: RewardModel | Classifier) -> Prepare:
    """Batches of answers with `labels` (B,): 1 where harmful."""

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:  # noqa: ARG001
        return [
            {
                **_batch(settings, model, [(row, row.response or "") for row in rows]),
                "labels": torch.tensor([int(is_harmful(row)) for row in rows]),
            }
            for rows in micro_batches
        ]

    return prepare


def _batch(settings: RewardModel | Classifier, model: Model, answers: Sequence[scoring.Answer]) -> Batch:
    """The network's input; its `loss_mask` is empty, since none of its tokens is learnt."""
    limit = model.tokenizer.model_max_length
    batch = scoring.encode(answers, model.tokenizer, input_format=settings.input_format, max_length=limit)
    tokens = batch["input_ids"]
    return {**batch, "loss_mask": torch.zeros_like(tokens), "lengths": batch["attention_mask"].sum(1)}


def preference(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """The mean Bradley-Terry loss over the pairs of the optimizer step, and the share of pairs in order."""
    chosen, rejected = _read(network, batch)[:, 0].chunk(2)
    count = batch["num_sequences"] / 2
    loss = bradley_terry(chosen, rejected).sum() / count
    return loss, {"loss": float(loss.detach()), "accuracy": float((chosen > rejected).sum() / count)}


def classification(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """The mean cross entropy over the answers of the optimizer step, and the share of answers classified correctly."""
    rows = _read(network, batch)
    loss = functional.cross_entropy(rows, batch["labels"], reduction="sum") / batch["num_sequences"]
    right = (rows.argmax(-1) == batch["labels"]).sum() / batch["num_sequences"]
    return loss, {"loss": float(loss.detach()), "accuracy": float(right)}


def _read(network: torch.nn.Module, batch: Batch) -> Tensor:
    return network(**{name: batch[name] for name in INPUTS if name in batch}).logits.float()
