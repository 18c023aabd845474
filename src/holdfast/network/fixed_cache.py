"""A key/value cache of a fixed number of rows and columns, allocated once.

Its tensors keep their addresses, which a captured graph needs, and fewer rows are a view of the first ones. Not
transformers' `StaticCache`: that has one size, no removal of rows, a counter in each layer (three more kernels a layer
and token), and windows whose contents move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer


class FixedLayer(CacheLayerMixin):
    """One layer's keys and values (N, heads, columns, size); a token is written to `column`, (1,), of every row.

    All columns are returned, so that what has not been written must be masked.
    """

    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.column = keys, values, column
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the tensors exist."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **named: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Write one token of each row; everything that is stored."""
        self.keys.index_copy_(2, self.column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.column, value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """The number of columns, and the first one."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Any:
        """The number of tokens before the next one; a tensor, so that captured arithmetic follows it."""
        return self.column.squeeze(0)

    def get_max_length(self) -> int:
        """The number of columns."""
        return self.keys.shape[2]


class FixedStore:
    """The tensors of all layers, for `rows` texts of `columns` tokens.

    `windows` has the sliding window of each layer in tokens, `None` for full attention. A window's layer stores all
    columns too: what is out of the window is masked.
    """

    def __init__(self, layers: Sequence[Any], *, rows: int, columns: int, column: Tensor) -> None:
        """Room for what the layers of a dynamic cache hold; `column` (1,) is where the next token is written."""
        self.rows, self.columns, self.column = rows, columns, column
        self.shapes = shapes_of(layers)
        self.pairs = [(_room(layer.keys, rows, columns), _room(layer.values, rows, columns)) for layer in layers]

    def view(self, rows: int, columns: int) -> Cache:
        """The first rows and columns as a cache that transformers' models write to and read."""
        layers = [
            FixedLayer(keys[:rows, :, :columns], values[:rows, :, :columns], self.column) for keys, values in self.pairs
        ]
        return Cache(layers=layers)

    def fill(self, layers: Sequence[Any], length: int) -> None:
        """Copy what a dynamic cache has read, texts of `length` tokens, into the first rows."""
        for (keys, values), layer in zip(self.pairs, layers, strict=True):
            rows, _, read, _ = layer.keys.shape  # a window's layer has only its last tokens
            keys[:rows, :, length - read : length] = layer.keys
            values[:rows, :, length - read : length] = layer.values

    def keep(self, rows: Tensor, length: int) -> None:
        """Move these rows, by index, to the beginning, with their first `length` columns."""
        for pair in self.pairs:
            for stored in pair:
                stored[: len(rows), :, :length] = stored[rows, :, :length]


def _room(like: Tensor, rows: int, columns: int) -> Tensor:
    kind = like.device.type
    # Autocast would cast what is stored for each token.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    return torch.zeros(rows, like.shape[1], columns, like.shape[3], dtype=dtype, device=like.device)


def shapes_of(layers: Sequence[Any]) -> tuple[Any, ...]:
    """What decides whether a store fits the layers of a dynamic cache: heads, sizes and types."""
    tensors = [part for layer in layers for part in (layer.keys, layer.values)]
    return tuple((part.shape[1], part.shape[3], part.dtype, part.device) for part in tensors)


def windows_of(cache: Any) -> list[int | None]:
    """The sliding window of each layer of a dynamic cache in tokens, `None` for full attention.

    Raises:
        ValueError: a layer keeps something other than keys and values.
    """
    windows: list[int | None] = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            windows.append(int(layer.sliding_window))
        else:
            raise ValueError(f"a layer's cache is a {type(layer).__name__}")
    if len(set(windows) - {None}) > 1:
        raise ValueError("layers have sliding windows of different sizes")
    return windows
