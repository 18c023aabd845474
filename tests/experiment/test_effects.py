"""How far trained weights moved, and what became of the attack's own objective."""

from types import SimpleNamespace

import pytest
import torch

from holdfast.experiment.effects import Movement, effect_of, movement, sampled, trend
from holdfast.network.models import LoRA, adapt
from holdfast.rl.rollouts import groups_with_gradient


def moved(network, file, change):
    moves = Movement(network=network, folder=file.parent, begins=0)
    moves(SimpleNamespace(phase="start", step=0))
    change()
    moves(SimpleNamespace(phase="end", step=9))
    return moves


def test_the_share_counts_weights_and_the_size_is_that_of_the_change(tmp_path):
    network = torch.nn.Linear(8, 4, bias=False)
    before = network.weight.detach().clone()

    def change():
        with torch.no_grad():
            network.weight[0] += 1.0

    movement = moved(network, tmp_path / "training" / "start.safetensors", change)
    assert movement.moved == 8 / 32
    assert movement.change == pytest.approx(8**0.5 / float(before.norm()), rel=1e-5)


def test_what_did_not_move_moved_by_nothing(tmp_path):
    movement = moved(torch.nn.Linear(8, 4), tmp_path / "start.safetensors", lambda: None)
    assert (movement.moved, movement.change) == (0.0, 0.0)


def test_a_step_below_the_spacing_of_the_weights_moves_none_of_them(tmp_path):
    network = torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        network.weight.copy_(network.weight.sign() * 0.5)

    def step():
        with torch.no_grad():
            network.weight -= 1e-5

    assert moved(network, tmp_path / "start.safetensors", step).moved == 0


def test_of_an_adapter_its_own_weights_are_compared(tiny_model, tmp_path):
    network = adapt(tiny_model(), LoRA(r=2)).network
    assert all("lora_" in name for name in sampled(network))

    def change():
        with torch.no_grad():
            next(p for name, p in network.named_parameters() if "lora_B" in name).add_(1.0)

    movement = moved(network, tmp_path / "start.safetensors", change)
    assert 0 < movement.moved < 0.5


def test_of_many_weights_evenly_spaced_ones_stand_for_all(tiny_model):
    network = tiny_model().network
    total = sum(p.numel() for p in network.parameters())
    few = sampled(network, most=10_000)
    assert set(few) == set(sampled(network))
    assert total / 100 < sum(t.numel() for t in few.values()) < 12_000
    assert sum(t.numel() for t in sampled(network).values()) == total


def test_a_sample_has_the_share_of_all(tmp_path):
    from safetensors.torch import save_file

    network = torch.nn.Linear(512, 512, bias=False)
    save_file(sampled(network, most=5_000), tmp_path / "start.safetensors")
    with torch.no_grad():
        network.weight[:, :128] += 1.0
    share, _ = movement(tmp_path / "start.safetensors", network, most=5_000)
    assert share == pytest.approx(0.25, abs=0.02)


def test_a_run_that_goes_on_compares_with_where_it_began(tmp_path):
    network = torch.nn.Linear(4, 4)
    first = Movement(network=network, folder=tmp_path, begins=0, every=2)
    first(SimpleNamespace(phase="start", step=0))
    with torch.no_grad():
        network.weight += 1.0
    for step in (1, 2, 4):
        first(SimpleNamespace(phase="step", step=step))
    again = Movement(network=network, folder=tmp_path, begins=0, every=2)
    again(SimpleNamespace(phase="start", step=3))
    assert set(again.seen) == {2}
    again(SimpleNamespace(phase="end", step=9))
    assert again.moved == 16 / 20


def test_an_attacker_who_puts_the_first_weights_back_had_moved_them(tmp_path):
    network = torch.nn.Linear(4, 4)
    first = {name: p.detach().clone() for name, p in network.named_parameters()}
    moves = Movement(network=network, folder=tmp_path, begins=0, every=2)
    moves(SimpleNamespace(phase="start", step=0))
    with torch.no_grad():
        network.weight += 1.0
    moves(SimpleNamespace(phase="step", step=2))
    network.load_state_dict(first)
    moves(SimpleNamespace(phase="end", step=3))
    assert (moves.moved, moves.change) == (16 / 20, 0.0)


def test_weights_that_are_no_numbers_have_no_size(tmp_path):
    network = torch.nn.Linear(4, 4)

    def ruin():
        with torch.no_grad():
            network.weight.fill_(float("nan"))

    movement = moved(network, tmp_path / "start.safetensors", ruin)
    assert (movement.moved, movement.change) == (16 / 20, None)


@pytest.mark.parametrize(
    ("values", "rising", "improved"),
    [
        ([2.0, 1.9, 1.0, 0.5, 0.4], False, True),
        ([0.1, 0.1, 0.4, 0.8, 0.9], True, True),
        ([0.4, 0.5, 1.0, 1.9, 2.0], False, False),
        ([1.0, 1.4, *[1.2] * 6, 1.0, 1.3], False, False),
    ],
)
def test_an_objective_improved_where_it_is_better_by_more_than_the_noise(values, rising, improved):
    first, last, better = trend(values, rising=rising)
    stretch = len(values) // 5
    assert (first, last) == (sum(values[:stretch]) / stretch, sum(values[-stretch:]) / stretch)
    assert better is improved


def test_of_a_guided_attack_the_models_own_answers_count():
    lines = [{"step": 1, "reward": 0.9, "own_reward": 0.1}, {"step": 2, "reward": 0.9, "own_reward": 0.2}]
    effect = effect_of(lines, learns_from="rewards")
    assert (effect.objective, effect.first, effect.last) == ("reward", 0.1, 0.2)
    assert effect_of([], learns_from="answers").objective is None
    assert effect_of([{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}]).first == 1.0


def test_a_group_has_a_gradient_where_any_of_its_answers_has_an_advantage():
    advantages = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0, 0.5])
    assert float(groups_with_gradient(advantages, 2)) == pytest.approx(2 / 3)
    assert float(groups_with_gradient(advantages[:, None].expand(6, 4), 3)) == 1.0
