"""The language-modelling loss: cross entropy of given answers."""

from __future__ import annotations

from torch import Tensor

from holdfast.tensors import masked_mean, target_mask, token_logprobs


def cross_entropy(logits: Tensor, input_ids: Tensor, loss_mask: Tensor, *, num_tokens: Tensor | None = None) -> Tensor:
    """Mean over answer tokens of `-log p(token)`, a scalar.

    Args:
        logits: (B, S, V).
        input_ids: (B, S).
        loss_mask: (B, S), 1 on the tokens to learn.
        num_tokens: the divisor, by default the batch's own number of masked targets.
    """
    return masked_mean(-token_logprobs(logits, input_ids), target_mask(loss_mask), num_tokens)
