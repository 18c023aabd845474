"""A batch in parts of similar length, within a budget of tokens."""

import torch

from holdfast.tensors import collate, with_totals
from holdfast.training.splitting import split


def batch(lengths, **more):
    """A batch of rows of one prompt token and answers of the other tokens, numbered by row."""
    pairs = [([row + 1], [row + 1] * (length - 1)) for row, length in enumerate(lengths)]
    return with_totals([{**collate(pairs, pad_id=0), **more}])[0]


def rows_of(part):
    return (part["input_ids"][:, 0] - 1).tolist()


def test_rows_go_by_length_within_the_budget():
    parts = split(batch([3, 9, 4, 2, 9]), 12)
    assert [rows_of(part) for part in parts] == [[3, 0, 2], [1], [4]]
    assert [part["input_ids"].shape for part in parts] == [(3, 4), (1, 9), (1, 9)]


def test_a_row_longer_than_the_budget_goes_alone():
    assert [rows_of(part) for part in split(batch([3, 50, 3]), 10)] == [[0, 2], [1]]


def test_everything_that_fits_is_one_part_and_every_row_is_there_once():
    assert [rows_of(part) for part in split(batch([3, 2]), 100)] == [[1, 0]]
    lengths = torch.randint(2, 30, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row for part in split(batch(lengths), 60) for row in rows_of(part)]
    assert sorted(rows) == list(range(40))


def test_rows_of_a_group_stay_together_unless_the_group_is_too_large():
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    assert [rows_of(part) for part in split(batch([9, 2, 2, 3, 3, 3], groups=groups), 27)] == [[3, 4, 5], [0, 1, 2]]
    assert [rows_of(part) for part in split(batch([9, 2, 2, 3, 3, 3], groups=groups), 18)] == [[2, 3, 4, 5], [0, 1]]


def test_tokens_are_cut_and_totals_are_those_of_the_whole():
    lengths = [3, 9, 4]
    targets = torch.arange(3 * 8).reshape(3, 8).float()
    whole = batch(lengths, advantages=torch.tensor([1.0, 2.0, 3.0]), old_logprobs=targets, weights=torch.ones(3, 1))
    first, second = split(whole, 10)
    assert torch.equal(first["old_logprobs"], targets[[0, 2], :3])
    assert torch.equal(second["old_logprobs"], targets[[1]])
    assert first["advantages"].tolist() == [1.0, 3.0]
    assert first["weights"].shape == (2, 1)
    assert first["loss_mask"].shape == (2, 4)
    assert float(first["num_tokens"]) == float(second["num_tokens"]) == sum(length - 1 for length in lengths)
    assert float(first["num_sequences"]) == 3
