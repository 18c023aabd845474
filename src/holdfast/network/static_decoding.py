"""Decode with a cache of fixed size, in steps that are the same for every token and never wait for the device.

On CUDA such a step is recorded once as a graph for each of a few numbers of rows, and repeated for each token: sampling
small networks is otherwise bound by starting thousands of small kernels. Recorded steps stay valid while an optimizer
changes the weights in place; where anything else has changed they are recorded again (`capturing.state_of`). Finished
rows leave when the others fit the next smaller number of rows, which is looked at every few tokens.

The prompts are read as for plain sampling, and the same numbers draw the tokens. The attention's sums have more terms,
which are exactly 0 (masked columns); a matrix product of another number of rows may be summed in another order. So
tokens and log-probabilities equal the plain ones up to rounding in the type in which the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from holdfast.network.capturing import Casts, Step, nothing_cast, recorder, state_of
from holdfast.network.draws import Sampling, SamplingError, choose
from holdfast.network.fixed_cache import windows_of
from holdfast.network.reading import CachedReading, Prompts, last_logits
from holdfast.network.shortcuts import PROBING
from holdfast.network.static_buffers import Buffers, enlarged, rounded_up
from holdfast.tensors import target_logprobs

CHECKED = 8
"""The number of tokens after which finished rows are looked for."""
LEAST_ROWS, LEAST_COLUMNS = 8, 128
MOST_STEPS = 64
"""The number of recorded steps that are kept for a network."""


class Decoded(NamedTuple):
    """Sampled tokens and their log-probabilities, (N, room), of which the first `length` columns are filled.

    What stands after a row's stop token has no meaning.
    """

    tokens: Tensor
    logprobs: Tensor
    length: int


class Request(NamedTuple):
    """What the steps of one call have in common; `stops` are tokens that end an answer."""

    sampling: Sampling
    stops: tuple[int, ...]
    logprobs: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """What is recorded of it."""
        sampling = self.sampling
        return sampling.temperature, sampling.top_p, sampling.top_k, self.stops, self.logprobs


class Begun(NamedTuple):
    """Prompts that were read: the logits (N, V) of first tokens, the prompts' length, numbers of rows and columns."""

    logits: Tensor
    buffers: Buffers
    length: int
    rows: int
    columns: int


class Decoder:
    """The steps of one network, recorded or not, and their buffers."""

    def __init__(self) -> None:
        self.casts = Casts()
        self.buffers: Buffers | None = None
        self.steps: dict[tuple[Any, ...], Step] = {}
        self.logits: dict[tuple[Any, ...], Tensor] = {}
        self.parts: dict[tuple[Any, ...], StepOf] = {}
        self.record: Callable[[Step, Step], Step] | None = None
        self.state: int | None = None

    def begin(self, network: Any, asked: Prompts, uniform: Tensor) -> Begun:
        """Read the prompts of answers that will be sampled by `uniform`, (N, room)."""
        count, room = uniform.shape
        reading = CachedReading(network, asked, room=room)
        windows_of(reading.cache)  # an error if it has something else than keys and values
        rows, columns = rounded_up(count, LEAST_ROWS), rounded_up(reading.length + room, LEAST_COLUMNS)
        needed: dict[str, Any] = {"rows": rows, "columns": columns, "room": room, "dtype": _mask_type(reading)}
        state = hash((state_of(network), needed["dtype"]))
        buffers = self.buffers
        if buffers is None or not buffers.hold(reading.cache, **needed):
            self.buffers = None  # before its successor needs memory
            self._forget()
            with torch.inference_mode(False):  # to be changed in and out of it
                buffers = Buffers(reading.cache, **enlarged(buffers, needed))
            self.buffers = buffers
        elif state != self.state:
            self._forget()
        self.state = state
        buffers.begin(reading, uniform, asked.pad_id)
        return Begun(reading.logits, buffers, reading.length, rows, columns)

    def decode(self, network: Any, asked: Prompts, request: Request, uniform: Tensor) -> Decoded:
        """Sample an answer to each prompt by the numbers `uniform`, (N, room).

        Raises:
            SamplingError: a logit of an unfinished answer is not finite.
            RuntimeError: a step cannot be recorded.
        """
        begun, (count, room) = self.begin(network, asked, uniform), uniform.shape
        buffers, size = begun.buffers, begun.rows
        self.part(network, request).choose(begun.logits)
        length = 1
        while length < room:
            if (length - 1) % CHECKED == 0:
                going = _unfinished(buffers, size)
                if not going:
                    break
                smaller = rounded_up(len(going), LEAST_ROWS)
                if smaller < size:
                    size = smaller
                    buffers.keep(going, size, begun.length + length - 1)
            self.step(network, request, size, begun.columns)()
            length += 1
        _unfinished(buffers, size)
        return Decoded(buffers.sampled[:count, :room].clone(), buffers.logprobs[:count, :room].clone(), length)

    def part(self, network: Any, request: Request) -> StepOf:
        """The parts of the steps of such a request; kept, because recorded steps read their tensors."""
        if request.key not in self.parts:
            assert self.buffers is not None
            self.parts[request.key] = StepOf(network, self.buffers, request)
        return self.parts[request.key]

    def step(self, network: Any, request: Request, rows: int, columns: int) -> Step:
        """The step of this many rows and columns, recorded at its first use."""
        key = (rows, columns, request.key)
        if key not in self.steps:
            if len(self.steps) >= MOST_STEPS:
                self._forget()
            part = self.part(network, request)
            if self.record is None:
                self.record = recorder(part.buffers.tokens.device)
            cache = part.buffers.store.view(rows, columns)

            def step() -> None:
                with _uncounted(), nothing_cast():
                    self.logits[key] = part.read(cache)
                    part.choose(self.logits[key])

            self.steps[key] = self.record(step, part.buffers.restorer())
        return self.steps[key]

    def _forget(self) -> None:
        """Let go of all steps; also of their common memory, which cannot be used again once no step has it."""
        self.steps.clear()
        self.logits.clear()
        self.parts.clear()
        self.record = None


