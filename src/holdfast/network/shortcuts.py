"""Determine which shortcuts can be used on a network without changing its results, by trying them on it.

Architectures differ in their use of a cache: some accept one and ignore it, some lose their state when several tokens
are added to it, some do not mask padding. So a few short texts are read with each shortcut and plainly before the first
use: once per configuration in a process, at about the cost of sampling thirty tokens. A shortcut that differs from the
plain pass is not used. For a larger network, of which this takes many seconds on a processor, the result is kept in the
cache folder, by its configuration and the versions of the libraries that read it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from holdfast.files import write_json
from holdfast.files.cache import cache_root
from holdfast.network.anatomy import unwrapped
from holdfast.network.prefixes import read_in_parts, scatter_parts
from holdfast.network.reading import CachedReading, Prompts, Reading, evaluating, last_logits
from holdfast.records import HoldfastError, digest
from holdfast.tensors import pad_right

EXACT, COARSE = 0.02, 0.15
"""The largest allowed difference of logits or gradients from the plain ones, relative to their change under a
different beginning: with float32 weights and with coarser ones. Rounding is well below, a lost state above."""
LARGE = 20_000_000
"""The number of weights from which on the result of trying a network is kept in a file."""
PROBING: ContextVar[bool] = ContextVar("probing", default=False)
"""Whether a network is being tried, which is not counted in the costs of its use."""


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """The usable shortcuts: `cache` for sampling, and `prefixes`, shared by the answers of a group, for training.

    `reasons` has a sentence for each shortcut that cannot be used.
    """

    cache: bool = True
    prefixes: bool = True
    reasons: tuple[str, ...] = ()


_of_network: WeakKeyDictionary[Any, Shortcuts] = WeakKeyDictionary()
_of_configuration: dict[str, Shortcuts] = {}


def shortcuts(network: Any) -> Shortcuts:
    """The usable shortcuts of the network; gives a warning the first time that one cannot be used.

    Raises:
        HoldfastError: the network's logits depend on later tokens, so that it is not causal, or its forward pass fails.
    """
    bare = unwrapped(network)
    if bare not in _of_network:
        key = _key(bare)
        if key not in _of_configuration:
            place = _place(bare, key)
            working = _read(place) or _working_shortcuts(network, type(bare).__name__)
            if working is None:
                return Shortcuts()
            _of_configuration[key] = working
            _keep(working, place)
            for reason in working.reasons:
                warnings.warn(reason, stacklevel=2)
        _of_network[bare] = _of_configuration[key]
    return _of_network[bare]


def known_reasons(network: Any) -> tuple[str, ...]:
    """The known reasons against shortcuts; does not try the network."""
    known = _of_network.get(unwrapped(network))
    return () if known is None else known.reasons


def _key(bare: Any) -> str:
    weight = next(bare.parameters())
    settings = bare.config.to_dict()
    settings.pop("_name_or_path", None)
    how = (
        type(bare).__qualname__,
        getattr(bare.config, "_attn_implementation", None),
        weight.dtype,
        weight.device.type,
    )
    return json.dumps([settings, *map(str, how)], sort_keys=True, default=str)


def _place(bare: Any, key: str) -> Path | None:
    """The file for a network's shortcuts; `None` for a small one, and for code that may change without a version."""
    large = sum(weight.numel() for weight in bare.parameters()) >= LARGE
    if not large or not type(bare).__module__.startswith("transformers."):
        return None
    versions = [version(name) for name in ("torch", "transformers", "holdfast-llm")]
    return cache_root() / "shortcuts" / f"{digest([key, *versions])}.json"


