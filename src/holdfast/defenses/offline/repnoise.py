"""RepNoise: turn the representations of harmful text into noise, at every layer.

Idea: hidden states that represent harmful text are replaced by noise, so that fine-tuning cannot recover them; harmful
answers are unlearnt at every layer at once, while refusals of the same prompts are learnt.
Equation: `L = CE(refusal) + noise_weight mean_l MMD(Z_l, N(0, I)) - ascent_weight log(1 + mean CE(harmful))`, with
`Z_l` the outputs of the MLPs on the harmful answer, and the last mean over the outputs of the final norm and head for
every layer's states. MMD is the multi-kernel discrepancy between batches.
Source: Rosati et al. 2024 (arXiv 2405.14577), whose code has the quirks of `mode="parity"`; settings from Rosati et
al. 2024 (arXiv 2409.12914).
Differs from the paper in: nothing in `parity` mode except that rows are padded to the longest one of a batch. In this
mode answer tokens are those where the two sequences of a pair differ, token 0 is never a target, the first answer token
costs a constant, and the last state enters the ascent twice (once with the final norm applied twice), although the sum
is divided as if it did not. `clean` mode counts all of each answer's own tokens, and every layer once. `benign_weight`
adds the cross entropy of benign answers, which the paper does not have; at 0 only refusals keep the model from
changing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from holdfast.defenses.representation import Removal, remove
from holdfast.methods.ranges import Count, NonNegative, ranged
from holdfast.network.models import LoRA, Model
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim


@dataclass(frozen=True, kw_only=True)
@ranged
class RepNoise(OfflineDefense):
    """Settings of the defense. The ascent has no upper bound: a run that is too long or has too high a learning rate
    diverges.

    - `mode`: `parity` follows the published code with its quirks, `clean` counts each answer's own tokens and every
      layer once.
    - `noise_weight`: The weight of the distance between hidden states on harmful answers and noise; that of refusals'
      cross entropy is 1.
    - `ascent_weight`: The weight of unlearning harmful answers, the logarithm of their loss over all layers; that of
      refusals' cross entropy is 1.
    - `benign_weight`: The weight of the cross entropy of benign answers, which the paper does not have; at 0 only
      refusals keep the model from changing.
    """

    mode: Literal["parity", "clean"] = "clean"
    noise_weight: NonNegative = 0.001
    ascent_weight: NonNegative = 1.0
    benign_weight: NonNegative = 0.0
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=877, learning_rate=4e-5, per_device_train_batch_size=8)
    )
    adapter: LoRA | None = None
    max_length: Count | None = 1024

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "benign_weight": 1.0,
            "optim": {"max_steps": 150, "learning_rate": 1e-4, "per_device_train_batch_size": 16},
        },
    }

    @property
    def removal(self) -> Removal:
        """The same method as a member of the family."""
        return Removal(
            distance="mmd",
            projection="noise",
            site="mlp",
            removal_weight=self.noise_weight,
            ascent_weight=self.ascent_weight,
            benign_weight=self.benign_weight,
            max_length=self.max_length,
            quirks=self.mode == "parity",
        )

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: as `holdfast.defenses.representation.remove`.
        """
        return remove(model, context, removal=self.removal, optim=self.optim, adapter=self.adapter, name="repnoise")
