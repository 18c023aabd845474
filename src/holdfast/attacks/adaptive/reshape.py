"""Rescale weights so that the model computes the same, and then attack.

Idea: a defense that only slows training down holds at the attacker's learning rate for the weights as released. Norms
multiplied by a factor and the weights that read them divided by it leave every logit as it was, but a step of Adam,
whose size does not depend on a weight's, then changes what these layers compute about that much more (the other layers
as before, and the norms less). If a defense then breaks sooner, or later by the inverse factor, its time to break says
as much about the learning rate as about the defense.
Equation: `norm.weight <- norms * norm.weight`, `W <- W / norms` for every linear layer that reads the norm; `A <- pairs
* A`, `B <- B / pairs` for linear layers whose outputs are multiplied (queries and keys, the halves of a gated MLP) or
of which one passes on what the other wrote (values and the attention's output).
Source: that hardening is undone by reparameterising the model, as arXiv 2602.18868 argues; this form is this project's.
Differs from the paper in: of the ways to rewrite a model only this one, which needs no knowledge of the defense; the
same function is checked, to 1e-4 of the largest logit.

It costs no training. Norms that anything but linear layers reads are left as they are; so is the last norm if the head
is tied to the embedding. A model with fewer norms to rescale than layers is refused, and so is one without such pairs.
A factor below 1 moves the other way. In an attack's list it has to stand before `mix_weights` and `subtract_delta`,
which would otherwise combine rescaled weights with others: what stands last acts first, and a grid with the other order
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import Positive, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.models import Model
from holdfast.network.reshaping import rescale_norms, rescale_pairs
from holdfast.training.contracts import AdaptiveAttacker, OnWeights
from holdfast.training.plan import Context, Plan, Planner

TEXTS = 4
"""The number of prompts on which the function is compared."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Reshape(AdaptiveAttacker):
    """Settings: how the weights are rescaled.

    - `norms`: The factor of the norms' weights, by which the weights that read them are divided; 1 changes nothing.
    - `pairs`: The factor that moves from one linear layer to another within attentions and MLPs; 1 changes nothing.
    """

    norms: Positive = 10.0
    pairs: Positive = field(default=1.0, metadata=OMITTED_AT_DEFAULT)

    ON_WEIGHTS: ClassVar[OnWeights] = "rewrites"
    KNOBS: ClassVar[Mapping[str, Knob]] = {
        "norms": Range(low=0.1, high=10.0, log=True),
        "pairs": Range(low=0.1, high=10.0, log=True),
    }

    def adapt(self, planner: Planner) -> Planner:
        """The attack on the rescaled model."""
        if self.norms == self.pairs == 1:
            return planner

        def adapted(model: Model, context: Context) -> Plan:
            texts = [model.encode_prompt(row.prompt) for row in context.splits.harmful["attack"][:TEXTS]]
            if self.norms != 1:
                rescale_norms(model, self.norms, texts)
            if self.pairs != 1:
                rescale_pairs(model, self.pairs, texts)
            return planner(model, context)

        return adapted
