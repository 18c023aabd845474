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

    - `distance`: The distance between states and their target: multi-kernel discrepancy of two batches (`mmd`), cosine
      similarity, or squared difference (`mse`).
    - `projection`: The target of states on harmful answers: noise, sampled anew at every step, so that a `cosine` to it
      cannot be learnt; the original's states, to move away from (`original`); or one random vector for each domain
      (`fixed`).
    - `site`: Which outputs count as states: those of the MLPs, of the attentions, or of whole layers.
    - `depths`: The layers whose states count, as shares of the depth, layer k of L being k / L; empty takes all.
    - `positions`: The tokens whose states count: the answer's, or all with the prompt's.
    - `vector_length`: The norm of the vector of `projection: fixed`.
    - `alternate_domains`: Whether each step trains on one domain in turn, instead of on rows of all.
    - `jitter`: The size of noise added to the original's states, relative to their norm: states that start exactly at
      the point to move away from have only rounding error as gradient.
    - `removal_weight`: The weight of the distance on harmful answers.
    - `refusal_weight`: The weight of the cross entropy of refusals.
    - `ascent_weight`: The weight of unlearning harmful answers, the logarithm of their loss over all layers.
    - `retain_weight`: The weight of the difference to the original's states on benign text.
    - `retain`: Where states on benign text are compared with the original's: at every layer (`drift`), or at the chosen
      site by their squared difference (`mse`).
    - `benign_weight`: The weight of the cross entropy of benign answers.
    - `handover`: The share of the removal's weight that is gone by the last step, and of the retention's weight that is
      reached by it; `None` keeps both constant.
    - `trained`: Endings of the names of the tensors that are trained; empty trains all.
    - `trained_layers`: The number of layers that are trained, up to the deepest chosen one: 0 all up to it, `None` the
      whole model. An adapter, if any, is placed only there.
    - `quirks`: Whether answers are paired token by token, and cross entropies and ascent computed, like in RepNoise's
      published code.
    - `count_padding`: Whether the drift is averaged with padding, like in the code of Circuit Breakers.
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
