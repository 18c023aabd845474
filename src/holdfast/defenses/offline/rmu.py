"""RMU: steer hidden states on harmful text to one fixed random vector.

Idea: on harmful text the states that later layers receive are replaced by one constant vector with a larger norm than
usual states; states on benign text are kept. Only a few tensors up to that layer are trained.
Equation: with `u` uniform in `[0, 1)^H` and normalised, one per domain, and `a` the states of one layer,
    `L = mean (a_harmful - c u)^2 + alpha mean (a_benign - a'_benign)^2`   (`form="reference"`)
    `L = CE(refusal) + mean (a_harmful - c u)^2 - ascent_weight ascent`   (`form="rpa"`)
Source: Li et al. 2024 (arXiv 2403.03218) and its code, its settings for a model of 7B; the second form is that of
Rosati et al. 2024 (arXiv 2409.12914), with full fine-tuning.
Differs from the paper in: layer 8 of 32 is given as a share of the depth; trained tensors are chosen by name, since
their index in a layer depends on the architecture; padding counts in neither term; rows are prompts with answers, cut
at 512 tokens, where the code has plain texts (benign ones from Wikitext) and 768 tokens for its second domain;
optimizer and loop are this project's, where the code adds `epsilon` before the bias correction. `c` and `alpha` are the
same for all domains. Layers, weights and length of the second form are not published: they are the layer of the first
form, weights 1, and the length at which the same authors train RepNoise.

`c` must exceed the usual norm of states at that layer, or the vector does not dominate them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from holdfast.defenses.representation import Removal, remove
from holdfast.methods.ranges import Count, NonNegative, Positive, PositiveShare, ranged
from holdfast.network.models import LoRA, Model
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim

MLP_OUTPUTS = (
    *("mlp.down_proj.weight", "mlp.c_proj.weight", "mlp.fc2.weight", "mlp.dense_4h_to_h.weight"),
    *("feed_forward.down_proj.weight", "feed_forward.w2.weight", "mlp_block.down_proj.weight", "mlp.fc_out.weight"),
    *("ffn.down_proj.weight", "shared_mlp.output_linear.weight", "shared_expert.down_proj.weight"),
    *("shared_experts.down_proj.weight", "experts.down_proj"),
)
"""Name endings of the tensors that compute an MLP's output, in a mixture those of all experts."""


@dataclass(frozen=True, kw_only=True)
@ranged
class RMU(OfflineDefense):
    """Settings of the defense.

    - `form`: `reference` is the loss of the paper and its code, which trains a few tensors; `rpa` is Rosati et al.'s,
      which adds the cross entropy of refusals and the unlearning of harmful answers, and trains the whole model.
    - `vector_length`: The norm of the random vector to which states on harmful text are steered; it must exceed the
      usual norm of states at that layer. Each domain has its own vector.
    - `alpha`: In the reference form, the weight of keeping states on benign text, for all domains.
    - `ascent_weight`: In the form `rpa`, the weight of unlearning harmful answers.
    - `benign_weight`: The weight of the cross entropy of benign answers, an addition to both forms.
    - `depth`: The layer whose states are steered, as a share of the depth: 0.25 is layer 8 of 32.
    - `positions`: The tokens whose states count: the answer's, or all with the prompt's.
    - `alternate_domains`: Whether each step trains on one domain in turn, instead of on rows of all.
    - `trained`: Endings of the names of the tensors that the reference form trains (those that compute an MLP's
      output), in the last layers up to the steered one. An adapter, if any, is on these.
    - `trained_layers`: The number of layers, up to the steered one, in which these tensors are trained.
    """

    form: Literal["reference", "rpa"] = "reference"
    vector_length: Positive = 6.5
    alpha: NonNegative = 1200.0
    ascent_weight: NonNegative = 1.0
    benign_weight: NonNegative = 0.0
    depth: PositiveShare = 8 / 32
    positions: Literal["answer", "all"] = "all"
    alternate_domains: bool = True
    trained: tuple[str, ...] = MLP_OUTPUTS
    trained_layers: Count = 3
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=150, learning_rate=5e-5, per_device_train_batch_size=4)
    )
    adapter: LoRA | None = None
    max_length: Count | None = 512

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "form": "rpa",
            "positions": "answer",
            "depth": 1.0,
            "benign_weight": 1.0,
            "optim": {"max_steps": 150, "learning_rate": 1e-4, "per_device_train_batch_size": 16},
        },
        "code": {"vector_length": 20.0, "alpha": 100.0, "optim": {"max_steps": 80}},
        "zephyr-7b": {"vector_length": 6.5, "alpha": 1200.0, "optim": {"max_steps": 150}},
        "yi-34b": {
            "depth": 16 / 60,
            "vector_length": 300.0,
            "alpha": 350.0,
            "optim": {"max_steps": 400, "per_device_train_batch_size": 2},
        },
        "rpa": {
            "form": "rpa",
            "optim": {"max_steps": 877, "learning_rate": 4e-5, "per_device_train_batch_size": 8},
        },
    }

    @property
    def removal(self) -> Removal:
        """The same method as a member of the family."""
        reference = self.form == "reference"
        return Removal(
            distance="mse",
            projection="fixed",
            site="layer",
            depths=(self.depth,),
            positions=self.positions,
            vector_length=self.vector_length,
            alternate_domains=self.alternate_domains,
            refusal_weight=0.0 if reference else 1.0,
            ascent_weight=0.0 if reference else self.ascent_weight,
            retain_weight=self.alpha if reference else 0.0,
            retain="mse",
            benign_weight=self.benign_weight,
            trained=self.trained if reference else (),
            trained_layers=self.trained_layers if reference else None,
            max_length=self.max_length,
        )

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: as `holdfast.defenses.representation.remove`.
        """
        return remove(model, context, removal=self.removal, optim=self.optim, adapter=self.adapter, name="rmu")
