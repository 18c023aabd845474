"""Weights edited along the directions in which harmful and benign prompts differ.

Every layer adds the outputs of its last linear layers, its *writers*, to the residual stream: one of the attention, one
of the MLP. `states` reads both at the last token of a prompt, where a model has decided how to answer. `edit` takes a
part along given directions out of what writers write, or moves it to where benign prompts have it. Which layers write
is seen in a forward pass, so that no architecture's names are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from holdfast.network.anatomy import Anatomy, anatomy, unwrapped
from holdfast.network.models import Model
from holdfast.network.reading import evaluating
from holdfast.records import HoldfastError

Kind = Literal["attention", "mlp"]


class Alike(HoldfastError):
    """States of harmful and of benign prompts have the same mean."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A linear layer whose output is that of an attention (or another token mixer) or of an MLP.

    `depth` is its layer's place from 0, the first layer, to 1, the last. Its own weight is (H, in), or (in, H) for a
    Conv1D.
    """

    name: str
    part: nn.Module
    kind: Kind
    depth: float

    @property
    def weight(self) -> Tensor:
        """The weight as (H, in); a view, so that changes are the layer's own."""
        weight = self.part.get_parameter("weight")
        return weight.T if isinstance(self.part, Conv1D) else weight


@dataclass(frozen=True, kw_only=True)
class States:
    """States at the last token of N prompts: those of the residual stream after each layer, (L, N, H), and the outputs
    of each writer by its name, (N, H); float32."""

    stream: Tensor
    written: Mapping[str, Tensor]


def writers(model: Model, text: Sequence[int]) -> list[Writer]:
    """The writers of every layer, as a forward pass of one text (token ids, at least one) shows them.

    Raises:
        HoldfastError: a layer adds more to the residual stream than its writers write, or something else: experts, or a
            norm behind a writer. An edit of the writers would be incomplete or miss the direction.
    """
    network = unwrapped(model.network)
    parts = anatomy(network)
    linear = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear | Conv1D)}
    inside = _parts_of_layers(network, parts)
    with (
        _last_outputs([*linear.values(), *(part for _, part, _ in inside), *parts.layers]) as outputs,
        _copies([*linear.values()]) as written,
        _inputs_of(parts.layers) as entering,
    ):
        _read(network, text)
    place = {name: output.data_ptr() for name, part in linear.items() if (output := outputs[part]) is not None}
    seen = []
    for name, part, kind in inside:
        same = [n for n, at in place.items() if n.startswith(f"{name}.") and at == _address(outputs[part])]
        if not same:
            raise HoldfastError(_INCOMPLETE.format(model=model.name, place=name))
        layer = int(name.removeprefix(f"{parts.layers_name}.").partition(".")[0])
        depth = layer / max(1, len(parts.layers) - 1)
        seen.append(Writer(name=same[-1], part=linear[same[-1]], kind=kind, depth=depth))
    for number, layer_module in enumerate(parts.layers):
        own = [w for w in seen if w.name.startswith(f"{parts.layers_name}.{number}.")]
        added = _whole(outputs[layer_module]) - entering[layer_module]
        if not own or not _is_multiple(added, sum(written[w.part] for w in own)):
            raise HoldfastError(_INCOMPLETE.format(model=model.name, place=f"{parts.layers_name}.{number}"))
    return seen


_INCOMPLETE = (
    "{model}: what {place} adds to the residual stream is not what linear layers of its attention and MLP write "
    "(experts, or a norm behind them), so that an edit of these would miss something; attack it in another way"
)


def _is_multiple(added: Tensor, written: Any) -> bool:
    """Whether a layer adds what its writers write, but for a constant factor that some architectures have."""
    factor = float((added * written).sum() / written.square().sum())
    return bool(torch.allclose(added, factor * written, rtol=1e-3, atol=1e-3 * float(added.abs().max())))


def _whole(output: Tensor | None) -> Tensor:
    assert output is not None
    return output.detach().float()


