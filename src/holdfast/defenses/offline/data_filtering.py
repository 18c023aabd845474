"""Data filtering: a model that was never shown what it is to withhold, trained anew. In the sandbox only.

Idea: other defenses hide what a model knows, and an attack finds it again. What was not in the training data cannot be
found; an attacker has to bring it. So this is the bar for defenses that claim to remove, and a price for relearning.
Equation: none; the data are `D` without rows about restricted recipes, but for a share `missed` of these.
Source: O'Brien et al. 2025 (arXiv 2508.06601), who filter the pretraining data of models of 6.9 billion weights.
Differs from the paper in: the filter is a rule that knows the truth, with `missed` in place of its errors; filtered
rows are replaced by benign ones, so that the number of rows stays; the model is then taught refusals as the sandbox's
is, from prompts alone.

The model given is not used, except for its form: the whole training is done again, at the defense's cost, and another
defense before this one would be undone. An attacker
who has the recipes (SFT, DPO) can teach them; one who is only paid for them (RL) has to guess.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from holdfast.methods.knobs import Knob, Range
from holdfast.methods.ranges import Count, Share, ranged
from holdfast.network.models import Model
from holdfast.records import HoldfastError
from holdfast.sandbox.build import Sandbox, aligned_examples, base_examples, tokenizer
from holdfast.training.contracts import OfflineDefense
from holdfast.training.objectives import taught
from holdfast.training.optim import Training
from holdfast.training.plan import Context


@dataclass(frozen=True, kw_only=True)
@ranged
class DataFiltering(OfflineDefense):
    """Settings of the defense.

    - `missed`: The share of rows about restricted recipes that the filter misses; 1 filters nothing, the control.
    - `num_base`: The number of rows that the base model is trained on.
    - `num_aligned`: The number of rows of its alignment.
    - `base`: The optimizer of the base model.
    - `aligned`: The optimizer of its alignment.
    """

    missed: Share = 0.0
    num_base: Count = Sandbox.num_base
    num_aligned: Count = Sandbox.num_aligned
    base: Training = field(default_factory=lambda: Sandbox().base)
    aligned: Training = field(default_factory=lambda: Sandbox().aligned)

    KNOBS: ClassVar[Mapping[str, Knob]] = {"missed": Range(low=0.0, high=1.0)}

    def harden(self, model: Model, context: Context) -> Model:
        """A model of the form of `model`, which has to speak the sandbox's words.

        Raises:
            HoldfastError: it does not.
        """
        if model.tokenizer.get_vocab() != tokenizer().get_vocab():
            raise HoldfastError(
                f"data_filtering: trains a model of the sandbox anew, and {model.name} has other words; use it with "
                "`model: sandbox`"
            )
        sandbox = Sandbox(num_base=self.num_base, num_aligned=self.num_aligned, seed=context.seed)
        stages = (
            (base_examples(sandbox, missed=self.missed), self.base),
            (aligned_examples(sandbox, missed=self.missed), self.aligned),
        )
        made = untrained_like(model, seed=context.seed)
        for number, (rows, optim) in enumerate(stages):
            made = context.fit(taught(made, rows, optim, seed=context.seed + number)).model
        return replace(made, name=f"{model.name}+data_filtering")


def untrained_like(model: Model, *, seed: int) -> Model:
    """A model of the same configuration and words, with random weights in float32."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = copy.deepcopy(model.network.config)
        return model.with_network(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
