"""The parts of a network: decoder layers with their MLPs and attentions, final norm and head.

Models in the styles of Llama, Qwen, Gemma, Phi, GPT-2, GPT-NeoX, Mamba and their hybrids and mixtures of experts are
known, bare or inside the wrappers of adapters and of distributed training. A part that is not found raises an error
with its name when a method needs it, instead of being skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.records import HoldfastError

LAYERS = (
    *("model.layers", "model.language_model.layers", "transformer.h", "gpt_neox.layers", "backbone.layers"),
    *("model.decoder.layers", "transformer.blocks", "rwkv.blocks", "backbone.blocks", "biogpt.layers"),
)
NORMS = (
    *("norm", "final_layernorm", "ln_f", "final_layer_norm", "norm_f", "embedding_norm", "final_norm", "layer_norm"),
    *("ln_out", "out_norm"),
)
MLPS = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp", "mlps", "mlp_block", "ffn")
ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
MIXERS = (*ATTENTIONS, "linear_attn", "mamba", "conv", "temporal_block", "mixer", "mamba_decoder", "mlstm_layer")
"""Names of token mixers: attention, or a state-space, linear-attention or convolution layer."""
FACTORS, DIVISOR, CAP = ("logit_scale", "lm_head_multiplier"), "logits_scaling", "final_logit_softcapping"
"""Settings of a configuration that change logits: constants that multiply and divide them, and a soft limit."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of one network, in the order of the forward pass; `L` layers.

    `layers_name` is the name of the list of layers in the network without wrappers, so that the tensors of layer `i`
    are those named `LAYERS_NAME.i.`; `kind` is its class. A missing part raises an error only when it is used.
    """

    layers: tuple[nn.Module, ...]
    final_norm: nn.Module
    lm_head: nn.Module
    layers_name: str
    config: Any
    kind: str

    @property
    def mixers(self) -> tuple[nn.Module, ...]:
        """All token mixers (see `MIXERS`): usually one per layer, in some networks two or none.

        Raises:
            HoldfastError: there is none in the whole network.
        """
        parts = tuple(part for layer in self.layers for part in _named(layer, MIXERS, mlp=False))
        if not parts:
            raise HoldfastError(f"{self.kind}: no layer has an attention (looked for {', '.join(MIXERS)})")
        return parts

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a layer, counted from 0, or its mixture of experts.

        Raises:
            HoldfastError: the layer has none, or several whose outputs are summed.
        """
        return self._only(layer, MLPS, "MLP")

    def attention(self, layer: int) -> nn.Module:
        """The attention of a layer, counted from 0.

        Raises:
            HoldfastError: the layer has none, or several.
        """
        return self._only(layer, ATTENTIONS, "attention")

    def _only(self, layer: int, places: Sequence[str], what: str) -> nn.Module:
        candidates = _named(self.layers[layer], places, mlp=what == "MLP")
        if len(candidates) == 1:
            return candidates[0]
        inside = ", ".join(name for name, _ in self.layers[layer].named_children())
        problem = f"no {what}" if not candidates else f"more than one {what}"
        raise HoldfastError(
            f"{self.kind}: {problem} in layer {layer} found (looked for {', '.join(places)}; it has {inside}); "
            "use a method that does not need it, or another model"
        )

    def head(self, normed: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H) after the final norm, scaled and capped as the model's own."""
        weight = next(self.lm_head.parameters())
        logits = self.lm_head(normed.to(weight.dtype))
        for name in FACTORS:
            logits = logits * (getattr(self.config, name, None) or 1.0)
        logits = logits / (getattr(self.config, DIVISOR, None) or 1.0)
        cap = logit_cap(self.config)
        return logits if cap is None else cap * (logits / cap).tanh()

    def lens(self, states: Tensor) -> Tensor:
        """Logits (..., V) that states (..., H) of any layer would give if they were the last layer's."""
        return self.head(self.normed(states))

    def normed(self, states: Tensor) -> Tensor:
        """States (..., H) of any layer after the final norm."""
        weight = next(self.final_norm.parameters(), None)  # some norms have none
        normed: Tensor = self.final_norm(states if weight is None else states.to(weight.dtype))
        return normed


