"""Circuit Breakers: make hidden states on harmful text orthogonal to the original ones.

Idea: on harmful text, the states of chosen layers lose their similarity to the original model's; on benign text all
states are kept.
Equation: with `p = handover * step / max_steps` and `Z'` the original's states,
    `L = alpha (1 - p) mean_l relu(cos(Z_l, Z'_l)) + alpha p mean_l |Z_l - Z'_l|`
the first term on harmful, the second on benign text (`form="reference"`); or `form="rpa"`,
    `L = CE(refusal) + mean_l relu(cos(Z_l, Z'_l)) - ascent_weight ascent`.
Source: Zou et al. 2024 (arXiv 2406.04313) and its code, with an adapter; the second form is that of Rosati et al. 2024
(arXiv 2409.12914), with full fine-tuning.
Differs from the paper in: layers 10 and 20 of 32 are given as shares of the depth, and the schedule follows the number
of steps (the code's 300 is twice the 150 steps it trains for). States are retained at every layer of the whole model,
where the code cuts it off above the adapter, and are averaged over tokens, without padding; `jitter` is this project's.
Harmful and benign text is the data's. Layers, weights and length of the second form are not published: they are the
layers of the first form, weights 1, and the length at which the same authors train RepNoise. In a mixture of experts an
adapter cannot have dropout on experts, and no settings are published for it: the default dropout is refused there with
a message, and `adapter: {lora_dropout: 0}` trains without any.

Training starts exactly at the states that it is to move away from. There the gradient of either form's distance is only
rounding error, which Adam amplifies to full steps; `jitter` makes the first step the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from holdfast.defenses.representation import Removal, remove
from holdfast.methods.ranges import Count, NonNegative, PositiveShare, ranged
from holdfast.network.models import LoRA, Model
from holdfast.records import HoldfastError
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim


@dataclass(frozen=True, kw_only=True)
@ranged
class CircuitBreakers(OfflineDefense):
    """Settings of the defense.

    - `form`: `reference` is the loss of the paper and its code, two terms on hidden states with an adapter; `rpa` is
      Rosati et al.'s, which adds the cross entropy of refusals and the unlearning of harmful answers, with full
      fine-tuning (`adapter: null`).
    - `alpha`: The weight of both terms of the reference form (the code has 10 for Llama 8B, 5 for Mistral 7B).
    - `ascent_weight`: In the form `rpa`, the weight of unlearning harmful answers.
    - `benign_weight`: The weight of the cross entropy of benign answers, an addition to both forms.
    - `depths`: The layers whose states count, as shares of the depth: 0.5 is the middle layer, 1 the last.
    - `positions`: The tokens whose states count: the answer's, or all with the prompt's.
    - `handover`: In the reference form, the share of the weight that has moved from harmful to benign text by the last
      step.
    - `jitter`: The size of noise added to the original's states, relative to their norm: training starts exactly at
      them, where the gradient is only rounding error, and this makes the first step the same on every machine.
    - `adapter`: The low-rank adapter that is trained and then merged; `None` trains all weights.
    """

    form: Literal["reference", "rpa"] = "reference"
    alpha: NonNegative = 10.0
    ascent_weight: NonNegative = 1.0
    benign_weight: NonNegative = 0.0
    depths: tuple[PositiveShare, ...] = (10 / 32, 20 / 32)
    positions: Literal["answer", "all"] = "all"
    handover: PositiveShare = 0.5
    jitter: NonNegative = 1e-3
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=150, learning_rate=1e-4, per_device_train_batch_size=16)
    )
    adapter: LoRA | None = field(default_factory=lambda: LoRA(r=16, lora_alpha=16, lora_dropout=0.05))
    max_length: Count | None = 1024

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "form": "rpa",
            "adapter": None,
            "positions": "answer",
            "benign_weight": 1.0,
            "optim": {"max_steps": 150, "learning_rate": 5e-5, "per_device_train_batch_size": 16},
        },
        "llama": {"alpha": 10.0},
        "mistral": {"alpha": 5.0},
        "rpa": {
            "form": "rpa",
            "adapter": None,
            "optim": {"max_steps": 877, "learning_rate": 4e-5, "per_device_train_batch_size": 8},
        },
    }

    def __post_init__(self) -> None:
        if not self.depths:
            raise HoldfastError("depths: is empty; name the layers as shares of the depth, such as [0.3, 0.6]")

    @property
    def removal(self) -> Removal:
        """The same method as a member of the family."""
        reference = self.form == "reference"
        return Removal(
            distance="cosine",
            projection="original",
            site="layer",
            depths=self.depths,
            positions=self.positions,
            jitter=self.jitter,
            removal_weight=self.alpha if reference else 1.0,
            refusal_weight=0.0 if reference else 1.0,
            ascent_weight=0.0 if reference else self.ascent_weight,
            retain_weight=self.alpha if reference else 0.0,
            benign_weight=self.benign_weight,
            handover=self.handover if reference else None,
            trained_layers=0 if reference and self.adapter else None,
            max_length=self.max_length,
        )

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: as `holdfast.defenses.representation.remove`.
        """
        return remove(
            model, context, removal=self.removal, optim=self.optim, adapter=self.adapter, name="circuit_breakers"
        )
