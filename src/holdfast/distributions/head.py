"""A language-model head as tensors: how logits follow from the hidden states before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Head:
    """`cap tanh(scale (x W' + l B' + b) / cap)`; `V` tokens, `H` hidden size, `r` rank of adapters of the head.

    States are (N, H + r): hidden states `x`, then the adapters' inner states `l`, if there are any. Products are
    computed in `dtype`, as under autocast; statistics of logits in float32 at least.

    Args:
        weight: (V, H).
        bias: (V,).
        low: (V, r), the adapters' outer matrices `B`.
        scale: a constant factor of logits.
        cap: their soft limit.
        dtype: type of the products.
    """

    weight: Tensor
    bias: Tensor | None = None
    low: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    dtype: torch.dtype = torch.float32

    @property
    def vocabulary(self) -> int:
        """The number of tokens V."""
        return int(self.weight.shape[0])

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Its weight, bias and adapters."""
        return self.weight, self.bias, self.low

    def logits(self, states: Tensor, tokens: slice = slice(None)) -> Tensor:
        """Logits (N, v) of the tokens in the slice, from states (N, H + r), in the head's `dtype`."""
        size, dtype = self.weight.shape[1], self.dtype
        bias = None if self.bias is None else self.bias[tokens].to(dtype)
        logits = functional.linear(states[..., :size].to(dtype), self.weight[tokens].to(dtype), bias)
        if self.low is not None:
            logits = logits + states[..., size:].to(dtype) @ self.low[tokens].to(dtype).T
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()

    def before_cap_(self, slopes: Tensor, logits: Tensor) -> Tensor:
        """Derivatives by the products of what has derivatives `slopes` (N, v) by the logits; overwrites `slopes`."""
        if self.cap is not None:
            slopes.mul_(1 - (logits / self.cap).square_())
        return slopes if self.scale == 1 else slopes.mul_(self.scale)