def anatomy(network: nn.Module) -> Anatomy:
    """The parts of a network.

    Raises:
        HoldfastError: a part is not where any known architecture has it; names the part and the places searched.
    """
    bare = unwrapped(network)
    kind = type(bare).__name__
    layers_name, layer_list = _first(bare, LAYERS, kind, "decoder layers")
    layers = tuple(layer_list.children())
    if not layers:
        raise HoldfastError(f"{kind}: {layers_name} holds no decoder layers")
    decoder = bare.get_submodule(layers_name.rpartition(".")[0])
    lm_head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    if lm_head is None:
        raise HoldfastError(f"{kind}: no language-model head found; load the model as a causal language model")
    return Anatomy(
        layers=layers,
        final_norm=_first(decoder, NORMS, kind, "final norm")[1],
        lm_head=lm_head,
        layers_name=layers_name,
        config=bare.config.get_text_config(),
        kind=kind,
    )


def logit_scale(config: Any) -> float:
    """The factor by which a model of that text configuration multiplies its head's products."""
    factors = (getattr(config, name, None) or 1.0 for name in FACTORS)
    return math.prod(factors) / (getattr(config, DIVISOR, None) or 1.0)


def logit_cap(config: Any) -> float | None:
    """The soft limit of its logits, `None` if there is none."""
    cap: float | None = getattr(config, CAP, None)
    return cap


def unwrapped(network: Any) -> Any:
    """The network inside the wrappers of adapters and of data parallelism; the network itself if there are none."""
    while True:
        if hasattr(network, "get_base_model"):
            network = network.get_base_model()
        elif isinstance(getattr(network, "module", None), nn.Module):
            network = network.module
        else:
            return network


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the output of each module, in the order of `modules`; the next forward pass fills the list.

    Of several outputs of a module the first is recorded. Nothing is detached. The hooks are removed on exit from the
    context.
    """
    outputs: list[Any] = [None] * len(modules)
    handles = [module.register_forward_hook(_keep(outputs, i)) for i, module in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def residual_stream(parts: Anatomy) -> Iterator[list[Tensor]]:
    """Record the `L + 1` states of the residual stream, (B, S, H) each, as `outputs_of` does.

    They are the input of the first layer, then the output of each layer, the last one's after the final norm: the order
    of transformers' `hidden_states`.
    """
    states: list[Any] = [None] * (len(parts.layers) + 1)

    def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        states[0] = inputs[0] if inputs else named["hidden_states"]

    handles = [parts.layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [m.register_forward_hook(_keep(states, i)) for i, m in enumerate(parts.layers[:-1], 1)]
    handles.append(parts.final_norm.register_forward_hook(_keep(states, len(parts.layers))))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _keep(outputs: list[Any], place: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        outputs[place] = output[0] if isinstance(output, tuple | list) else output

    return hook


def _named(layer: nn.Module, places: Sequence[str], *, mlp: bool) -> list[nn.Module]:
    """The children of a layer with a name in `places`; the kind of a `mixer` is determined by its class name."""
    candidates = [
        (place, getattr(layer, place)) for place in places if isinstance(getattr(layer, place, None), nn.Module)
    ]
    if mlp and not candidates and isinstance(getattr(layer, "mixer", None), nn.Module):
        candidates = [("mixer", layer.mixer)]
    parts = [part for place, part in candidates if place != "mixer" or _is_mlp(part) == mlp]
    return [one for part in parts for one in (part if isinstance(part, nn.ModuleList) else [part])]


def _is_mlp(mixer: nn.Module) -> bool:
    return type(mixer).__name__.endswith(("MLP", "MoE", "Moe"))


def _first(root: nn.Module, places: Sequence[str], kind: str, what: str) -> tuple[str, nn.Module]:
    """The first of `places` under `root` that exists."""
    for place in places:
        try:
            return place, root.get_submodule(place)
        except AttributeError:
            continue
    raise HoldfastError(
        f"{kind}: no {what} found (looked for {', '.join(places)}); "
        "use a Llama, Mistral, Qwen, Gemma, Phi, GPT-2, GPT-NeoX or Mamba style model"
    )


def drops(network: Any) -> bool:
    """Whether the network has dropout, by its modules or its configuration, so that passes in training differ."""
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in network.modules()):
        return True
    config = getattr(unwrapped(network), "config", None)
    values = {} if config is None else {**vars(config), **vars(config.get_text_config())}
    return any("drop" in name and isinstance(value, float) and value > 0 for name, value in values.items())