class StepOf:
    """The parts of a step: to read the last token of each row, and to draw the next one."""

    def __init__(self, network: Any, buffers: Buffers, request: Request) -> None:
        self.network, self.buffers, self.request = ref(network), buffers, request  # a network is not kept alive
        self.stops = torch.tensor(request.stops, dtype=torch.long, device=buffers.tokens.device)

    def read(self, cache: Any) -> Tensor:
        """The logits (rows, V) after each row's last token."""
        buffers = self.buffers
        rows, columns = cache.layers[0].keys.shape[0], cache.layers[0].keys.shape[2]
        masks = {window: mask[:rows, ..., :columns] for window, mask in buffers.masks.items()}
        for window, mask in masks.items():
            if window is not None and window < columns:
                # Wraps around to a column that is not filled yet.
                mask.index_fill_(3, (buffers.column - window).remainder(columns), -torch.inf)
            mask.index_fill_(3, buffers.column, 0.0)
        logits = last_logits(
            self.network(),
            1,
            input_ids=buffers.tokens[:rows, None],
            attention_mask=_as_argument(masks),
            position_ids=buffers.positions[:rows],
            past_key_values=cache,
            use_cache=True,
        )
        buffers.column += 1
        buffers.positions += 1
        return logits[:, -1]

    def choose(self, logits: Tensor) -> None:
        """Draw the next token of each row from `logits` (rows, V), and note which rows have ended."""
        buffers, sampling = self.buffers, self.request.sampling
        rows = len(logits)
        place, done = buffers.place[:rows], buffers.done[:rows]
        tokens, sound = choose(logits, buffers.uniform[place, buffers.step], sampling)
        buffers.unsound |= (~sound & ~done).any()
        buffers.sampled[place, buffers.step] = tokens
        if self.request.logprobs:
            scores = target_logprobs(logits, tokens, temperature=sampling.temperature or 1.0)
            buffers.logprobs[place, buffers.step] = scores.to(buffers.logprobs.dtype)
        done |= (tokens[:, None] == self.stops).any(1)
        buffers.tokens[:rows] = tokens
        buffers.step += 1


def _mask_type(reading: CachedReading) -> torch.dtype:
    """The type of masks: that of the attention's queries, to which they are added."""
    kind = reading.logits.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else reading.cache.layers[0].keys.dtype


def _as_argument(masks: dict[int | None, Tensor]) -> Any:
    """The mask of an architecture whose layers are alike, or one for each kind of layer."""
    if len(masks) == 1:
        return next(iter(masks.values()))
    return {"full_attention" if window is None else "sliding_attention": mask for window, mask in masks.items()}


def _unfinished(buffers: Buffers, size: int) -> list[int]:
    """The rows that have not ended; waits for the device.

    Raises:
        SamplingError: a logit of a row that had not ended was not finite.
    """
    unsound, *done = torch.cat([buffers.unsound, buffers.done[:size]]).tolist()
    if unsound:
        raise SamplingError("non-finite logits while sampling")
    return [row for row, ended in enumerate(done) if not ended]


@contextmanager
def _uncounted() -> Iterator[None]:
    before = PROBING.set(True)
    try:
        yield
    finally:
        PROBING.reset(before)


def decoded_rows(ended: Sequence[int], count: int, drop_share: float) -> int:
    """How many tokens plain sampling reads after the prompts.

    Args:
        ended: how many of the answers have ended with each sampled token.
        count: the number of answers.
        drop_share: the share of finished rows at which they are removed.
    """
    total, gone = 0, 0
    for finished in ended[:-1]:
        if finished == count:
            break
        if finished - gone >= drop_share * (count - gone):
            gone = finished
        total += count - gone
    return total
