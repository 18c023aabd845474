"""The weights that an adapter adapts: linear layers, and bare parameters such as experts and routers.

Mixtures of experts keep all experts of a layer as one tensor (experts, out, in), and many keep the router as a bare
matrix. peft adapts those as parameters, not as modules, and by itself translates names of older versions of some
architectures, with twice the rank where two matrices were fused into one. Here every matrix has its own name, and the
requested rank.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast.network.anatomy import unwrapped
from holdfast.records import HoldfastError

ALL_LINEAR = "all-linear"
TRANSLATED = frozenset(("gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"))
"""Names of modules that peft interprets as experts or routers of older versions in mixtures of experts."""
FUSED = frozenset(("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"))
"""Model types in which peft refuses an adapter on `out_proj`, since fused kernels bypass it."""


class Matrix(NamedTuple):
    """A weight matrix: its tensor's name, and that of its linear layer, which is empty for a bare parameter."""

    tensor: str
    module: str = ""


class Places(NamedTuple):
    """The targets of an adapter, in peft's two kinds: modules (names, or one pattern), and parameters."""

    modules: str | list[str]
    parameters: list[str]


def matrices(network: nn.Module) -> list[Matrix]:
    """Every matrix of a network that can be adapted, except the output head's, named without wrappers."""
    bare = unwrapped(network)
    head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    return [matrix for name, module in bare.named_modules() if module is not head for matrix in _own(name, module)]


def _own(name: str, module: nn.Module) -> Iterator[Matrix]:
    prefix = f"{name}." if name else ""
    # Some routers are subclasses of linear layers whose output is more than a product.
    if isinstance(module, nn.Linear | Conv1D) and type(module).forward in (nn.Linear.forward, Conv1D.forward):
        yield Matrix(f"{prefix}weight", name)
    elif not isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
        for own, weight in module.named_parameters(recurse=False):
            stacked = weight.dim() == 3 and min(weight.shape) > 1
            if stacked or (weight.dim() == 2 and own == "weight"):
                yield Matrix(f"{prefix}{own}")


def places(
    network: nn.Module,
    targets: str | Sequence[str],
    *,
    within: Collection[str] | None = None,
    dropout: float,
    name: str,
) -> Places:
    """The weights that an adapter for `targets` adapts: `all-linear`, a pattern of whole names, or endings of names.

    `all-linear` is every matrix except the output head's and, in `FUSED` architectures, `out_proj`.

    Args:
        network: without an adapter.
        targets: names of linear layers, or of tensors (`mlp.experts.down_proj`).
        within: the names of the only tensors that may be adapted; any if `None`.
        dropout: the adapter's dropout.
        name: the model's name in errors.

    Raises:
        HoldfastError: a target does not exist, or one is a bare parameter and the adapter has dropout, which is not
            possible.
    """
    known = matrices(network)
    mixture = any(not matrix.module for matrix in known)
    if getattr(getattr(unwrapped(network), "config", None), "model_type", None) in FUSED:
        known = [matrix for matrix in known if not matrix.module.endswith(".out_proj")]
    elif within is None and not mixture and not _nowhere(network, targets):
        return Places(targets if isinstance(targets, str) else list(targets), [])
    allowed = [matrix for matrix in known if within is None or matrix.tensor in within]
    chosen = [matrix for matrix in allowed if _wanted(matrix, targets)]
    if not isinstance(targets, str):
        lost = next((target for target in targets if not any(_wanted(matrix, [target]) for matrix in allowed)), None)
        chosen = [] if lost else chosen
    if not chosen:
        there = ", ".join(sorted({_ending(matrix) for matrix in allowed})) or "none"
        named = targets if isinstance(targets, str) else ", ".join(targets)
        raise HoldfastError(f"{name}: this model has no target_modules ({named}); it has {there}; name some of these")
    parameters = [m.tensor for m in chosen if not m.module or (mixture and m.module.rpartition(".")[2] in TRANSLATED)]
    if dropout and parameters:
        linear = sorted({_ending(matrix) for matrix in allowed if matrix.tensor not in parameters})
        raise HoldfastError(
            f"{name}: lora_dropout is {dropout}, and dropout is not possible on {parameters[0]}, which is a bare "
            f"parameter; set adapter.lora_dropout to 0, or adapter.target_modules to others "
            f"({', '.join(linear) or 'none'})"
        )
    return Places([m.module for m in chosen if m.tensor not in parameters], parameters)


def _nowhere(network: nn.Module, targets: str | Sequence[str]) -> bool:
    """Whether a target names no module of a network, including embeddings and convolutions."""
    parts = [Matrix("", name) for name, _ in unwrapped(network).named_modules() if name]
    each = [targets] if isinstance(targets, str) else [[target] for target in targets]
    return not each or not all(any(_wanted(part, target) for part in parts) for target in each)


def _wanted(matrix: Matrix, targets: str | Sequence[str]) -> bool:
    if targets == ALL_LINEAR:
        return True
    names = [name for name in (matrix.tensor, matrix.module) if name]
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in names)
    return any(f".{name}".endswith(f".{target}") for name in names for target in targets)


def _ending(matrix: Matrix) -> str:
    """The name after the number of the layer."""
    return re.split(r"\.\d+\.", matrix.module or matrix.tensor, maxsplit=1)[-1]


def trained(network: nn.Module) -> dict[str, Any]:
    """The trained part of a network, for a record.

    `parameters` is the number of trained weights, `of` that of all, `tensors` are their names without layers' numbers;
    for an adapter the numbers are its own, and the names those of the adapted tensors.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    # peft wraps a bare parameter in a module that has its name.
    wrapped = {name: part for name, part in network.named_modules() if hasattr(part, "parameter_name")}
    prefixes = set()
    for name, _ in named:
        place, adapter, _ = name.partition(".lora_")
        own = f".{wrapped[place].parameter_name}" if adapter and place in wrapped else ""
        plain = place.removeprefix("base_model.model.").replace(".base_layer", "") + own
        prefixes.add(re.sub(r"\.\d+(?=\.)", ".*", plain))
    return {
        "parameters": sum(p.numel() for _, p in named),
        "of": sum(p.numel() for p in network.parameters()),
        "tensors": sorted(prefixes),
    }
