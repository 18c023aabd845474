"""Representation Removal: any distance with any projection, to compare with the three published methods.

Idea: on harmful answers, move chosen states towards noise or a fixed vector, or away from the original states, while
refusals and benign answers are kept.
Equation: `L = CE(refusal) + beta mean_l d(Z_l, g(Z_l)) - alpha ascent + terms on benign text`, in full in
`holdfast.defenses.representation`.
Source: the form common to RepNoise, Circuit Breakers and RMU in Rosati et al. 2024 (arXiv 2409.12914), which leaves
other distances and projections open.
Differs from the paper in: terms on benign text can be added. The meaning of "away" for distances with which the paper
does not use it is this project's: the negated discrepancy, and a squared distance that is capped at the norm of the
state itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.defenses.representation import Removal, remove
from holdfast.methods.ranges import ranged
from holdfast.network.models import LoRA, Model
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim


@dataclass(frozen=True, kw_only=True)
@ranged
class RepresentationRemoval(OfflineDefense):
    """Settings: the member of the family, and how it is trained. The defaults train as the source trains RepNoise."""

    removal: Removal = field(default_factory=Removal)
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=877, learning_rate=4e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: as `holdfast.defenses.representation.remove`.
        """
        return remove(
            model,
            context,
            removal=self.removal,
            optim=self.optim,
            adapter=self.adapter,
            name="representation_removal",
        )
