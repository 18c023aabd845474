"""Other weights of the same function: a factor moved from norms to the linear layers that read them, or from one
linear layer to another.

A norm ends with a factor for each channel, and what reads its output multiplies it by weights: the one times `f` and
the other divided by `f` leave every logit as it was. An optimizer whose steps do not grow with the weights (Adam's)
then changes what these layers compute by about `f` times as much a step. Which layers read a norm is seen in a forward
pass, so that no architecture's names are needed; whether the function is the same is checked.

A factor also moves between two linear layers whose outputs are multiplied, as queries and keys or the two halves of a
gated MLP, or of which one passes on what the other wrote, as values and the attention's output. Which layers these are
is found by trial in the first layer of the network, and done alike in the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from holdfast.network.anatomy import anatomy, unwrapped
from holdfast.network.models import Model
from holdfast.network.precision import widen
from holdfast.network.reading import evaluating
from holdfast.records import HoldfastError

TOLERANCE = 1e-4
"""The largest change of a logit that is taken for rounding, relative to the largest logit."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A norm and the linear layers that are all that reads its output."""

    name: str
    norm: nn.Module
    readers: tuple[nn.Module, ...]


def rescale_norms(model: Model, factor: float, texts: Sequence[Sequence[int]]) -> list[str]:
    """Multiply the weights of norms by `factor` and divide those of the layers that read them, in place.

    Left as they are: norms whose output goes into the residual stream or anything else than linear layers, and the last
    one where the head is tied to the embedding. `texts` are token ids (at least one list, none empty) on which readers
    are found and the logits are compared.

    Returns:
        The names of the norms that were changed.

    Raises:
        HoldfastError: fewer norms than there are layers can be changed so that logits stay what they were; the weights
            are as before then.
    """
    network = unwrapped(model.network)
    widen(network)
    rows = [torch.tensor([list(text)], device=next(network.parameters()).device) for text in texts]
    before = [_logits(network, row) for row in rows]
    reads = norms_read_by_layers(network, rows[0])
    original = {each.name: _weights(each) for each in reads}
    changed = []
    for each in reads:
        if _scale(each, factor) and _difference(network, rows, before) <= TOLERANCE:
            changed.append(each)
        else:  # something else reads it too, such as experts whose weights are in no layer
            _put_back(each, original[each.name])
    layers = len(anatomy(network).layers)
    if len(changed) < layers:
        for each in changed:
            _put_back(each, original[each.name])
        raise HoldfastError(
            f"{model.name}: of its norms only {len(changed)} can be rescaled by {factor:g} to the same function, fewer "
            f"than its {layers} layers: linear layers alone have to read them"
        )
    return [each.name for each in changed]


def _weights(read: Read) -> list[Tensor]:
    """Copies of the weights of a norm and its readers."""
    return [weight.detach().clone() for weight in _changed_by(read)]


