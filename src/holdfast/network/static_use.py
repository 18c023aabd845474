"""Where sampling uses steps of fixed shape: on CUDA, for networks on which a trial has shown that it is the same."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from holdfast.network.anatomy import unwrapped
from holdfast.network.capturing import NothingWaits, has_hooks
from holdfast.network.draws import Sampling, SamplingError
from holdfast.network.flops import count_decoded
from holdfast.network.precision import exact
from holdfast.network.reading import Prompts
from holdfast.network.shortcuts import Probe, shortcuts
from holdfast.network.static_buffers import rounded_up
from holdfast.network.static_decoding import Decoded, Decoder, Request, decoded_rows

VARIABLE = "HOLDFAST_CUDA_GRAPHS"
"""The environment variable that turns this on: 1. Off until it has been measured on a GPU: samples decide verdicts."""
SHORTEST = 8
"""Answers of fewer tokens at most are not worth a recording."""
DEVICES = {"cuda"}
"""The kinds of devices on which this is used."""

_problems: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_warned: WeakSet[Any] = WeakSet()
_of_network: WeakKeyDictionary[Any, Decoder] = WeakKeyDictionary()


def decode_static(
    network: Any, asked: Prompts, request: Request, uniform: Tensor, *, drop_share: float
) -> Decoded | None:
    """Sample an answer to each prompt by the numbers `uniform` (N, room); `None` where this cannot be used.

    `drop_share` is the share of finished rows at which plain sampling removes them, for the count of operations.

    Raises:
        SamplingError: the model gave a non-finite logit to an answer that was not finished.
    """
    if not usable(network, request.sampling):
        return None
    decoder = _of_network.setdefault(network, Decoder())
    try:
        with decoder.casts.in_use(network):
            decoded = decoder.decode(network, asked, request, uniform)
    except SamplingError:
        del _of_network[network]  # what is not finite must not stay in the cache
        raise
    except RuntimeError as problem:
        del _of_network[network]
        _refuse(network, _reason(problem))
        return None
    _count(network, decoded, request, drop_share)
    return decoded


def usable(network: Any, sampling: Sampling) -> bool:
    """Whether answers are sampled in this way; says why not, once for each network, where it cannot be."""
    device = next(network.parameters()).device
    if device.type not in DEVICES or os.environ.get(VARIABLE) != "1" or sampling.max_new_tokens < SHORTEST:
        return False
    bare = unwrapped(network)
    if bare not in _problems:
        problem = _unfit(network) or _trial(network)
        if problem is None:
            return False
        _problems[bare] = problem
        if problem:
            _refuse(network, problem)
    if _problems[bare]:
        return False
    if has_hooks(network):  # these come and go, so that it is not a problem of the network
        _watched(bare)
        return False
    return True


def is_in_use(network: Any) -> bool:
    """Whether there are steps of a network."""
    return network in _of_network


def static_reasons(network: Any) -> tuple[str, ...]:
    """Why a network is sampled without graphs on a device that has them, as a sentence, if that is known."""
    bare = unwrapped(network)
    problem = _problems.get(bare, "")
    return (_sentence(bare, problem),) if problem else ()


def _refuse(network: Any, problem: str) -> None:
    bare = unwrapped(network)
    _problems[bare] = problem
    warnings.warn(_sentence(bare, problem), stacklevel=3)


def _sentence(bare: Any, problem: str) -> str:
    return f"{type(bare).__name__}: sampled without CUDA graphs, which is slower ({problem})"


def _watched(bare: Any) -> None:
    if bare not in _warned:
        _warned.add(bare)
        reason = "while hooks watch its passes, which a graph would not call"
        warnings.warn(f"{type(bare).__name__}: sampled without CUDA graphs {reason}", stacklevel=4)


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"


def _unfit(network: Any) -> str:
    """Why a network cannot be decoded so, without trying it; empty if nothing is known against it."""
    weights = list(network.parameters())
    bare = unwrapped(network)
    reasons = {
        "it is wrapped for distributed training": isinstance(getattr(network, "module", None), torch.nn.Module),
        "its weights are sharded": any(hasattr(weight, "device_mesh") for weight in weights),
        "its weights are on several devices": len({weight.device for weight in weights}) > 1,
        "its weights are quantised": any(not weight.is_floating_point() for weight in weights)
        or getattr(bare, "is_quantized", False),
        "it is an encoder and a decoder": getattr(bare.config, "is_encoder_decoder", False),
    }
    known = next((reason for reason, holds in reasons.items() if holds), "")
    return known or ("" if shortcuts(network).cache else "it cannot be sampled with a cache")


def _trial(network: Any) -> str | None:
    """The problem of decoding a few texts so, compared with reading them plainly; empty if none.

    `None` for a network whose logits are not finite, of which nothing can be said.
    """
    probe = Probe(network)
    probe.coarse = probe.coarse or not exact(network)
    prompt_batch = Prompts(probe.prompts, (2, 2, 2), probe.pad_id)
    try:
        with probe.without_side_effects():
            plain, changed = (probe.read_whole(prompts) for prompts in (probe.prompts, probe.others))
            if not bool(torch.cat(plain).isfinite().all()):
                return None
            static = probe.followed(StaticReading(network, prompt_batch, room=max(probe.ANSWERS)))
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        return _reason(problem)
    right = probe.close(torch.cat(static), torch.cat(plain), torch.cat(changed))
    return "" if right else "its logits differ with a cache of fixed size"


def _count(network: Any, decoded: Decoded, request: Request, drop_share: float) -> None:
    """Count the operations that sampling with removal of finished rows takes, which graphs do not show."""
    tokens = decoded.tokens[:, : decoded.length]
    stops = torch.tensor(request.stops, device=tokens.device)
    ended = torch.isin(tokens, stops).cummax(1).values
    count_decoded(network, decoded_rows(ended.sum(0).tolist(), len(tokens), drop_share))


class StaticReading:
    """The steps as a `Reading` of given texts, to be compared with others."""

    def __init__(self, network: Any, asked: Prompts, *, room: int) -> None:
        """Read the prompts; answers get at most `room` tokens.

        Raises:
            Waits: a step waits for the device.
        """
        self.network, self.decoder = network, Decoder()
        self.request = Request(Sampling(max_new_tokens=room), (), logprobs=True)
        self.count = sum(asked.counts)
        uniform = torch.zeros(self.count, room, device=next(network.parameters()).device)
        self.logits, self.buffers, self.length, self.size, self.columns = self.decoder.begin(network, asked, uniform)
        part, restore = self.decoder.part(network, self.request), self.buffers.restorer()
        cache = self.buffers.store.view(self.size, self.columns)
        # Not watched at first: libraries prepare themselves.
        for watched in (nullcontext(), NothingWaits()):
            with watched:
                part.choose(part.read(cache))
            restore()

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per text, (N,)."""
        self.buffers.tokens[: self.count] = tokens
        self.decoder.step(self.network, self.request, self.size, self.columns)()
        self.length += 1
        self.logits = self.decoder.logits[self.size, self.columns, self.request.key][: self.count].clone()

    def keep(self, rows: Tensor) -> None:
        """Keep only these texts, by index, in this order."""
        self.count = len(rows)
        self.size = rounded_up(self.count, 1)
        self.buffers.keep(rows.tolist(), self.size, self.length)