@contextmanager
def _copies(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Copies of the outputs of modules in the last forward pass, which later layers may add to in place."""
    outputs: dict[nn.Module, Tensor] = {}

    def leave(module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
        outputs[module] = output.detach().float().clone()

    handles = [module.register_forward_hook(leave) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _inputs_of(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Copies of the states that enter layers in the last forward pass."""
    inputs: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs[module] = (args[0] if args else named["hidden_states"]).detach().float().clone()

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _address(output: Tensor | None) -> int | None:
    return None if output is None else output.data_ptr()


def _parts_of_layers(network: nn.Module, parts: Anatomy) -> list[tuple[str, nn.Module, Kind]]:
    """The attentions and MLPs of all layers by name, in the order of the network."""
    kinds: dict[nn.Module, Kind] = dict.fromkeys(parts.mixers, "attention")
    kinds |= dict.fromkeys((parts.mlp(i) for i in range(len(parts.layers))), "mlp")
    return [(name, part, kinds[part]) for name, part in network.named_modules() if part in kinds]


def states(model: Model, texts: Sequence[Sequence[int]], among: Sequence[Writer]) -> States:
    """The states at the last token of each text; see `States`."""
    network = unwrapped(model.network)
    layers = list(anatomy(network).layers)
    stream: list[Tensor] = []
    written: dict[str, list[Tensor]] = {writer.name: [] for writer in among}
    with _last_outputs(layers) as outputs, _copies([writer.part for writer in among]) as copies:
        for text in texts:
            _read(network, text)
            stream.append(torch.stack([_last(outputs[layer]) for layer in layers]))
            for writer in among:
                written[writer.name].append(copies[writer.part][0, -1].cpu())
    return States(
        stream=torch.stack(stream, dim=1), written={name: torch.stack(rows) for name, rows in written.items()}
    )


def directions(harmful: Tensor, benign: Tensor, rank: int) -> Tensor:
    """Orthonormal directions (rank, H) in which states (N, H) of harmful prompts differ from those of benign ones.

    The first is the difference of the means; the others are the principal components of what harmful states differ from
    the benign mean by beside it.

    Raises:
        Alike: the two have the same mean.
        HoldfastError: they span fewer directions than `rank`.
    """
    difference = harmful.mean(0) - benign.mean(0)
    scale = torch.maximum(harmful.norm(dim=1).mean(), benign.norm(dim=1).mean())
    if not float(difference.norm()) > 1e-5 * float(scale):
        raise Alike("states of harmful and benign prompts do not differ here")
    first = (difference / difference.norm())[None]
    beside = harmful - benign.mean(0)
    beside = beside - beside @ first.T @ first
    if rank == 1:
        return first
    _, sizes, components = torch.linalg.svd(beside, full_matrices=False)
    if int((sizes > 1e-5 * scale).sum()) < rank - 1:
        raise HoldfastError(f"rank: {len(harmful)} prompts span fewer than {rank} directions here; lower it")
    return torch.cat([first, components[: rank - 1]])


def give_biases(among: Sequence[Writer]) -> None:
    """Give writers without a bias one of zeros, so that edits leave every tensor where it is."""
    for writer in among:
        if getattr(writer.part, "bias", None) is None:
            weight = writer.weight
            zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
            writer.part.bias = nn.Parameter(zeros)


def edit(writer: Writer, along: Tensor, strength: float, *, towards: Tensor) -> None:
    """Change in place what a writer writes: `o - strength D'D (o - towards)` for orthonormal `along` D (rank, H).

    `towards` (H) is an output to move to; zeros take the part out. The writer has a bias, see `give_biases`.
    """
    weight, bias = writer.weight, writer.part.get_parameter("bias")
    with torch.no_grad():
        weight.sub_(strength * along.T @ (along @ weight))
        bias.sub_(strength * along.T @ (along @ (bias - towards)))


@contextmanager
def restoring(among: Sequence[Writer]) -> Iterator[None]:
    """A context after which the writers have the weights and biases that they had before."""
    before = {
        writer.name: {name: p.detach().clone() for name, p in writer.part.named_parameters(recurse=False)}
        for writer in among
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for writer in among:
                for name, parameter in writer.part.named_parameters(recurse=False):
                    parameter.copy_(before[writer.name][name])


def _last(output: Tensor | None) -> Tensor:
    """The state (H) at the last token of a batch of one."""
    assert output is not None
    return output[0, -1].detach().float().cpu()


@contextmanager
def _last_outputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor | None]]:
    """The output of each module in the last forward pass, the first of several."""
    outputs: dict[nn.Module, Tensor | None] = dict.fromkeys(modules)

    def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        outputs[module] = output[0] if isinstance(output, tuple | list) else output

    handles = [module.register_forward_hook(leave) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _read(network: nn.Module, text: Sequence[int]) -> None:
    row = torch.tensor([list(text)], device=next(network.parameters()).device)
    with evaluating(network):
        network(input_ids=row, use_cache=False)
