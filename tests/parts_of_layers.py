"""The MLPs and the attentions of all layers of a network, each as `Anatomy` gives it."""

from __future__ import annotations

from torch import nn

from holdfast.network.anatomy import Anatomy


def mlps(parts: Anatomy) -> tuple[nn.Module, ...]:
    return tuple(parts.mlp(layer) for layer in range(len(parts.layers)))


def attentions(parts: Anatomy) -> tuple[nn.Module, ...]:
    return tuple(parts.attention(layer) for layer in range(len(parts.layers)))
