"""A copy of the model in another number format, as it is passed on after release: is the hardening still there?

Idea: few people run the folder that was released. Copies in bfloat16 and in 8-bit or 4-bit blocks of GGUF files are run
and fine-tuned, and their rounding may undo a small change of the weights, or change what a defense rests on. After
another defense this stage attacks and measures the copy; without one, what rounding alone does.
Equation: `w -> dequantised(quantised(w))`; blocks: `w = scale * integer (+ minimum)`, 32 weights to a scale.
Source: llama.cpp's formats, by its library `gguf`; see `holdfast.network.quantized` for what is quantised.
Differs from the paper in: there is none. Attacks train the dequantised float32 weights; the K-formats of llama.cpp,
calibrated formats (GPTQ, AWQ) and bitsandbytes' are not among these: attack such a file as a model (`docs/harden.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from holdfast.methods.ranges import ranged
from holdfast.network.models import Model
from holdfast.network.releasing import Format, copied
from holdfast.training.contracts import OfflineDefense
from holdfast.training.plan import Context


@dataclass(frozen=True, kw_only=True)
@ranged
class Rounded(OfflineDefense):
    """Settings. `to` is the copy's format: a dtype, or blocks of 8, 5 or 4 bits a weight and their scales.

    The stage trains nothing and has no seed. Its folder is in the copy's own dtype, float32 for dequantised blocks,
    whatever `release` says.
    """

    to: Format = "q4_0"

    SETS_DTYPE: ClassVar[bool] = True

    def harden(self, model: Model, context: Context) -> Model:  # noqa: ARG002 - the protocol's
        """The copy.

        Raises:
            HoldfastError: as `copied`.
        """
        return replace(copied(model, self.to), name=f"{model.name}+rounded")
