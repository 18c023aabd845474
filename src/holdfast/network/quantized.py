"""Round weights to the numbers that a GGUF file of 8-bit or 4-bit blocks stores.

Each row of a matrix is stored in blocks of 32 small integers with a scale, and in `q4_1` a minimum, in 16 bits: most
open-weight models are run on laptops from such files. As in llama.cpp (`src/llama-quant.cpp`), norms, biases,
convolutions, embeddings of positions and routers of experts are not quantised, and in 4-bit files the output head,
which is the token embedding where they are tied, has more bits. Here it has 8 (`Q8_0`), as in llama.cpp if rows are not
divisible by 256; its 6 (`Q6_K`) for other rows, its other K-formats and its weighing of errors by an importance matrix
have no implementation in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast.network.adapters import matrices
from holdfast.network.precision import refuse_overflow
from holdfast.records import HoldfastError

Blocks = Literal["q8_0", "q4_1", "q4_0"]
"""Formats of blocks of 32 numbers with 8.5, 5 and 4.5 bits a weight."""
HEAD: Blocks = "q8_0"
"""The format of the output head."""
SIZE = 32


class _Part(NamedTuple):
    """A matrix (..., out, in), or with `transposed` (..., in, out), and its format."""

    name: str
    weight: nn.Parameter
    transposed: bool
    blocks: Blocks


def quantize(network: Any, blocks: Blocks) -> None:
    """Set the matrices of a network without an adapter, in place, to the numbers that a file of `blocks` stores.

    Raises:
        HoldfastError: the library `gguf` is missing, a matrix's rows are not divisible into blocks, or its weights are
            too large; nothing is changed in the first two cases.
    """
    if find_spec("gguf") is None:
        raise HoldfastError(f"{blocks} needs the package gguf: pip install gguf, or choose bfloat16")
    parts = list(_parts(network, blocks))
    for part in parts:
        _require_blocks(part)
    for part in parts:
        part.weight.data = _as_stored(part)


def _parts(network: Any, blocks: Blocks) -> Iterator[_Part]:
    """The quantised matrices of a network, each once."""
    head, embedding = (getattr(part, "weight", None) for part in _ends(network))
    if head is not None:
        yield _Part(_name(network, head), head, False, HEAD)
    if embedding is not None and embedding is not head:
        yield _Part(_name(network, embedding), embedding, False, blocks)
    for matrix in matrices(network):
        owner = network.get_submodule(matrix.tensor.rpartition(".")[0])
        weight = getattr(owner, matrix.tensor.rpartition(".")[2])
        router = not matrix.module and weight.dim() == 2
        if weight is not head and weight is not embedding and not router:
            transposed = isinstance(owner, Conv1D) or bool(getattr(owner, "is_transposed", False))
            yield _Part(matrix.tensor, weight, transposed, blocks)


def _ends(network: Any) -> tuple[Any, Any]:
    return network.get_output_embeddings(), network.get_input_embeddings()


def _name(network: nn.Module, weight: nn.Parameter) -> str:
    return next(name for name, parameter in network.named_parameters() if parameter is weight)


def _require_blocks(part: _Part) -> None:
    length = part.weight.shape[-2 if part.transposed else -1]
    if length % SIZE:
        raise HoldfastError(
            f"{part.name}: its rows have {length} numbers, which {part.blocks} cannot divide into blocks of {SIZE}; "
            "choose bfloat16 or float16"
        )


def _as_stored(part: _Part) -> torch.Tensor:
    """The weights of a matrix after quantising and dequantising."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    kind, weight = GGMLQuantizationType[part.blocks.upper()], part.weight.detach()
    rows = (weight.mT if part.transposed else weight).float().cpu().contiguous()
    with np.errstate(over="ignore", invalid="ignore"):  # the check below says which tensor it is
        stored = torch.from_numpy(dequantize(quantize(rows.numpy(), kind), kind))
    refuse_overflow(part.name, rows, stored, part.blocks)
    return (stored.mT if part.transposed else stored).to(weight).contiguous()