def _read(place: Path | None) -> Shortcuts | None:
    """The result that a file holds; `None` if there is no file, or it cannot be read."""
    if place is None:
        return None
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
        return Shortcuts(cache=values["cache"], prefixes=values["prefixes"], reasons=tuple(values["reasons"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(working: Shortcuts, place: Path | None) -> None:
    """Keep the result; a folder that cannot be written to costs only the time of trying again."""
    if place is None or place.exists():
        return
    with suppress(HoldfastError):
        write_json(place, asdict(working))


def _working_shortcuts(network: Any, name: str) -> Shortcuts | None:
    """The usable shortcuts; `None` for a network whose weights are not finite."""
    probe = Probe(network)
    with probe.without_side_effects():
        try:
            padded, alone, other = probe.padded_and_alone()
        except torch.OutOfMemoryError:
            raise
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as problem:
            raise HoldfastError(
                f"{name}: cannot be read as a language model of text ({_reason(problem)}); take another model"
            ) from problem
        if not bool(alone.isfinite().all()):
            return None  # sampling from it raises the error
        if not probe.close(padded, alone, other):
            raise HoldfastError(
                f"{name}: its logits depend on later tokens, so it is not a causal language model and its answers "
                "cannot be sampled or learnt; use a decoder (`is_decoder: true` if it has that setting)"
            )
        sampling = _trial(probe.sampled)
        sharing = _trial(probe.shared)
    reasons = []
    if sampling:
        reasons.append(f"{name}: sampled without a cache, which is slower ({sampling})")
    if sharing:
        reasons.append(f"{name}: a group's prompt is read again for each of its answers, which is slower ({sharing})")
    return Shortcuts(cache=not sampling, prefixes=not sharing, reasons=tuple(reasons))


def _trial(probe: Callable[[], str]) -> str:
    """The problem that a probe finds, which may be an error of the architecture itself."""
    try:
        return probe()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        return f"its cache ends in {_reason(problem)}"


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"


class Probe:
    """A few texts, and a network's logits of them by different readings; `coarse` if they are of low precision."""

    # Longer and shorter than the windows and chunks of the smallest models.
    PROMPTS, ANSWERS = (3, 11, 6), (5, 2, 7, 3, 6, 4)

    def __init__(self, network: Any) -> None:
        self.network, bare = network, unwrapped(network)
        weight = next(network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.coarse = self.dtype not in (torch.float32, torch.float64)
        self.embeddings: nn.Module = bare.get_input_embeddings()
        config = bare.config.get_text_config()
        self.ordinary = _ordinary(bare.config, int(config.vocab_size))
        padding = getattr(config, "pad_token_id", None)
        self.pad_id = padding if isinstance(padding, int) and 0 <= padding < config.vocab_size else 0
        self.prompts = [self._text(length, 7 * i) for i, length in enumerate(self.PROMPTS)]
        self.others = [[*self._text(len(prompt) - 1, 3), prompt[-1]] for prompt in self.prompts]
        self.answers = [self._text(length, 5 + 11 * i) for i, length in enumerate(self.ANSWERS)]

    def _text(self, length: int, start: int) -> list[int]:
        """Tokens spread over the whole vocabulary."""
        places = (start * 37 + 101 * i * i + 13 * i for i in range(length))
        return [self.ordinary[place % len(self.ordinary)] for place in places]

    @contextmanager
    def without_side_effects(self) -> Iterator[None]:
        """Without dropout or lower precision, and without effects on random states and operation counts."""
        devices = [self.device] if self.device.type == "cuda" else []
        counted = PROBING.set(True)
        try:
            with (
                evaluating(self.network),
                torch.random.fork_rng(devices=devices),
                torch.inference_mode(False),
                torch.autocast(self.device.type, enabled=False),
            ):
                yield
        finally:
            PROBING.reset(counted)

    def close(self, short: Tensor, plain: Tensor, other: Tensor) -> bool:
        """Whether `short` equals `plain`, relative to the distance of `other`, those after a different beginning."""
        short, plain, other = (values.detach().double() for values in (short, plain, other))
        rounding = 100 * torch.finfo(self.dtype).eps * float(plain.norm())
        allowed = COARSE if self.coarse else EXACT
        return bool((short - plain).norm() <= max(allowed * float((plain - other).norm()), rounding))

    def padded_and_alone(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of texts padded on the right, of each alone, and of each alone with another beginning."""
        texts, others = (
            [[*prompt, *answer] for prompt, answer in zip(prompts, self.answers, strict=False)]
            for prompts in (self.prompts, self.others)
        )
        padded = self._logits(pad_right(texts, self.pad_id))
        in_batch = torch.cat([row[: len(text)] for row, text in zip(padded, texts, strict=True)])
        alone, changed = (
            torch.cat([self._logits(torch.tensor([text]))[0] for text in some]) for some in (texts, others)
        )
        return in_batch, alone, changed

    def _logits(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network(input_ids=tokens.to(self.device), use_cache=False).logits
        return logits

    def sampled(self) -> str:
        """The problem of sampling with a cache whose rows are repeated and removed; empty if none."""
        prompt_batch = Prompts(self.prompts, (2, 2, 2), self.pad_id)
        from_cache = self.followed(CachedReading(self.network, prompt_batch, room=max(self.ANSWERS)))
        plain, changed = (self.read_whole(prompts) for prompts in (self.prompts, self.others))
        if not self.close(from_cache[0], plain[0], changed[0]):
            return "prompts padded on the left are not read as they are alone"
        right = self.close(torch.cat(from_cache), torch.cat(plain), torch.cat(changed))
        return "" if right else "it does not go on from its cache as from the text itself"

    def followed(self, reading: Reading) -> list[Tensor]:
        """The logits before each token of the answers, which leave the batch when they end."""
        left, seen = list(range(len(self.answers))), [reading.logits]
        for step in range(max(self.ANSWERS) - 1):
            going = [i for i in left if step + 1 < len(self.answers[i])]
            if len(going) < len(left):
                reading.keep(torch.tensor([left.index(i) for i in going], device=self.device))
            reading.advance(torch.tensor([self.answers[i][step] for i in going], device=self.device))
            seen.append(reading.logits)
            left = going
        return seen

    def read_whole(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """What `followed` gives, from one plain pass over each text alone: later tokens change nothing before them."""
        logits = []
        for i, answer in enumerate(self.answers):
            tokens = torch.tensor([[*prompts[i // 2], *answer[:-1]]], device=self.device)
            logits.append(last_logits(self.network, len(answer), input_ids=tokens, use_cache=False)[0])
        return [torch.stack([row[step] for row in logits if step < len(row)]) for step in range(max(self.ANSWERS))]

    def shared(self) -> str:
        """The problem of reading a group's prompt once, for logits or gradients; empty if none."""
        batch, other = self._groups(self.prompts), self._groups(self.others)
        (logits, shared), (plain, slopes), (changed, others) = (
            self._slopes(batch, in_parts=True),
            self._slopes(batch, in_parts=False),
            self._slopes(other, in_parts=False),
        )
        if not self.close(logits, plain, changed):
            return "it loses what its cache holds when several tokens are read onto it"
        return "" if self.close(shared, slopes, others) else "gradients do not go back through its cache"

    def _groups(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Two groups of three answers."""
        rows = [(prompts[1 + i // 3], answer) for i, answer in enumerate(self.answers)]
        batch = {
            "input_ids": pad_right([[*prompt, *answer] for prompt, answer in rows], self.pad_id),
            "lengths": torch.tensor([len(prompt) + len(answer) for prompt, answer in rows]),
            "groups": torch.tensor([0, 0, 0, 1, 1, 1]),
        }
        return {name: value.to(self.device) for name, value in batch.items()}

    def _slopes(self, batch: dict[str, Tensor], *, in_parts: bool) -> tuple[Tensor, Tensor]:
        """Logits after the columns that all rows share, and their gradient at the groups' own columns.

        (n, V), and (2, start, H): of a sum of the logits under fixed weights.
        """
        tokens, start = batch["input_ids"], min(self.PROMPTS[1:])
        with torch.enable_grad(), self._embedded() as leaves:
            if in_parts:
                parts = read_in_parts(self.network, batch, start)
                logits = scatter_parts([(part.values, part.rows) for part in parts], start - 1, tuple(tokens.shape))
            else:
                logits = self._logits(tokens)
            places = torch.arange(tokens.shape[1], device=self.device)
            counted = (places >= start - 1) & (places < batch["lengths"][:, None] - 1)
            weights = torch.arange(logits.shape[-1], device=self.device).cos().to(logits.dtype)
            (slope,) = torch.autograd.grad((logits[counted] @ weights).sum(), leaves[:1])
        rows = slope[:, :start]
        return logits[counted], rows if in_parts else rows.unflatten(0, (2, 3)).sum(1)

    @contextmanager
    def _embedded(self) -> Iterator[list[Tensor]]:
        """Collect the embedded tokens of each call as leaves for gradients."""
        leaves: list[Tensor] = []

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
            leaves.append(output.detach().requires_grad_())
            return leaves[-1] * 1  # some architectures scale it in place

        handle = self.embeddings.register_forward_hook(hook)
        try:
            yield leaves
        finally:
            handle.remove()


def _ordinary(config: Any, vocabulary: int) -> list[int]:
    """Tokens spread over the vocabulary, except those that the configuration names, which may be treated specially."""
    parts = (config, config.get_text_config())
    named = {vars(part)[name] for part in parts for name in vars(part) if "_token_" in name and _is_id(part, name)}
    return [token for token in range(0, vocabulary, max(1, vocabulary // 256)) if token not in named]


def _is_id(config: Any, name: str) -> bool:
    return isinstance(getattr(config, name), int)
