"""Warnings for two silent problems of a trainer: steps that are rounded away, and a different reference model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from holdfast.network.precision import LOW, held_type, named

COMPENSATED = ("kahan", "stochastic")
"""Settings with which an optimizer updates low-precision weights without losing steps."""
ENOUGH = 0.01
"""The share of weights with vanishing steps from which a warning is given."""


def warn_of_vanishing_steps(trainer: Any) -> None:
    """Warn if the trained weights have such a low precision that steps of the learning rate are rounded away."""
    trained = [p.detach() for p in trainer.model.parameters() if p.requires_grad and p.dtype in LOW]
    rate = float(trainer.args.learning_rate)
    if not trained or _compensates(trainer):
        return
    share = sum(float(_vanish(p, rate).sum()) for p in trained) / sum(p.numel() for p in trained)
    if share < ENOUGH:
        return
    kind = named(held_type(trainer.model, trained=True))
    warnings.warn(
        f"the trainer trains {kind} weights: a step of its learning rate, {rate:g}, is rounded away at {share:.0%} of "
        "them, so neither training nor a defense acts there; load the model with dtype=torch.float32 and set bf16=True "
        "in the trainer's arguments, or use an optimizer with compensated sums (torch-optimi) or stochastic rounding",
        stacklevel=3,
    )


def _vanish(weights: Tensor, rate: float) -> Tensor:
    """Mask of weights for which a step of size `rate` is smaller than half the spacing of the dtype."""
    _, exponent = weights.float().frexp()
    # |w| is in [2^(e-1), 2^e), where the spacing is eps 2^(e-1).
    spacing = torch.ldexp(torch.full_like(exponent, torch.finfo(weights.dtype).eps, dtype=torch.float32), exponent - 1)
    return (rate < spacing / 2) & (weights != 0)


def _compensates(trainer: Any) -> bool:
    arguments = str(getattr(trainer.args, "optim_args", None) or "").lower()
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    own = {**vars(optimizer), **optimizer.defaults} if optimizer is not None else {}
    if type(optimizer).__module__.startswith("optimi") and own.get("kahan_sum") is not False:
        return True
    names = [name for name, value in own.items() if value is True]
    return any(word in text for word in COMPENSATED for text in (*names, *(_true(arguments))))


def _true(arguments: str) -> list[str]:
    pairs = [part.partition("=") for part in arguments.split(",")]
    return [name.strip() for name, _, value in pairs if value.strip() in ("true", "1", "yes")]


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are equal in value and type."""
    return one.dtype == other.dtype and torch.equal(one.detach(), other.detach())


def warn_of_another_reference(trainer: Any) -> None:
    """Warn if a trainer's reference model is not the model that training begins with."""
    own = getattr(trainer, "ref_model", None)
    if not isinstance(own, torch.nn.Module):
        return
    theirs = dict(trainer.accelerator.unwrap_model(own).named_parameters())
    policy = trainer.accelerator.unwrap_model(trainer.model)
    moved, size, first = 0.0, 0.0, ""
    for name, parameter in policy.named_parameters():
        other = theirs.get(name)
        if other is None or other.shape != parameter.shape:
            first = first or name
            continue
        gap = float((parameter.detach().float() - other.detach().float().to(parameter.device)).square().sum())
        first = first or (name if gap else "")
        moved, size = moved + gap, size + float(parameter.detach().float().square().sum())
    if first:
        folder = getattr(policy.config, "_name_or_path", "")
        warnings.warn(
            f"the trainer's reference model is not the model that it trains: {first} differs (total distance "
            f"{moved**0.5:.3g}, norm {size**0.5:.3g}). TRL loads it from the folder that the model's config names, "
            f"{folder!r}, and so compares a model that was changed in memory with the old one: save the model, load it "
            "from there and create the trainer again, unless another reference is intended",
            stacklevel=3,
        )
