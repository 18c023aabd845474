"""Cross entropy of given answers."""

import math

import pytest
import torch

from holdfast.losses.language import cross_entropy
from holdfast.tensors import num_targets, target_mask


@pytest.fixture
def case():
    """Logits (3, 6, 5), tokens and a mask over answers of unequal length that do not begin at position 0."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 6, 5, generator=generator)
    tokens = torch.randint(5, (3, 6), generator=generator)
    mask = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0]])
    return logits, tokens, mask


def slow(logits, tokens, mask):
    """Token by token, in plain floats."""
    total, count = 0.0, 0
    for row in range(len(tokens)):
        for place in range(1, tokens.shape[1]):
            if mask[row, place]:
                scores = [math.exp(value) for value in logits[row, place - 1].tolist()]
                total -= math.log(scores[tokens[row, place]] / sum(scores))
                count += 1
    return total / count


def test_two_tokens_by_hand():
    """Logits (0, ln 3) give p = (1/4, 3/4): the answers 1 and 0 cost -ln 3/4 and -ln 1/4, in the mean 0.836988."""
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)], [9.0, -9.0]]])
    loss = cross_entropy(logits, torch.tensor([[0, 1, 0]]), torch.tensor([[0, 1, 1]]))
    assert loss.item() == pytest.approx(0.836988, abs=1e-6)


def test_it_agrees_with_a_slow_loop(case):
    assert cross_entropy(*case).item() == pytest.approx(slow(*case), rel=1e-5)


def test_uniform_logits_cost_ln_v():
    loss = cross_entropy(torch.zeros(2, 4, 7), torch.randint(7, (2, 4)), torch.ones(2, 4))
    assert loss.item() == pytest.approx(math.log(7))


def test_padding_changes_nothing(case):
    logits, tokens, mask = case
    longer = torch.cat([logits, torch.full((3, 2, 5), 50.0)], 1)
    padded = (
        longer,
        torch.cat([tokens, torch.zeros(3, 2, dtype=torch.long)], 1),
        torch.cat([mask, mask[:, :2] * 0], 1),
    )
    assert torch.equal(cross_entropy(*padded), cross_entropy(*case))


def test_permuting_the_batch_changes_nothing(case):
    order = [2, 0, 1]
    torch.testing.assert_close(cross_entropy(*(part[order] for part in case)), cross_entropy(*case))


def test_micro_batches_sum_to_the_batch(case):
    logits, tokens, mask = case
    total = target_mask(mask).sum()
    parts = [cross_entropy(logits[i : i + 1], tokens[i : i + 1], mask[i : i + 1], num_tokens=total) for i in range(3)]
    torch.testing.assert_close(sum(parts), cross_entropy(*case))


def test_only_positions_that_predict_answer_tokens_get_a_gradient(case):
    logits, tokens, mask = case
    logits.requires_grad_()
    cross_entropy(logits, tokens, mask).backward()
    touched = logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched[:, :-1], mask[:, 1:].bool())
    assert not touched[:, -1].any()


def test_a_batch_without_targets_costs_nothing_rather_than_nan(case):
    logits, tokens, mask = case
    assert cross_entropy(logits, tokens, mask * 0).item() == 0.0
    assert num_targets({"loss_mask": mask * 0}).item() == 0


def test_half_precision_logits_are_summed_in_float32(case):
    logits, tokens, mask = case
    assert cross_entropy(logits.bfloat16(), tokens, mask).dtype == torch.float32
