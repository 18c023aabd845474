"""What the steps of decoding with a cache of fixed size read and write, at addresses that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.network.fixed_cache import FixedStore, shapes_of, windows_of
from holdfast.network.reading import CachedReading


class Buffers:
    """What steps read and write: for each row its next token, where it stands, what it may attend to, its answer.

    `place` is the answer of a row; rows without one, which fill up a number of rows, write to a surplus one.
    """

    def __init__(self, cache: Any, *, rows: int, columns: int, room: int, dtype: torch.dtype) -> None:
        """Room for `rows` texts of `columns` tokens, of which `room` are sampled; `dtype` is that of masks."""
        device = cache.layers[0].keys.device
        self.column, self.step = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.windows = windows_of(cache)
        self.store = FixedStore(cache.layers, rows=rows, columns=columns, column=self.column)
        self.tokens, self.place = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(2))
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.done = torch.ones(rows, dtype=torch.bool, device=device)
        self.unsound = torch.zeros(1, dtype=torch.bool, device=device)
        self.uniform, self.logprobs = (torch.zeros(rows + 1, room, device=device) for _ in range(2))
        self.sampled = torch.zeros(rows + 1, room, dtype=torch.long, device=device)
        self.masks = {
            window: torch.full((rows, 1, 1, columns), -torch.inf, dtype=dtype, device=device)
            for window in dict.fromkeys(self.windows)
        }

    @property
    def small(self) -> list[Tensor]:
        """What a step changes, except what the same step would write again."""
        state = [self.column, self.step, self.tokens, self.positions, self.done, self.unsound]
        return [*state, *self.masks.values()]

    def restorer(self) -> Callable[[], None]:
        """A call that sets what a step changes to what it is now."""
        copies = [state.clone() for state in self.small]
        return lambda: torch._foreach_copy_(self.small, copies)

    def hold(self, cache: Any, *, rows: int, columns: int, room: int, dtype: torch.dtype) -> bool:
        """Whether there is room for this."""
        return (
            self.store.rows >= rows
            and self.store.columns >= columns
            and self.uniform.shape[1] >= room
            and next(iter(self.masks.values())).dtype == dtype
            and self.windows == windows_of(cache)
            and self.store.shapes == shapes_of(cache.layers)
        )

    def begin(self, reading: CachedReading, uniform: Tensor, pad_id: int) -> None:
        """The state after the prompts have been read, before the first token is sampled."""
        count, length = len(uniform), reading.length
        self.store.fill(reading.cache.layers, length)
        self.column.fill_(length)
        self.step.zero_()
        self.tokens.fill_(pad_id)
        self.positions.fill_(length)
        if reading.positions is not None:
            self.positions[:count] = reading.positions + 1
        self.place.fill_(self.store.rows)
        self.place[:count] = torch.arange(count, device=self.place.device)
        self.done.fill_(True)
        self.done[:count] = False
        self.unsound.zero_()
        self.uniform[:count, : uniform.shape[1]] = uniform
        for window, mask in self.masks.items():
            first = 0 if window is None else max(length - window + 1, 0)
            mask.fill_(-torch.inf)
            mask[:count, ..., first:length] = 0
            if reading.mask is not None:
                padding = ~reading.mask.reshape(count, 1, 1, -1)[..., :length].bool()
                mask[:count, ..., :length].masked_fill_(padding, -torch.inf)

    def keep(self, rows: Sequence[int], size: int, length: int) -> None:
        """Move these rows to the beginning, and fill up to `size` rows with copies that have no answer."""
        filled = [*rows, *([rows[0]] * (size - len(rows)))]
        chosen = torch.tensor(filled, device=self.place.device)
        self.store.keep(chosen, length)
        for state in (self.tokens, self.positions, self.place, self.done, *self.masks.values()):
            state[:size] = state[chosen]
        self.place[len(rows) : size] = self.store.rows
        self.done[len(rows) : size] = True


def rounded_up(number: int, least: int) -> int:
    """The next of `least` times 1, 1.5, 2, 3, 4, 6, 8, ..., so that few different sizes are needed."""
    size = least
    while size < number:
        middle = size + size // 2
        if number <= middle:
            return middle
        size *= 2
    return size


def enlarged(earlier: Buffers | None, needed: dict[str, Any]) -> dict[str, Any]:
    """The sizes of new buffers, no smaller than those of earlier ones, so that sizes do not alternate."""
    if earlier is None:
        return needed
    known = {"rows": earlier.store.rows, "columns": earlier.store.columns, "room": earlier.uniform.shape[1]}
    return {**needed, **{name: max(size, needed[name]) for name, size in known.items()}}
