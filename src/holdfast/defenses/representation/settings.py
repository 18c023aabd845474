"""Settings that select a member of the family of representation removals."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal

from torch import nn

from holdfast.losses.representation import Distance
from holdfast.methods.ranges import Count, NonNegative, Positive, PositiveShare, Whole, ranged
from holdfast.network.anatomy import Anatomy
from holdfast.records import HoldfastError


@dataclass(frozen=True, kw_only=True)
@ranged
class Removal:
    """The member of the family, and the weights of its terms; a term of weight 0 is not computed.

    `distance` is `d`, `projection` is `g`. `removal_weight`, `refusal_weight`, `ascent_weight` and `benign_weight` are
    the weights of the distance, the cross entropy of refusals, the unlearning of harmful answers and the cross entropy
    of benign ones. `site` says what `Z` is: outputs of the MLPs, of the attentions, or of whole layers. `depths` are
    the layers as shares of the depth in (0, 1], layer `k` of `L` being `k / L`; without any, all of them. `positions`
    are the tokens of the answer, or also those of the prompt. `vector_length` belongs to `fixed`, which has a vector
    for each domain; with `alternate_domains` each step trains on one domain in turn. `jitter` adds noise of that size
    (relative to the norm) to the `original`: states that start exactly at the point to move away from have only
    rounding error as gradient. `noise` is sampled anew at every step, so that a `cosine` to it cannot be learnt.

    `retain` compares states on benign text with the original's: `drift` at every layer, `mse` where `Z` is. `handover`
    is the share of `removal_weight` that is removed by the last step, and of `retain_weight` that is reached by it.

    `trained_layers` layers up to the deepest of `depths` are trained (0: all up to it; `None`: the whole model), and
    and in them the tensors whose names end in one of `trained`, if given; an adapter, if any, is placed only there.

    `quirks` pairs the answers token by token and computes cross entropies and ascent like RepNoise's published code;
    `count_padding` averages `drift` like that of Circuit Breakers.
    """

    distance: Distance = "mmd"
    projection: Literal["noise", "original", "fixed"] = "noise"
    site: Literal["mlp", "attention", "layer"] = "mlp"
    depths: tuple[PositiveShare, ...] = ()
    positions: Literal["answer", "all"] = "answer"
    vector_length: Positive = 6.5
    alternate_domains: bool = False
    jitter: NonNegative = 0.0
    removal_weight: NonNegative = 1.0
    refusal_weight: NonNegative = 1.0
    ascent_weight: NonNegative = 1.0
    retain_weight: NonNegative = 0.0
    retain: Literal["drift", "mse"] = "drift"
    benign_weight: NonNegative = 0.0
    handover: PositiveShare | None = None
    trained: tuple[str, ...] = ()
    trained_layers: Whole | None = None
    max_length: Count | None = 1024
    quirks: bool = False
    count_padding: bool = False

    def __post_init__(self) -> None:
        weights = {key: value for key, value in vars(self).items() if key.endswith("_weight")}
        if not any(weights.values()):
            raise HoldfastError(f"every weight is 0 ({', '.join(weights)}), so nothing would be learnt")

    def layers(self, count: int) -> list[int]:
        """The selected layers in a model of `count`, from 1."""
        chosen = {min(count, max(1, floor(depth * count + 0.5))) for depth in self.depths}
        return sorted(chosen) or list(range(1, count + 1))

    def modules(self, parts: Anatomy) -> list[nn.Module]:
        """The modules whose outputs are `Z`."""
        chosen = [layer - 1 for layer in self.layers(len(parts.layers))]
        if self.site == "layer":
            return [parts.layers[layer] for layer in chosen]
        return [parts.mlp(layer) if self.site == "mlp" else parts.attention(layer) for layer in chosen]

    @property
    def pairs(self) -> bool:
        """Whether refusals are needed in addition to harmful answers."""
        return bool(self.refusal_weight) or self.quirks

    @property
    def retains(self) -> bool:
        """Whether benign text is needed."""
        return bool(self.retain_weight or self.benign_weight)

    @property
    def compares(self) -> bool:
        """Whether the original model is needed."""
        return bool(self.retain_weight) or (self.projection == "original" and bool(self.removal_weight))
