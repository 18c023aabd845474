"""Settings of the optimizer and schedule of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainValidator

from holdfast.methods.ranges import (
    Count,
    NonNegative,
    OneOf,
    PartialShare,
    Positive,
    SettingsError,
    Whole,
    ranged,
    refused,
)
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.precision import COMPENSATED_ADAMW, require_compensated_adamw
from holdfast.records import HoldfastError


def optimizers() -> list[str]:
    """The optimizers that transformers knows by name, and `adamw_kahan`; some need another package."""
    from transformers.training_args import OptimizerNames

    return [*(name.value for name in OptimizerNames), COMPENSATED_ADAMW]


@cache
def refuse_unbuildable(name: str) -> None:
    """Refuse an optimizer that cannot be created: it needs a missing package or unsupported settings.

    Raises:
        HoldfastError: says what is missing.
    """
    require_compensated_adamw(name)
    if name in (*OPTIMIZERS.usual, COMPENSATED_ADAMW):
        return
    import torch
    from transformers import Trainer, TrainingArguments

    try:
        arguments = TrainingArguments(optim=name, output_dir=".", report_to="none", use_cpu=True)
        Trainer.get_optimizer_cls_and_kwargs(arguments, torch.nn.Linear(1, 1))
    except Exception as error:
        raise HoldfastError(f"optim.optim: {name} cannot be created here: {' '.join(str(error).split())}") from None


def schedules() -> Iterator[str]:
    """The schedules of transformers that depend only on the step, not on an evaluation loss or further settings."""
    import torch
    from transformers import SchedulerType, get_scheduler

    for name in SchedulerType:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        try:
            schedule = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=1)
        except (TypeError, ValueError):
            continue
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            yield name.value


def _flag_or_auto(value: Any) -> bool | Literal["auto"]:
    if not (isinstance(value, bool) or value == "auto"):
        raise refused("must be true, false or auto")
    return value


OPTIMIZERS = OneOf(frozenset({"adamw_torch_fused", "adamw_torch", "sgd"}), optimizers)
SCHEDULES = OneOf(frozenset({"constant", "constant_with_warmup", "cosine", "linear"}), schedules)


@dataclass(frozen=True, kw_only=True)
@ranged
class Optim:
    """Optimizer and schedule, by the names of `transformers.TrainingArguments`.

    - `max_steps`: The number of optimizer steps of the run.
    - `learning_rate`: The highest learning rate, after the warm-up.
    - `per_device_train_batch_size`: The rows of a batch: examples for SFT, prompts for RL, pairs for preferences.
    - `gradient_accumulation_steps`: The number of batches whose gradients are added up to one optimizer step.
    - `optim`: The optimizer, by its name in `transformers`; only `adamw_kahan` trains bfloat16 weights as they are (see
      `holdfast.network.precision`).
    - `adam_beta1`: The share that Adam's running mean of the gradient keeps at each step.
    - `adam_beta2`: The share that Adam's running mean of the squared gradient keeps at each step.
    - `adam_epsilon`: What Adam adds to the root of that mean before it divides by it, against division by 0.
    - `weight_decay`: The share of each weight, times the learning rate, that is subtracted at every step (decoupled
      from the gradient, as in AdamW); biases and the weights of norms are left out.
    - `max_grad_norm`: The largest Euclidean norm of a step's gradient; a longer one is scaled down to it, and 0
      disables this clipping.
    - `lr_scheduler_type`: The course of the learning rate after the warm-up, by its name in `transformers`.
    - `warmup_steps`: The number of first steps in which the learning rate rises linearly from 0; the schedule
      `constant` has none (take `constant_with_warmup`).
    - `bf16`: Whether to compute in bfloat16 (autocast); `None` does so if an accelerator supports it. Weights are
      trained in float32 for every stored dtype.
    - `gradient_checkpointing`: Whether activations are computed again in the backward pass instead of being kept, which
      saves memory and costs time; `auto` does so only for the layers that would not fit in the free memory of the
      device, and records their largest share in any step as `recomputed`. Workers that share a device do not know of
      each other's memory.
    - `max_activation_mb`: The memory for activations in MiB by which `gradient_checkpointing: auto` decides; `None`
      takes what is free on the device.
    - `max_tokens_per_batch`: The largest number of tokens, padding included, that go through the network at once; a
      larger batch goes in parts of similar length, which saves memory and leaves the step the same. For SFT and policy
      gradients only (`holdfast.training.splitting`); `curves.jsonl` tells the number of parts (`batch_parts`).
    """

    max_steps: Whole = 100
    learning_rate: Positive = 5e-5
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    optim: Annotated[str, OPTIMIZERS] = "adamw_torch_fused"
    adam_beta1: PartialShare = 0.9
    adam_beta2: PartialShare = 0.999
    adam_epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    lr_scheduler_type: Annotated[str, SCHEDULES] = "constant"
    warmup_steps: Whole = 0
    bf16: bool | None = None
    gradient_checkpointing: Annotated[bool | Literal["auto"], PlainValidator(_flag_or_auto)] = False
    max_activation_mb: Count | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    max_tokens_per_batch: Count | None = field(default=None, metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        if self.max_activation_mb is not None and self.gradient_checkpointing != "auto":
            raise HoldfastError("max_activation_mb: needs `gradient_checkpointing: auto`; set both or neither")

    @property
    def caution(self) -> str | None:
        """What of it has no effect, in words, if anything: transformers' constant schedule has no warm-up."""
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            return (
                f"warmup_steps {self.warmup_steps} has no effect with lr_scheduler_type `constant`; take "
                "`constant_with_warmup`, or leave it out"
            )
        return None


def _trains(optim: Optim) -> Optim:
    if optim.max_steps < 1:
        raise SettingsError("Optim", f"max_steps: must be a whole number of at least 1, not {optim.max_steps}")
    if optim.max_steps <= optim.warmup_steps:
        raise SettingsError(
            "Optim", f"warmup_steps: must be below max_steps ({optim.max_steps}), not {optim.warmup_steps}"
        )
    return optim


Training = Annotated[Optim, AfterValidator(_trains)]
"""An optimizer for actual training: at least one step beyond the warm-up."""
