"""Losses on states: what they are at known places, what they leave out, where their gradients go."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.losses import representation as losses
from holdfast.losses.language import cross_entropy

B, S, H, V = 3, 6, 8, 11
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 0, 0]])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(low=1, seed=0):
    return torch.randint(low, V, (B, S), generator=torch.Generator().manual_seed(seed))


def test_without_quirks_the_masked_cross_entropy_is_the_plain_one():
    logits, tokens = draw(B, S, V), ids()
    loss = losses.masked_cross_entropy(logits, tokens, MASK)
    torch.testing.assert_close(loss, cross_entropy(logits, tokens, MASK))


def test_token_zero_is_left_out_only_where_asked():
    logits, tokens = draw(B, S, V), ids()
    tokens[0, 3] = 0
    without = MASK.clone()
    without[0, 3] = 0
    expected = losses.masked_cross_entropy(logits, tokens, without)
    assert losses.masked_cross_entropy(logits, tokens, MASK, drop_token_zero=True) == pytest.approx(float(expected))
    assert losses.masked_cross_entropy(logits, tokens, MASK) != pytest.approx(float(expected))


def test_with_zeroed_logits_the_first_token_under_the_mask_costs_a_constant_and_teaches_nothing():
    logits, tokens = draw(B, S, V).requires_grad_(), ids()
    first = torch.zeros_like(MASK)
    first[[0, 1, 2], [2, 3, 1]] = 1
    loss = losses.masked_cross_entropy(logits, tokens, first, zero_unmasked_logits=True)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(V))
    assert not logits.grad.any()


def test_no_target_at_all_costs_nothing():
    assert losses.masked_cross_entropy(draw(B, S, V), ids(), torch.zeros_like(MASK)) == 0


def test_targets_at_chosen_states_are_those_of_the_full_logits():
    head, states, tokens = draw(H, V), draw(B, S, H, seed=1), ids()
    wanted = losses.targets(tokens, MASK)
    loss = losses.target_loss(wanted.before(states) @ head, wanted)
    torch.testing.assert_close(loss, cross_entropy(states @ head, tokens, MASK))


def test_the_ascent_grows_with_every_layers_loss_and_ever_more_slowly():
    three = [torch.tensor(value) for value in (1.0, 2.0, 4.0)]
    assert losses.ascent(three, 2) == pytest.approx(math.log(1 + 7 / 3))
    grown = [losses.ascent([torch.tensor(x)], 0) for x in (1.0, 11.0, 21.0)]
    assert grown[1] - grown[0] > grown[2] - grown[1] > 0


def test_the_discrepancy_of_a_sample_with_itself_is_zero():
    sample = draw(4, 20)
    assert losses.mmd(sample, sample.clone()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_samples_of_one_distribution_in_many_dimensions_differ_by_what_is_documented(count):
    discrepancy = losses.mmd(draw(count, 50_000), draw(count, 50_000, seed=1))
    assert discrepancy == pytest.approx(6.186 / count, rel=0.01)


def test_the_discrepancy_falls_as_one_sample_is_drawn_towards_the_other():
    sample, target = draw(8, 30) * 3 + 2, draw(8, 30, seed=1)
    discrepancies = [float(losses.mmd(sample + share * (target - sample), target)) for share in (0.0, 0.5, 0.9)]
    assert discrepancies == sorted(discrepancies, reverse=True)


@pytest.mark.parametrize("distance", ["mmd", "cosine", "mse"])
@pytest.mark.parametrize("away", [False, True])
def test_positions_outside_of_the_mask_count_for_nothing(distance, away):
    states = draw(B, S, H)
    target = states + 0.3 * draw(B, S, H, seed=1)
    other = torch.where(MASK[..., None] == 1, states, 100 + states).requires_grad_()
    loss = losses.removal(other, target, MASK, distance=distance, away=away)
    loss.backward()
    assert loss.item() == pytest.approx(losses.removal(states, target, MASK, distance=distance, away=away).item())
    assert not other.grad[MASK == 0].any()
    assert other.grad[MASK == 1].any()


@pytest.mark.parametrize("distance", ["mmd", "cosine", "mse"])
def test_towards_is_least_at_the_target_and_away_is_most_there(distance):
    target = draw(B, S, H)
    places = [target + size * draw(B, S, H, seed=2) for size in (0.0, 0.1, 1.0)]
    towards, away = (
        [float(losses.removal(place, target, MASK, distance=distance, away=where)) for place in places]
        for where in (False, True)
    )
    assert towards == sorted(towards)
    assert towards[0] == pytest.approx(0, abs=1e-5)
    assert away == sorted(away, reverse=True)
    assert away[0] == pytest.approx(0 if distance == "mmd" else 1, abs=1e-5)


@pytest.mark.parametrize(("distance", "least"), [("mmd", -10), ("cosine", 0), ("mse", 0)])
def test_getting_away_has_an_end(distance, least):
    target = draw(B, S, H)
    for place in (-target, 100 * draw(B, S, H, seed=3), target * 1e6):
        assert losses.removal(place, target, MASK, distance=distance, away=True) >= least


def test_states_at_right_angles_have_got_away():
    one, other = torch.eye(H)[0].expand(B, S, H), torch.eye(H)[1].expand(B, S, H)
    assert losses.cosine(one, other, MASK, away=True) == 0
    assert losses.cosine(one, -one, MASK, away=True) == 0


def test_half_precision_states_are_compared_in_full():
    states, target = draw(B, S, H).bfloat16(), draw(B, S, H, seed=1).bfloat16()
    for distance in ("mmd", "cosine", "mse"):
        loss = losses.removal(states, target, MASK, distance=distance, away=False)
        assert loss.dtype == torch.float32
        exact = losses.removal(states.float(), target.float(), MASK, distance=distance, away=False)
        torch.testing.assert_close(loss, exact)


def test_the_drift_is_a_mean_length_and_is_diluted_by_padding_only_where_asked():
    states = [draw(B, S, H, seed=i) for i in range(3)]
    moved = [state + 2 * torch.eye(H)[0] for state in states]
    assert losses.drift(moved, states, MASK) == pytest.approx(2.0)
    diluted = losses.drift(moved, states, MASK, count_padding=True)
    assert diluted == pytest.approx(2.0 * float(MASK.float().mean()))


def test_no_drift_at_all_has_a_gradient_of_zero_rather_than_none():
    state = draw(B, S, H).requires_grad_()
    losses.drift([state], [state.detach().clone()], MASK).backward()
    assert torch.equal(state.grad, torch.zeros_like(state))


def test_a_control_vector_is_as_long_as_asked_and_keeps_its_direction():
    draws = torch.rand(4, H, generator=torch.Generator().manual_seed(0))
    vectors = losses.control_vector(draws, 6.5)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.full((4,), 6.5))
    torch.testing.assert_close(torch.cosine_similarity(vectors, draws), torch.ones(4))
