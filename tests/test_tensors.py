"""Masks, the shift between logits and targets, log-probabilities, entropy, padding, totals."""

import math

import pytest
import torch

from entropies import token_entropy
from holdfast.network.forward import forward
from holdfast.tensors import (
    collate,
    distinct_rows,
    masked_mean,
    masked_mean_per_sequence,
    num_targets,
    pad_left,
    pad_right,
    target_mask,
    token_logprobs,
    with_totals,
)

PAIRS = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9]), ([5, 6], [7])]


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_next_token():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    logprobs = token_logprobs(logits, tokens)
    assert logprobs.shape == (2, 4)
    for row in range(2):
        for place in range(4):
            expected = logits[row, place].log_softmax(-1)[tokens[row, place + 1]]
            torch.testing.assert_close(logprobs[row, place], expected)


def test_log_probabilities_of_half_precision_logits_are_float32():
    assert token_logprobs(torch.randn(1, 3, 4).bfloat16(), torch.zeros(1, 3, dtype=torch.long)).dtype == torch.float32


def test_uniform_logits_have_entropy_ln_v():
    assert token_entropy(torch.full((1, 3, 11), -2.5)).tolist() == [pytest.approx([math.log(11)] * 2)]


def test_one_hot_logits_have_entropy_zero():
    logits = torch.zeros(1, 3, 11)
    logits[..., 4] = 1e4
    assert token_entropy(logits).tolist() == [[0.0, 0.0]]


def test_entropy_of_three_quarters_to_one_quarter():
    """-(3/4 ln 3/4 + 1/4 ln 1/4) = 0.5623 nats."""
    assert token_entropy(torch.tensor([[[math.log(3), 0.0]] * 2])).item() == pytest.approx(0.5623, abs=1e-4)


@pytest.mark.parametrize("filler", [math.inf, -math.inf, math.nan])
def test_masked_means_look_at_nothing_that_is_masked_out(filler):
    values = torch.tensor([[1.0, filler], [3.0, 8.0], [filler, filler]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert masked_mean(values, mask).item() == 4.0
    assert masked_mean(values, mask, torch.tensor(6.0)).item() == 2.0
    assert masked_mean_per_sequence(values, mask).tolist() == [1.0, 5.5, 0.0]
    assert masked_mean(values, mask * 0).item() == 0.0


def test_what_is_masked_out_gets_no_gradient():
    values = torch.tensor([[2.0, math.inf]], requires_grad=True)
    masked_mean(values, torch.tensor([[1.0, 0.0]])).backward()
    assert values.grad.tolist() == [[1.0, 0.0]]


def test_padding_goes_to_the_named_side():
    assert pad_right([[1, 2], [3]], 0).tolist() == [[1, 2], [3, 0]]
    tokens, mask = pad_left([[1, 2], [3]], 0)
    assert tokens.tolist() == [[1, 2], [0, 3]]
    assert mask.tolist() == [[1, 1], [0, 1]]


def test_collated_masks_cover_the_answers_and_lengths_the_real_tokens():
    batch = collate(PAIRS, pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]
    assert batch["loss_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    assert batch["lengths"].tolist() == [5, 5, 3]


def test_targets_are_the_answer_tokens():
    batch = collate(PAIRS, pad_id=0)
    assert num_targets(batch).item() == sum(len(answer) for _, answer in PAIRS)
    targets = batch["input_ids"][:, 1:][target_mask(batch["loss_mask"]).bool()]
    assert targets.tolist() == [token for _, answer in PAIRS for token in answer]


def test_every_batch_of_a_step_knows_the_totals_of_all():
    batches = with_totals([collate(PAIRS[:1], pad_id=0), collate(PAIRS[1:], pad_id=0)])
    assert [batch["num_tokens"].item() for batch in batches] == [7, 7]
    assert [batch["num_sequences"].item() for batch in batches] == [3, 3]


def test_totals_leave_the_given_batches_as_they_are():
    batch = collate(PAIRS, pad_id=0)
    with_totals([batch])
    assert set(batch) == {"input_ids", "loss_mask", "lengths"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_right_padding_changes_no_logit_of_a_real_token(architecture, tiny_model):
    network = tiny_model(architecture).network
    alone, padded = torch.tensor([[9, 8, 7]]), torch.tensor([[9, 8, 7, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(
            forward(network, {"input_ids": padded})[:, :3], forward(network, {"input_ids": alone}), atol=1e-5, rtol=1e-4
        )


def grouped():
    """Three prompts with one, two and three answers, in the shape that experience has."""
    prompts = [[4, 9, 8, 7, 11], [4, 9, 8], [4, 12, 13, 14, 15, 16]]
    rows = [(prompts[group], [20 + i, 30, 31][: 1 + i % 3]) for i, group in enumerate((0, 1, 1, 2, 2, 2))]
    batch = collate(rows, pad_id=0)
    return batch, {**batch, "groups": torch.tensor([0, 1, 1, 2, 2, 2])}


def answer_logprobs(network, batch, plain):
    logits = forward(network, batch)
    return token_logprobs(logits, plain["input_ids"]) * target_mask(plain["loss_mask"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
@pytest.mark.parametrize("training", [True, False])
def test_reading_a_groups_prompt_once_changes_neither_logits_nor_gradients(architecture, training, tiny_model):
    plain, shared = grouped()
    runs = []
    for batch in (plain, shared):
        network = tiny_model(architecture).network.train(training)
        logprobs = answer_logprobs(network, batch, plain)
        (logprobs * torch.arange(6.0)[:, None]).sum().backward()
        runs.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    torch.testing.assert_close(runs[1][0], runs[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs[1][1], runs[0][1], atol=1e-4, rtol=1e-4)


def test_groups_are_read_whole_where_layers_are_computed_again(tiny_model):
    plain, shared = grouped()
    network = tiny_model().network.train()
    expected = answer_logprobs(network, plain, plain)
    getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
    torch.testing.assert_close(answer_logprobs(network, shared, plain), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error:`is_gradient_checkpointing` is deprecated")
def test_reading_groups_asks_for_nothing_deprecated(tiny_model):
    _, shared = grouped()
    assert forward(tiny_model().network.train(), shared).isfinite().all()


def test_groups_without_some_of_their_rows_are_read_as_before(tiny_model):
    plain, shared = grouped()
    rows = torch.tensor([0, 2, 3, 5])
    network = tiny_model().network
    kept_plain, kept = ({name: value[rows] for name, value in batch.items()} for batch in (plain, shared))
    with torch.no_grad():
        torch.testing.assert_close(
            answer_logprobs(network, kept, plain=kept_plain), answer_logprobs(network, kept_plain, kept_plain)
        )


def test_logprobs_and_entropies_are_no_less_exact_than_their_logits() -> None:
    logits = torch.randn(2, 3, 7)
    tokens = torch.randint(7, (2, 3))
    for given, computed in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        assert token_logprobs(logits.to(given), tokens).dtype == computed
        assert token_entropy(logits.to(given)).dtype == computed


def test_distinct_rows_are_the_batchs_own_at_their_places():
    pairs = [([1, 2], [3]), ([1, 2], [3, 0]), ([1, 2], [3]), ([1], [2, 3]), ([1, 2], [3, 0])]
    batch = collate(pairs, pad_id=0) | {"groups": torch.tensor([0, 0, 0, 1, 2])}
    distinct, place = distinct_rows(batch)
    assert place.tolist() == [0, 1, 0, 2, 1]
    assert distinct["groups"].tolist() == [0, 0, 1]
    for name in ("input_ids", "loss_mask", "lengths"):
        assert torch.equal(distinct[name][place], batch[name])
