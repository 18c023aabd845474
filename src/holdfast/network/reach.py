"""Check that a method can use a network's modules, by a short pass before anything is trained.

Modules with the expected names may have unexpected outputs, which a short pass shows. The result for a network with
weights is cached by its configuration, for a network without weights (on the device `meta`), on which plans are
rehearsed and nothing can be computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.network.anatomy import Anatomy, anatomy, outputs_of, residual_stream, unwrapped
from holdfast.records import HoldfastError

TEXTS, TOKENS = 2, 8
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of one pass: the shape of each module's output, `None` if it is not a tensor, and more.

    `lens` says whether norm and head on the last states give the network's own logits.
    """

    shapes: Mapping[str, Shape | None]
    lens: bool


_surveyed: dict[str, Survey] = {}
"""Results for networks with weights, by configuration."""


def survey(network: nn.Module) -> Survey | None:
    """The result of a short pass, possibly cached; `None` for a network without weights and unknown configuration.

    Raises:
        HoldfastError: the architecture is unknown.
    """
    key = _key(unwrapped(network))
    if not next(network.parameters()).is_meta:
        _surveyed[key] = _survey_network(network)
    return _surveyed.get(key)


def check_lens(network: nn.Module) -> None:
    """Check that norm and head on the last states give the network's own logits.

    Raises:
        HoldfastError: they do not, since the network processes its states further.
    """
    parts, lens = anatomy(network), survey(network)
    if lens is not None and not lens.lens:
        raise HoldfastError(
            f"{parts.kind}: its last states under the final norm and the head are not its own logits, so states of "
            "other layers cannot be read in this way either; set ascent_weight to 0, or use another model"
        )


def check_outputs(network: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Check that modules return a state for every token.

    Raises:
        HoldfastError: one of them returns something else; names it.
    """
    layout = survey(network)
    names = {module: name for name, module in unwrapped(network).named_modules()}
    for module in modules if layout is not None else ():
        shape = layout.shapes.get(names[module]) if layout is not None else None
        if shape is None or len(shape) != 3 or shape[:2] != (TEXTS, TOKENS):
            raise HoldfastError(
                f"{type(unwrapped(network)).__name__}: {type(module).__name__} returns {shape or 'no tensor'} for "
                f"{TEXTS} texts of {TOKENS} tokens and not a state for each token; use a method that does not need it, "
                "or another model"
            )


def _survey_network(network: nn.Module) -> Survey:
    parts, named = anatomy(network), dict(unwrapped(network).named_modules())
    weight, training = next(network.parameters()), network.training
    vocabulary = len(next(unwrapped(network).get_input_embeddings().parameters()))
    tokens = torch.arange(TEXTS * TOKENS, device=weight.device).view(TEXTS, TOKENS) % vocabulary
    network.eval()
    try:
        with torch.no_grad(), outputs_of([*named.values()]) as outputs, residual_stream(parts) as stream:
            logits = network(input_ids=tokens, use_cache=False).logits
            last = outputs[list(named.values()).index(parts.layers[-1])]
            lens = _is_read(parts, [*stream, last], logits)
    finally:
        network.train(training)
    shapes = {
        name: tuple(output.shape) if isinstance(output, Tensor) else None
        for name, output in zip(named, outputs, strict=True)
    }
    return Survey(shapes=shapes, lens=lens)


def _is_read(parts: Anatomy, states: Sequence[Any], logits: Tensor) -> bool:
    """Whether norm and head on the last state give the network's logits."""
    # Some architectures have several parallel residual streams.
    if not all(isinstance(state, Tensor) and state.dim() == 3 for state in states):
        return False
    return torch.allclose(parts.lens(states[-1]), logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max()))


def _key(bare: Any) -> str:
    settings = bare.config.to_dict()
    settings.pop("_name_or_path", None)
    return json.dumps([type(bare).__qualname__, settings], sort_keys=True, default=str)
