"""The training loop: a subclass of `transformers.Trainer`.

Optimizers, schedules, clipping, accumulation, mixed precision, checkpoints and sharding are the Trainer's own, and the
same for every attack and defense, so that they are comparable.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from math import gcd
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from holdfast.network.flops import Meter
from holdfast.network.generate import SamplingError
from holdfast.network.models import has_adapter
from holdfast.network.precision import COMPENSATED_ADAMW, in_bf16, mark, require_compensated_adamw, widen
from holdfast.records import Example
from holdfast.tensors import Batch, with_totals
from holdfast.training.activation_memory import activations_of, refuse_unboundable
from holdfast.training.checkpoints import last_checkpoint, load_tensors, read_costs, save_tensors, seal
from holdfast.training.clock import Clock
from holdfast.training.plan import Diverged, Fitted, Metrics, Optim, Plan, Progress, sum_or_none
from holdfast.training.splitting import refuse_unsplittable, split

WEIGHTS = "holdfast_weights.safetensors"
"""Trained weights other than an adapter's; of an adapter the Trainer saves only its own."""


def fit(plan: Plan, *, folder: Path | None = None, checkpoint_every: int = 0) -> Fitted:
    """Run a plan; its model is trained in place, in float32 for every stored dtype (see `holdfast.network.precision`).

    Args:
        plan: the run.
        folder: the folder of checkpoints. If it has some, the run resumes from the last complete one, and on the CPU
            ends bit for bit as an uninterrupted run would.
        checkpoint_every: optimizer steps between checkpoints, rounded up to whole rollouts; 0 for none.

    Raises:
        Diverged: a loss, gradient or sampling probability is not finite.
        HoldfastError: the optimizer's library is not installed, the objective cannot be split by rows and should be, or
            activations cannot be recomputed as they should be.
    """
    require_compensated_adamw(plan.optim.optim)
    refuse_unsplittable(plan)
    refuse_unboundable(plan)
    widen(plan.model.network, optim=plan.optim.optim)
    try:
        return _run(plan, folder, checkpoint_every)
    finally:
        _release(plan.model.network)


