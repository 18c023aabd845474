"""A trainer with defenses: its own loss and loop, with a plan's parts called from replaced methods of the instance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from holdfast.files import write
from holdfast.integrations.answers import LazyText, answers_in, sampled
from holdfast.integrations.instance import bound, hooks_of, is_scaled
from holdfast.network.models import Model
from holdfast.records import HoldfastError
from holdfast.tensors import Batch, with_totals
from holdfast.training.checkpoints import load_tensors, read_costs, save_tensors, stated
from holdfast.training.clock import Clock
from holdfast.training.plan import Examples, Metrics, Plan, Progress

STATE = "holdfast_state.json"
"""The file of a plan's state in a trainer's checkpoint."""
METHODS = ("train", "get_batch_samples", "training_step", "compute_loss", "save_model", "evaluate", "predict", "log")
"""The methods of the trainer that are replaced on the instance."""
NO_BACKWARD = "call `compute_loss` once and pass its result to `accelerator.backward`, as transformers does"


class Call(NamedTuple):
    """The arguments of the trainer's call of `compute_loss`, after the model."""

    inputs: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Constrained:
    """A trainer with defenses; `remove` detaches them.

    `plan` is the run as a plan, `metrics` are those of the last optimizer step. The trainer works as before: its loop
    calls `training_step`, which calls `compute_loss`, in which the plan's backward rule calls the trainer's own loss
    and propagates gradients. The value returned to the trainer instead of the loss is detached, so that its own
    backward pass changes nothing; how the trainer scales that value is checked.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.plan: Plan
        self.metrics: Metrics = {}
        self.costs = {"samples": 0.0, "tokens": 0.0, "seconds": 0.0}
        self.stopped = False
        self._ours = {name: getattr(self, f"_{name}") for name in METHODS}
        self._own: dict[str, Callable[..., Any]] = {}
        self._before: dict[str, Any] = {}
        self._raw: Sequence[Any] = ()
        self._ready: list[Batch] = []
        self._place = 0
        self._inside = False
        self._call: Call | None = None
        self._outputs: tuple[Any, ...] = ()
        self._returned: Tensor | None = None
        self._steps = 1
        self._sums: Metrics = {}
        self._counted = 0
        self._hooked = hooks_of(trainer)
        self._watch = Clock(self)

    # Parts of the plan.

    def prepare(self, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:  # noqa: ARG002
        """The trainer's own batches, with their answers if they are already known."""
        return [answers_in(raw) or {} for raw in self._raw[: len(micro_batches)]]

    def objective(self, network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:  # noqa: ARG002
        """The trainer's own loss on its own inputs, scaled for accumulation as the trainer would."""
        assert self._call is not None
        inputs, args, kwargs = self._call
        # A copy: some losses remove entries from their inputs, and a rule may compute the loss twice.
        inputs = copy.copy(inputs) if isinstance(inputs, Mapping) else inputs
        output = self._own["compute_loss"](network, inputs, *args, **kwargs)
        loss, self._outputs = (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, ())
        loss = loss if self._steps == 1 else loss / self._steps
        return loss, {"loss": float(loss.detach())}

    # Replacements of the trainer's own methods.

    def also(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        """Replace these further methods of the trainer, by name, when the plan is attached."""
        self._ours.update(methods)

    def attach(self, plan: Plan) -> None:
        """Activate the plan."""
        self.plan = plan
        own = vars(self.trainer)
        for name, ours in self._ours.items():
            self._own[name] = getattr(self.trainer, name)
            if name in own:
                self._before[name] = own[name]
            setattr(self.trainer, name, bound(self._own[name], ours))
        self.trainer.add_callback(self._watch)
        self.trainer._holdfast = self

    def remove(self) -> None:
        """Restore the trainer: its methods, its callbacks, and its networks without a defense's hooks.

        Raises:
            HoldfastError: one of the methods has been replaced by other code since.
        """
        if not self._own:
            return
        own = vars(self.trainer)
        for name in self._ours:
            if getattr(own.get(name), "__wrapped__", None) != self._own[name]:
                raise HoldfastError(f"the trainer's `{name}` was replaced after Holdfast replaced it: undo that first")
        for name in self._ours:
            delattr(self.trainer, name)
            if name in self._before:
                setattr(self.trainer, name, self._before[name])
        self.trainer.remove_callback(self._watch)
        del self.trainer._holdfast
        self.unhook()
        self._own.clear()

    def unhook(self) -> None:
        """Remove the forward hooks that defenses added to the trainer's networks."""
        for module, hooks in hooks_of(self.trainer).items():
            for hook in hooks - self._hooked.get(module, set()):
                module._forward_hooks.pop(hook)

    def _train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint:
            last = get_last_checkpoint(self.trainer.args.output_dir) if resume_from_checkpoint is True else None
            checkpoint = last or resume_from_checkpoint
            if checkpoint is not True:
                self._resume(Path(str(checkpoint)))
        # Discard the state of an earlier run that was interrupted.
        self._ready, self._inside = [], False
        return self._own["train"](resume_from_checkpoint, *args, **kwargs)

    def _get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        self._raw, items = self._own["get_batch_samples"](*args, **kwargs)
        self.metrics, self._place, self._ready = {}, 0, []
        if not self._raw:
            return list(self._raw), items
        rows: list[Examples] = [()] * len(self._raw)
        batches = self.plan.batches(rows, self.trainer.state.global_step)
        for batch in batches:
            self.add({key: float(batch.pop(key)) for key in list(batch) if key.startswith("log/")})
        self._ready = with_totals(batches) if all("loss_mask" in batch for batch in batches) else batches
        return list(self._raw), items

    def _training_step(self, model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._place >= len(self._ready):
            raise HoldfastError(
                "the trainer has its own loop, which does not call `get_batch_samples`: "
                "Holdfast's defenses need transformers' loop"
            )
        self._inside, self._returned = True, None
        try:
            result = self._own["training_step"](model, inputs, *args, **kwargs)
        finally:
            self._inside = False
        self._check()
        self._place += 1
        return result

    def _compute_loss(self, model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._inside:
            return self._own["compute_loss"](model, inputs, *args, **kwargs)
        if self._returned is not None:
            raise HoldfastError(f"the trainer's training_step computes the loss twice; it has to {NO_BACKWARD}")
        self._call, self._outputs = Call(inputs, args, kwargs), ()
        items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        self._steps = 1 if is_scaled(self.trainer, items) else self.trainer.current_gradient_accumulation_steps
        batch = self._complete(self._ready[self._place], inputs)
        self._count(batch)
        loss, metrics = self.plan.backward(self.plan.objective, model, batch, self._propagate)
        self.add(metrics)
        self._call = None
        self._returned = (loss.detach() * self._steps).clone().requires_grad_()
        return (self._returned, *self._outputs) if self._outputs else self._returned

    def _save_model(self, *args: Any, **kwargs: Any) -> Any:
        with self._released():
            return self._own["save_model"](*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._released():
            return self._own["evaluate"](*args, **kwargs)

    def _predict(self, *args: Any, **kwargs: Any) -> Any:
        with self._released():
            return self._own["predict"](*args, **kwargs)

    def _log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        if "loss" in logs and self._counted:
            logs = {**logs, **{f"holdfast/{name}": total / self._counted for name, total in self._sums.items()}}
            self._sums, self._counted = {}, 0
        return self._own["log"](logs, *args, **kwargs)

    # Helpers.

    def _complete(self, batch: Batch, inputs: Any) -> Batch:
        """The batch on the device, with the answers if the trainer samples them within the step."""
        device = self.trainer.args.device
        moved = {name: value.to(device) for name, value in batch.items()}
        if "input_ids" in moved:
            return moved
        if hasattr(self.trainer, "_buffered_inputs"):
            completed = sampled(self.trainer, inputs, place=self._place, of=len(self._ready))
        else:
            completed = "its inputs do not mark answers, as `input_ids` with `labels` or `completion_mask`"
        return LazyText(moved, completed) if isinstance(completed, str) else {**completed, **moved}

    def _propagate(self, loss: Tensor) -> None:
        if loss.requires_grad:
            self.trainer.accelerator.backward(loss)
        else:
            # A zero gradient is not a missing one: the optimizer's momentum still acts.
            for parameter in self.plan.model.network.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _check(self) -> None:
        """Refuse a trainer that did not propagate or scale its loss as expected."""
        if self._returned is None or self._returned.grad is None:
            raise HoldfastError(f"the trainer's training_step does not propagate its loss; it has to {NO_BACKWARD}")
        expected = 1 / (self._steps * self.trainer.accelerator.gradient_accumulation_steps)
        if abs(float(self._returned.grad) / expected - 1) > 1e-5:
            raise HoldfastError(
                f"the trainer's training_step scales its loss by {float(self._returned.grad):.4g} where {expected:.4g} "
                "was expected; scale it in compute_loss"
            )

    def _count(self, batch: Batch) -> None:
        if "input_ids" in batch:
            self.costs["samples"] += len(batch["input_ids"])
            self.costs["tokens"] += float(batch["lengths"].sum())

    def add(self, metrics: Metrics) -> None:
        """Sum the metrics of the step's micro-batches."""
        for name, value in metrics.items():
            key = name.removeprefix("log/")
            self.metrics[key] = self.metrics.get(key, 0.0) + value

    @contextmanager
    def _released(self) -> Iterator[Model]:
        """The model as released by the service, also inside the trainer."""
        kept = self.trainer.model
        with self.plan.released(self.plan.model) as released:
            if released.network is not self.plan.model.network:
                self.trainer.model = released.network
            try:
                yield released
            finally:
                self.trainer.model = kept

    def _resume(self, folder: Path) -> None:
        if not (folder / STATE).exists():
            raise HoldfastError(f"{folder}: has no {STATE}: it was saved without these defenses; start again")
        try:
            kept = read_costs(folder, STATE)
        except ValueError as error:
            raise HoldfastError(
                f"{folder / STATE}: is damaged ({error}); go on from an earlier checkpoint, or start again"
            ) from error
        self.plan.state.update(kept["state"])
        self.costs.update(kept["costs"])
        self.plan.tensors.update(load_tensors(folder, self.plan.model.device))

    def save_extras(self, folder: Path) -> None:
        """Add the plan's state to the trainer's checkpoint."""
        save_tensors(folder, self.plan.tensors)
        write(folder / STATE, stated(self.costs, self.plan.state))

    def call_hooks(self, phase: Any, control: Any) -> None:
        """Call the plan's hooks with the run's progress."""
        if phase == "step":
            self._counted += 1
            for name, value in self.metrics.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        with self._released() as released:
            progress = Progress(
                phase=phase,
                step=self.trainer.state.global_step,
                max_steps=self.trainer.state.max_steps,
                model=released,
                samples=int(self.costs["samples"]),
                tokens=int(self.costs["tokens"]),
                seconds=self.costs["seconds"],
                metrics=dict(self.metrics),
                stopped=self.stopped,
            )
            requests = [hook(progress) for hook in self.plan.hooks]
            if any(requests):
                self.stopped = control.should_training_stop = True
