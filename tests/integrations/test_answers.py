"""The answers of a sampling trainer's optimizer step, of a stand-in with its attributes."""

from types import SimpleNamespace

import torch

from holdfast.integrations.answers import sampled


def batch(number, learnt):
    tokens = torch.full((1, 4), number)
    return {"input_ids": tokens, "completion_mask": torch.tensor([[0] * (4 - learnt) + [1] * learnt])}


def trainer(*batches, step=0, iterations=1):
    arguments = SimpleNamespace(steps_per_generation=len(batches) or 2)
    return SimpleNamespace(_buffered_inputs=batches or None, _step=step, args=arguments, num_iterations=iterations)


def test_the_totals_are_those_of_the_whole_step_that_one_rollout_holds():
    held = [batch(5, 1), batch(6, 2), batch(7, 3), batch(8, 3)]
    micro_batch = sampled(trainer(*held, step=3), held[3], place=1, of=2)
    assert micro_batch["input_ids"].tolist() == [[8] * 4]
    assert (float(micro_batch["num_tokens"]), float(micro_batch["num_sequences"])) == (6.0, 2.0)


def test_a_step_over_two_rollouts_or_before_the_first_is_told_with_the_way_out():
    held = [batch(5, 1), batch(6, 2), batch(7, 3)]
    for of in (trainer(*held, step=2), trainer(step=0)):
        told = sampled(of, held[2], place=0, of=2)
        assert told.endswith("set steps_per_generation to a multiple of gradient_accumulation_steps")


def test_inputs_without_marked_answers_say_so():
    assert sampled(trainer(), {"words": torch.ones(1, 2)}, place=0, of=1).startswith("its inputs do not mark answers")