def _run(plan: Plan, folder: Path | None, checkpoint_every: int) -> Fitted:
    with tempfile.TemporaryDirectory() as scratch:
        where = folder or Path(scratch)
        every = -(-checkpoint_every // plan.steps_per_rollout) * plan.steps_per_rollout
        loop = _Loop(plan, _arguments(plan.optim, where, every, plan.seed))
        checkpoint = last_checkpoint(where)
        if checkpoint is not None:
            loop.resume(checkpoint)
        with loop.meter.counting():
            loop.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    plan.model.network.eval()
    plan.model.network.zero_grad(set_to_none=True)
    steps, costs = loop.state.global_step, loop.costs
    return Fitted(
        model=plan.model,
        steps=steps,
        samples=int(costs["samples"]),
        tokens=int(costs["tokens"]),
        flops=loop.flops,
        seconds=costs["seconds"],
        stopped=loop.stopped,
    )


def _release(network: Any) -> None:
    """Remove a run's wrappers and hooks from a network, so that the next run can prepare it again."""
    extract_model_from_parallel(network, keep_fp32_wrapper=False)
    vars(network).pop("_is_accelerate_prepared", None)
    mark(network, bf16=False)


def _compensated_adamw(optim: Optim) -> tuple[Any, dict[str, Any]] | None:
    """AdamW with compensated sums and its arguments if it is chosen; `None` for the Trainer's own optimizers."""
    if optim.optim != COMPENSATED_ADAMW:
        return None
    from optimi import AdamW

    betas = (optim.adam_beta1, optim.adam_beta2)
    return AdamW, {"lr": optim.learning_rate, "betas": betas, "eps": optim.adam_epsilon, "weight_decay": 0.0}


def _arguments(optim: Optim, folder: Path, checkpoint_every: int, seed: int) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=optim.max_steps,
        learning_rate=optim.learning_rate,
        per_device_train_batch_size=optim.per_device_train_batch_size,
        gradient_accumulation_steps=optim.gradient_accumulation_steps,
        optim="adamw_torch" if optim.optim == COMPENSATED_ADAMW else optim.optim,
        adam_beta1=optim.adam_beta1,
        adam_beta2=optim.adam_beta2,
        adam_epsilon=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        lr_scheduler_type=optim.lr_scheduler_type,
        warmup_steps=optim.warmup_steps,
        bf16=in_bf16(optim.bf16),
        **({_CHECKPOINTING: True} if optim.gradient_checkpointing is True else {}),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if checkpoint_every else "no",
        save_steps=max(checkpoint_every, 1),
        seed=seed,
        data_seed=seed,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    return _on_one_device(arguments)


def _on_one_device(arguments: TrainingArguments) -> TrainingArguments:
    """The same without `DataParallel`, which the Trainer uses whenever a process sees several GPUs.

    Every GPU would get a part of a batch, whose totals (`num_tokens`) are those of the whole, and a rollout is sampled
    on one device anyway.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


class _Loop(Trainer):
    """Calls the parts of a plan, whatever they are."""

    def __init__(self, plan: Plan, arguments: TrainingArguments) -> None:
        rows, size = list(plan.data), arguments.train_batch_size * arguments.gradient_accumulation_steps
        if plan.steps_per_rollout > 1:
            # A rollout may cross the end of an epoch, so every step must have the same number of micro-batches.
            rows *= size // gcd(len(rows), size)
        super().__init__(
            model=plan.model.network,
            args=arguments,
            train_dataset=cast(Any, rows),
            data_collator=cast(Any, list),
            callbacks=[Clock(self)],
            optimizer_cls_and_kwargs=_compensated_adamw(plan.optim),
        )
        self.remove_callback(PrinterCallback)
        self.plan = plan
        mark(plan.model.network, bf16=arguments.bf16)
        self.costs = {"samples": 0.0, "tokens": 0.0, "seconds": 0.0}
        self.meter = Meter(plan.model.pad_id)
        self.metrics: Metrics = {}
        self.activations = activations_of(plan, self)
        self.stopped = False

    def resume(self, checkpoint: Path) -> None:
        """Restore the plan's state, which the Trainer's own checkpoint does not have."""
        saved = read_costs(checkpoint)
        self.costs = saved["costs"]
        # Saved by a version that did not count FLOPs: the earlier ones are unknown, and so is the sum.
        self.meter.flops = self.costs.pop("flops", math.nan)
        self.plan.state.update(saved["state"])
        device = self.plan.model.device
        self.plan.model.network.load_state_dict(load_tensors(checkpoint, device, WEIGHTS), strict=False)
        self.plan.tensors.update(load_tensors(checkpoint, device))

    def save_extras(self, checkpoint: Path) -> None:
        """Add the plan's state to the Trainer's checkpoint, and last the file that marks it as complete."""
        if has_adapter(self.plan.model):
            trained = {n: p.detach() for n, p in self.plan.model.network.named_parameters() if p.requires_grad}
            save_tensors(checkpoint, {n: p for n, p in trained.items() if "lora_" not in n}, WEIGHTS)
        save_tensors(checkpoint, self.plan.tensors)
        seal(checkpoint, {**self.costs, "flops": self.meter.flops}, self.plan.state)

    def call_hooks(self, phase: Literal["start", "step", "end"], control: Any) -> None:
        """Call the plan's hooks with the run's progress; any of them can end the run."""
        costs, plan, spent = self.costs, self.plan, self.plan.spent
        with plan.released(plan.model) as released, self.meter.paused():
            progress = Progress(
                phase=phase,
                step=spent.steps + self.state.global_step,
                max_steps=spent.steps + plan.optim.max_steps,
                model=released,
                samples=spent.samples + int(costs["samples"]),
                tokens=spent.tokens + int(costs["tokens"]),
                flops=sum_or_none((spent.flops, self.flops)),
                seconds=spent.seconds + costs["seconds"],
                metrics=dict(self.metrics),
                stopped=self.stopped,
            )
            requests = [hook(progress) for hook in plan.hooks]
            if any(requests):
                self.stopped = control.should_training_stop = True

    @property
    def flops(self) -> float | None:
        """The operations so far, `None` if unknown."""
        return None if math.isnan(self.meter.flops) else self.meter.flops

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's own optimizer, with the plan's learning rates for the parameters that have one."""
        optimizer = super().create_optimizer(model)
        names = {id(p): name for name, p in self.plan.model.network.named_parameters()}
        for prefix, rate in self.plan.learning_rates.items():
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if names.get(id(p), "").startswith(prefix)]
                if own:
                    group["params"] = [p for p in group["params"] if not names.get(id(p), "").startswith(prefix)]
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Example]], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], None]:
        """All micro-batches of the next optimizer step, prepared together under the current policy."""
        if self.control.should_training_stop or self.state.global_step >= self.args.max_steps:
            self.control.should_training_stop = True
            return [], None
        rows, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.metrics = {}
        if self.activations is not None:
            self.activations.begin_step()
        step = self.state.global_step
        if self.plan.max_grad_norm is not None:
            self.args.max_grad_norm = self.plan.max_grad_norm(step)
        try:
            batches = self.plan.batches(rows, step) if rows else []
        except SamplingError as error:
            raise Diverged(step, str(error)) from error
        for batch in batches:
            self.costs["samples"] += len(batch["input_ids"])
            self.costs["tokens"] += float(batch["lengths"].sum() + batch.pop("rollout_tokens", torch.zeros(())))
            self._add({key: float(batch.pop(key)) for key in list(batch) if key.startswith("log/")})
        return with_totals(batches) if batches else [], None

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over one micro-batch, by the plan's backward rule."""
        model.train()
        batch, budget = cast(Batch, self._prepare_inputs(inputs)), self.plan.optim.max_tokens_per_batch
        parts, losses = [batch] if budget is None else split(batch, budget), []
        for part in parts:
            bounded = nullcontext() if self.activations is None else self.activations.bounded()
            with bounded, self.compute_loss_context_manager():
                loss, metrics = self.plan.backward(self.plan.objective, model, part, self._propagate)
            if not bool(loss.isfinite()):
                raise Diverged(self.state.global_step, f"loss is {float(loss)}")
            self._add(metrics)
            losses.append(loss.detach())
        if self.activations is not None:
            self.metrics["recomputed"] = self.activations.end_pass()
        if budget is not None:
            self._add({"batch_parts": float(len(parts))})
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _propagate(self, loss: Tensor) -> None:
        self.meter.differentiated(loss)
        if loss.requires_grad:
            self.accelerator.backward(loss)
        else:
            # A zero gradient is not a missing one: the optimizer's momentum still acts.
            for parameter in self.plan.model.network.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            value = float(norm)
            if not torch.isfinite(torch.tensor(value)):
                raise Diverged(self.state.global_step, f"gradient norm is {value}")
            self.metrics["grad_norm"] = value
        return norm

    def _add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            key = name.removeprefix("log/")
            self.metrics[key] = self.metrics.get(key, 0.0) + value
