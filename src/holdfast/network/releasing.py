"""Save and release models, by default in the dtype of their own checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from holdfast.network.models import Model, clone, has_adapter, merged
from holdfast.network.precision import Dtype, narrowed, rounded


def save(model: Model, folder: Path, *, dtype: Dtype = "auto") -> None:
    """Write a Hugging Face folder: safetensors weights (adapters merged), config and tokenizer.

    Weights are rounded to `dtype`; `auto` is the dtype of the folder that the model was loaded from.

    Raises:
        HoldfastError: a weight is too large for the type.
    """
    network, wanted = merged(model).network, released_type(model, dtype)
    if wanted is not None and any(p.dtype != getattr(torch, wanted) for p in network.parameters()):
        network = narrowed(network if has_adapter(model) else copy.deepcopy(network), wanted)
    network.save_pretrained(folder, safe_serialization=True)
    model.tokenizer.save_pretrained(folder)


def released_type(model: Model, dtype: Dtype) -> str | None:
    """The dtype in which a model is saved: `dtype`, else its folder's own; `None` keeps that in memory."""
    return model.stored if dtype == "auto" else dtype


def as_released(model: Model, dtype: Dtype = "auto") -> Model:
    """The model as `save` writes it and `load` reads it back: adapters merged, weights rounded to their type.

    The result has its own weights if anything changes, in the dtype of `model` in memory.

    Raises:
        HoldfastError: a weight is too large for the type.
    """
    wanted = released_type(model, dtype)
    if wanted is None:
        return model
    own = merged(model) if has_adapter(model) else clone(model)
    rounded(own.network, wanted)
    return replace(own, stored=wanted)
