"""Where the parts of a network are: decoder layers, their MLPs and attentions, final norm and head, by one map.

Llama, Mistral, Qwen, Gemma, Phi, GPT-2 and GPT-NeoX style models are known, bare or inside the wrappers of adapters
and of training on many devices. What the map does not find is refused by name rather than passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.records import HoldfastError

LAYERS = ("model.layers", "model.language_model.layers", "transformer.h", "gpt_neox.layers")
NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")
MLPS = ("mlp",)
ATTENTIONS = ("self_attn", "attn", "attention")


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of one network, in the order in which a token meets them; `L` layers.

    `layers_name` is the name of the list of layers in the network without wrappers, so that the tensors of layer `i`
    are those named `LAYERS_NAME.i.`.
    """

    layers: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    final_norm: nn.Module
    lm_head: nn.Module
    layers_name: str
    config: Any

    def head(self, normed: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H) after the final norm, scaled and capped as the model's own."""
        weight = next(self.lm_head.parameters())
        logits = self.lm_head(normed.to(weight.dtype))
        divisor, factor = (getattr(self.config, name, None) for name in ("logits_scaling", "logit_scale"))
        logits = logits * (factor or 1.0) / (divisor or 1.0)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def lens(self, states: Tensor) -> Tensor:
        """Logits (..., V) that states (..., H) of any layer would give if they were the last layer's."""
        return self.head(self.final_norm(states.to(next(self.final_norm.parameters()).dtype)))


def anatomy(network: nn.Module) -> Anatomy:
    """The parts of a network.

    Raises:
        HoldfastError: a part is not where any known architecture has it; names the part and the places looked at.
    """
    bare = unwrapped(network)
    kind = type(bare).__name__
    layers_name, found = _first(bare, LAYERS, kind, "decoder layers")
    layers = tuple(found.children())
    if not layers:
        raise HoldfastError(f"{kind}: {layers_name} holds no decoder layers")
    decoder = bare.get_submodule(layers_name.rpartition(".")[0])
    lm_head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    if lm_head is None:
        raise HoldfastError(f"{kind}: no language-model head found; load the model as a causal language model")
    return Anatomy(
        layers=layers,
        mlps=tuple(_first(layer, MLPS, kind, f"MLP in layer {i}")[1] for i, layer in enumerate(layers)),
        attentions=tuple(
            _first(layer, ATTENTIONS, kind, f"attention in layer {i}")[1] for i, layer in enumerate(layers)
        ),
        final_norm=_first(decoder, NORMS, kind, "final norm")[1],
        lm_head=lm_head,
        layers_name=layers_name,
        config=bare.config.get_text_config(),
    )


def unwrapped(network: Any) -> Any:
    """The network inside the wrappers of adapters and of data parallelism; itself where there are none."""
    while True:
        if hasattr(network, "get_base_model"):
            network = network.get_base_model()
        elif isinstance(getattr(network, "module", None), nn.Module):
            network = network.module
        else:
            return network


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Records what each module puts out, in the order of `modules`; the list is filled by the next forward pass.

    Of a module that returns several things the first is meant. Nothing is detached. The hooks are gone when the
    context is left, however that comes about.
    """
    found: list[Any] = [None] * len(modules)
    handles = [module.register_forward_hook(_keep(found, i)) for i, module in enumerate(modules)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def residual_stream(parts: Anatomy) -> Iterator[list[Tensor]]:
    """Records the `L + 1` states of the residual stream, (B, S, H) each, as `outputs_of` does.

    They are what enters the first layer, then what each layer puts out, the last one's after the final norm: the
    order of transformers' `hidden_states`.
    """
    found: list[Any] = [None] * (len(parts.layers) + 1)

    def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        found[0] = inputs[0] if inputs else named["hidden_states"]

    handles = [parts.layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [m.register_forward_hook(_keep(found, i)) for i, m in enumerate(parts.layers[:-1], 1)]
    handles.append(parts.final_norm.register_forward_hook(_keep(found, len(parts.layers))))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: list[Any], place: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        found[place] = output[0] if isinstance(output, tuple | list) else output

    return hook


def _first(root: nn.Module, places: Sequence[str], kind: str, what: str) -> tuple[str, nn.Module]:
    """The first of `places` under `root` that there is."""
    for place in places:
        try:
            return place, root.get_submodule(place)
        except AttributeError:
            continue
    raise HoldfastError(
        f"{kind}: no {what} found (looked for {', '.join(places)}); "
        "use a Llama, Mistral, Qwen, Gemma, Phi, GPT-2 or GPT-NeoX style model"
    )