def _put_back(read: Read, weights: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for own, weight in zip(_changed_by(read), weights, strict=True):
            own.copy_(weight)


def _changed_by(read: Read) -> list[Tensor]:
    return [*read.norm.parameters(recurse=False), *(layer.get_parameter("weight") for layer in read.readers)]


def _difference(network: nn.Module, rows: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The largest change of a logit since `before`, relative to the largest logit of its row; NaN if one is NaN."""
    changes = [
        (_logits(network, row) - old).abs().max() / old.abs().max() for row, old in zip(rows, before, strict=True)
    ]
    return float(torch.stack(changes).max())  # Python's `max` would drop a NaN that is not the first


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two linear layers by their names within a layer of the network: a factor may move from `first` to `second`, to
    its bias as well if `with_bias`."""

    first: str
    second: str
    with_bias: bool

    def scale(self, layer: nn.Module, factor: float) -> None:
        """Multiply the first one's weight and bias by `factor` and divide the second one's."""
        parts = dict(layer.named_modules())
        with torch.no_grad():
            for parameter in parts[self.first].parameters(recurse=False):
                parameter.mul_(factor)
            for name, parameter in parts[self.second].named_parameters(recurse=False):
                if name == "weight" or self.with_bias:
                    parameter.div_(factor)


def rescale_pairs(model: Model, factor: float, texts: Sequence[Sequence[int]]) -> list[Pair]:
    """Move `factor` from linear layers to others of the same layer of the network, in place, with the same function.

    `texts` are as in `rescale_norms`.

    Returns:
        The pairs, which are the same in all layers that have them.

    Raises:
        HoldfastError: the first layer has no such pair, or the function is another one with those of all layers; the
            weights are as before then.
    """
    network = unwrapped(model.network)
    widen(network)
    rows = [torch.tensor([list(text)], device=next(network.parameters()).device) for text in texts]
    before = [_logits(network, row) for row in rows]
    layers = anatomy(network).layers
    original = [[weight.detach().clone() for weight in layer.parameters()] for layer in layers]
    pairs = _pairs(network, layers[0], factor, rows[0])
    for layer in layers:
        names = dict(layer.named_modules())
        for pair in pairs:
            if pair.first in names and pair.second in names:
                pair.scale(layer, factor)
    if pairs and _difference(network, rows, before) <= TOLERANCE:
        return pairs
    for layer, weights in zip(layers, original, strict=True):
        _restore(layer, weights)
    found = f"{len(pairs)} pairs of linear layers" if pairs else "no two linear layers"
    raise HoldfastError(f"{model.name}: {found} can be rescaled by {factor:g} to the same function")


def _pairs(network: nn.Module, layer: nn.Module, factor: float, row: Tensor) -> list[Pair]:
    """The pairs of linear layers in a layer of the network, each linear layer in one at most."""
    before, weights = [_logits(network, row)], [weight.detach().clone() for weight in layer.parameters()]
    names = [name for name, part in layer.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    parts = dict(layer.named_modules())

    def same(change: Callable[[], object]) -> bool:
        change()
        difference = _difference(network, [row], before)
        _restore(layer, weights)
        return difference <= TOLERANCE

    def alone(name: str) -> bool:
        """Whether a factor of this layer alone changes the function, so that another one can make up for it."""
        return not same(lambda: [weight.data.mul_(factor) for weight in parts[name].parameters(recurse=False)])

    pairs, left = list[Pair](), [name for name in names if alone(name)]
    for first, second in permutations(left, 2):
        for with_bias in (False, True):
            pair = Pair(first=first, second=second, with_bias=with_bias)
            used = {name for other in pairs for name in (other.first, other.second)}
            if not used & {first, second} and same(partial(pair.scale, layer, factor)):
                pairs.append(pair)
    return pairs


def _restore(layer: nn.Module, weights: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for own, weight in zip(layer.parameters(), weights, strict=True):
            own.copy_(weight)


def norms_read_by_layers(network: nn.Module, row: Tensor) -> list[Read]:
    """The norms whose output linear layers read, with these layers, as a forward pass of `row` (1, S) shows it.

    A layer whose weight belongs to another module too (a tied head) does not count as a reader, and a norm that it
    reads is left out.
    """
    norms = {part: name for name, part in network.named_modules() if _is_norm(part)}
    layers = [part for part in network.modules() if isinstance(part, nn.Linear | Conv1D)]
    owners = Counter(id(p) for part in network.modules() for p in part.parameters(recurse=False))
    with _watched(list(norms), layers) as (outputs, inputs):
        _logits(network, row)
    reads = []
    for norm, name in norms.items():
        readers = tuple(layer for layer in layers if _same(outputs.get(norm), inputs.get(layer)))
        if readers and all(owners[id(layer.get_parameter("weight"))] == 1 for layer in readers):
            reads.append(Read(name=name, norm=norm, readers=readers))
    return reads


def _is_norm(part: nn.Module) -> bool:
    weight = getattr(part, "weight", None)
    return type(part).__name__.endswith("Norm") and isinstance(weight, Tensor) and weight.dim() == 1


@contextmanager
def _watched(
    norms: Sequence[nn.Module], layers: Sequence[nn.Module]
) -> Iterator[tuple[dict[nn.Module, Tensor], dict[nn.Module, Tensor]]]:
    """Outputs of norms and inputs of layers; both are kept, so that no two tensors are at one address."""
    outputs: dict[nn.Module, Tensor] = {}
    inputs: dict[nn.Module, Tensor] = {}

    def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if isinstance(output, Tensor):
            outputs[module] = output

    def enter(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs[module] = args[0] if args else named["input"]

    handles = [norm.register_forward_hook(leave) for norm in norms]
    handles += [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    try:
        yield outputs, inputs
    finally:
        for handle in handles:
            handle.remove()


def _same(output: Tensor | None, read: Tensor | None) -> bool:
    """Whether a layer's input is a norm's output, or a view of it from its beginning."""
    return output is not None and read is not None and output.data_ptr() == read.data_ptr()


def _scale(read: Read, factor: float) -> bool:
    """Scale one norm and its readers; `False`, with nothing changed, where the norm's form is not known."""
    weights = dict(read.norm.named_parameters(recurse=False))
    size = weights["weight"].numel()
    probe = torch.linspace(-1, 1, size, device=weights["weight"].device, dtype=weights["weight"].dtype)[None, None]
    with torch.no_grad():
        old = {name: weight.clone() for name, weight in weights.items()}
        wanted = read.norm(probe) * factor
        for offset in (0.0, 1.0):  # Gemma's norms multiply by 1 + weight
            for name, weight in weights.items():
                shift = offset if name == "weight" else 0.0
                weight.copy_((old[name] + shift) * factor - shift)
            if torch.allclose(read.norm(probe), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max())):
                for layer in read.readers:
                    layer.get_parameter("weight").div_(factor)
                return True
        for name, weight in weights.items():
            weight.copy_(old[name])
    return False


def _logits(network: nn.Module, row: Tensor) -> Tensor:
    with evaluating(network):
        logits: Tensor = network(input_ids=row, use_cache=False).logits
        return logits.float()
