"""Convert a trainer's inputs to a batch of Holdfast: the token layouts of transformers' and TRL's trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from holdfast.network.models import Model
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, num_targets

PACKED = ("position_ids", "seq_idx", "cu_seq_lens_q", "pixel_values")
"""Inputs that cannot be reproduced from tokens and masks alone: packed rows, and images."""


class Layout(NamedTuple):
    """Tokens, the mask of real tokens, and the mask of learnt answer tokens; all (B, S)."""

    tokens: Tensor
    real: Tensor
    learnt: Tensor


class LazyText(dict[str, Tensor]):
    """A batch without answers, which raises an error with the reason when they are read."""

    def __init__(self, batch: Batch, why: str) -> None:
        super().__init__(batch)
        self.why = why

    def __missing__(self, key: str) -> Tensor:
        raise HoldfastError(f"a defense needs `{key}` of the trainer's own batches, and {self.why}")


def answers_in(inputs: Any) -> Batch | None:
    """The answers in a trainer's inputs, right-padded: `input_ids`, `loss_mask` (B, S) and `lengths` (B,).

    `None` if the inputs do not mark answers.
    """
    layout = _layout(inputs)
    if layout is None or layout.learnt.shape != layout.tokens.shape or layout.tokens.dim() != 2:
        return None
    order = layout.real.bool().long().argsort(dim=1, descending=True, stable=True)
    lengths = layout.real.bool().sum(1)
    width = int(lengths.max())
    learnt = (layout.learnt.bool() & layout.real.bool()).long()
    return {
        "input_ids": layout.tokens.gather(1, order)[:, :width],
        "loss_mask": learnt.gather(1, order)[:, :width],
        "lengths": lengths,
    }


def _layout(inputs: Any) -> Layout | None:
    if not isinstance(inputs, Mapping) or any(name in inputs for name in PACKED):
        return None
    if "prompt_ids" in inputs and "completion_ids" in inputs:
        prompt, mask = inputs["prompt_mask"], inputs["completion_mask"]
        learnt = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
        return Layout(
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([prompt, mask], dim=1),
            torch.cat([torch.zeros_like(prompt), learnt], dim=1),
        )
    if "input_ids" not in inputs or not ("completion_mask" in inputs or "labels" in inputs):
        return None
    tokens = inputs["input_ids"]
    learnt = inputs["completion_mask"] if "completion_mask" in inputs else inputs["labels"] != -100
    return Layout(tokens, inputs.get("attention_mask", torch.ones_like(tokens)), learnt)


def sampled(trainer: Any, inputs: Any, *, place: int, of: int) -> Batch | str:
    """The answers that an RL trainer of TRL sampled, with their step's totals, or why they are not available.

    Args:
        trainer: the trainer.
        inputs: its inputs for micro-batch `place` of the `of` micro-batches of its optimizer step.
        place: see `inputs`.
        of: see `inputs`.
    """
    own = answers_in(inputs)
    if own is None:
        return "its inputs do not mark answers, as `input_ids` with `labels` or `completion_mask`"
    step = [own] if of == 1 else _whole_step(trainer, trainer._step - place, of)
    if step is None:
        return (
            "this trainer samples again within an optimizer step, so that the number of its tokens is not known in "
            "time; set steps_per_generation to a multiple of gradient_accumulation_steps"
        )
    sequences = sum(len(batch["input_ids"]) for batch in step)
    return {
        **own,
        "num_tokens": torch.stack([num_targets(batch) for batch in step]).sum(),
        "num_sequences": torch.tensor(float(sequences), device=own["input_ids"].device),
    }


def _whole_step(trainer: Any, first: int, of: int) -> list[Batch] | None:
    """All batches of the optimizer step that begins with micro-batch `first`, if one rollout holds them."""
    buffered, rollout = trainer._buffered_inputs, trainer.args.steps_per_generation
    lasts = rollout * trainer.num_iterations
    if buffered is None or first // lasts != (first + of - 1) // lasts:
        return None
    batches = [answers_in(buffered[i % rollout]) for i in range(first, first + of)]
    return [batch for batch in batches if batch is not None]


class NoTokenizer:
    """Placeholder for a missing tokenizer, which raises an error on use."""

    def __getattr__(self, name: str) -> Any:
        raise HoldfastError(
            "the trainer has no tokenizer, which the defense's rows need; give it one as `processing_class`"
        )


def model_of(trainer: Any, prompt_format: str | None) -> Model:
    """The trainer's model with its tokenizer."""
    processor = getattr(trainer, "processing_class", None)
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        tokenizer = NoTokenizer()
    network = trainer.accelerator.unwrap_model(trainer.model)
    return Model(
        network=network,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        chat_template_kwargs=getattr(trainer, "chat_template_kwargs", None) or {},
        name="the trainer's model",
    )
