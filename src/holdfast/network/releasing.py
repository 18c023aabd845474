"""Save and release models, by default in the dtype of their own checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from holdfast.network.models import Model, clone, has_adapter, merged
from holdfast.network.precision import Dtype, narrowed, rounded
from holdfast.network.quantized import quantize
from holdfast.records import HoldfastError

Format = Literal["bfloat16", "float16", "q8_0", "q4_1", "q4_0"]
"""A format in which a copy of a model is passed on: a dtype of a folder, or blocks of a GGUF file."""
FORMATS: tuple[str, ...] = get_args(Format)


def save(model: Model, folder: Path, *, dtype: Dtype = "auto") -> None:
    """Write a Hugging Face folder: safetensors weights (adapters merged), config and tokenizer.

    Weights are rounded to `dtype`; `auto` is the dtype of the folder that the model was loaded from.

    Raises:
        HoldfastError: a weight is too large for the type, or there is no such type.
    """
    network, wanted = merged(model).network, released_type(model, dtype)
    if wanted is not None and any(p.dtype != getattr(torch, wanted) for p in network.parameters()):
        network = narrowed(network if has_adapter(model) else copy.deepcopy(network), wanted)
    network.save_pretrained(folder, safe_serialization=True)
    model.tokenizer.save_pretrained(folder)


def released_type(model: Model, dtype: Dtype) -> str | None:
    """The dtype in which a model is saved: `dtype`, else its folder's own; `None` keeps that in memory.

    Raises:
        HoldfastError: there is no such dtype.
    """
    if dtype not in get_args(Dtype):
        raise HoldfastError(f"dtype: must be one of {', '.join(get_args(Dtype))}, not {dtype!r}")
    return model.stored if dtype == "auto" else dtype


def as_released(model: Model, dtype: Dtype = "auto") -> Model:
    """The model as `save` writes it and `load` reads it back: adapters merged, weights rounded to their type.

    The result has its own weights if anything changes, in the dtype of `model` in memory.

    Raises:
        HoldfastError: a weight is too large for the type, or there is no such type.
    """
    wanted = released_type(model, dtype)
    if wanted is None:
        return model
    own = merged(model) if has_adapter(model) else clone(model)
    rounded(own.network, wanted)
    return replace(own, stored=wanted)


def copied(model: Model, to: Format) -> Model:
    """The model as a copy in another format gives it back: adapters merged, weights rounded.

    The dequantised weights of a copy in blocks are float32, in memory and when saved, so that they are exact.

    Raises:
        HoldfastError: a weight is too large for the format, or as `quantize`.
    """
    if to == "bfloat16" or to == "float16":  # noqa: PLR1714 - this narrows the type
        return as_released(model, to)
    own = merged(model) if has_adapter(model) else clone(model)
    own.network.float()
    quantize(own.network, to)
    return replace(own, stored="float32")
