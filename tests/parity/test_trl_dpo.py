"""Holdfast's DPO loss, its gradients and the pairs it orders rightly equal TRL's DPOTrainer's on identical rows.

Each side gets the rows as text and does everything itself: tokens, the end of an answer, cutting, padding, masks, the
reference's log-probabilities, the loss.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trl_parity import END, KINDS, assert_same, plain_settings, small_model, text

from holdfast.attacks.dpo import pairs, preference
from holdfast.data.mixing import flip
from holdfast.network.models import Model, clone
from holdfast.records import Example, user
from holdfast.tensors import with_totals
from holdfast.training.plan import Reference, adapter_off, frozen_copy

pytest.importorskip("trl")
ROWS = [
    ([5, 6, 7], [11, 12, 13], [14]),
    ([5, 6, 7], [14], [15, 16, 17, 18, 19, 20, 21, 22, 23]),
    ([8, 9, 10, 30, 31, 32], [24, 25, 26, 27, 28], [24, 25]),
    ([8], [40, 41, 42, 43, 44, 45, 46, 47, 48], [24, 24, 40]),
]
CUT = 8
"""A longest length that cuts some answers, and of some prompts both."""


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return small_model(request.param)


@pytest.fixture
def policy_and_reference(model: Model) -> tuple[Model, Reference, Any]:
    """A policy away from its reference, that reference for Holdfast, and TRL's: the adapter off where there is one."""
    if hasattr(model.network, "disable_adapter"):
        return model, adapter_off, None
    policy = clone(model)
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return policy, frozen_copy(model.network), copy.deepcopy(model.network)


def dpo_trainer(policy: Model, reference: Any, folder: Path, beta: float, max_length: int | None) -> Any:
    """TRL's DPO trainer on a copy of the policy."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": text(p) + " ", "chosen": text([*good, END]), "rejected": text([*bad, END])} for p, good, bad in ROWS
    ]
    trainer = DPOTrainer(
        model=copy.deepcopy(policy.network),
        ref_model=reference,
        args=DPOConfig(
            **plain_settings(folder), beta=beta, max_length=max_length, per_device_train_batch_size=len(ROWS)
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )
    if reference is None:
        # TRL takes a copy of an adapter that it is given for the reference; without it, the adapter switched off.
        trainer.model.delete_adapter("ref")
    trainer.model.train()
    return trainer


def examples() -> list[Example]:
    return [Example(prompt=user(text(p)), chosen=text(good), rejected=text(bad)) for p, good, bad in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [None, CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_dpo_loss_and_its_gradients_equal_trls(
    policy_and_reference: tuple[Model, Reference, Any], tmp_path: Path, beta: float, max_length: int | None
) -> None:
    policy, reference, theirs = policy_and_reference
    trainer = dpo_trainer(policy, theirs, tmp_path, beta, max_length)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    their_loss = trainer.compute_loss(trainer.model, dict(batch))

    (ours,) = with_totals(pairs(reference, max_length=max_length)(policy, [examples()], 0))
    loss, metrics = preference(beta)(policy.network.train(), ours)

    longest = max(len(p) + max(len(good), len(bad)) + 1 for p, good, bad in ROWS)
    assert ours["input_ids"].shape[1] == min(longest, max_length or longest)
    assert 0 < metrics["preferred"] < 1
    assert metrics["preferred"] == pytest.approx(trainer._metrics["train"]["rewards/accuracies"][-1])
    assert_same(policy.network, loss, trainer.model, their_loss)


@pytest.mark.slow
def test_turned_round_pairs_are_the_loss_of_trl_with_the_columns_exchanged(
    policy_and_reference: tuple[Model, Reference, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reference, theirs = policy_and_reference
    monkeypatch.setitem(globals(), "ROWS", [(p, bad, good) for p, good, bad in ROWS])
    trainer = dpo_trainer(policy, theirs, tmp_path, 0.1, None)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    their_loss = trainer.compute_loss(trainer.model, dict(batch))
    monkeypatch.undo()

    flipped = flip(examples(), 1.0, seed=0)
    (ours,) = with_totals(pairs(reference, max_length=None)(policy, [flipped], 0))
    loss, _ = preference(0.1)(policy.network.train(), ours)

    assert_same(policy.network, loss, trainer.model, their_loss)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_loss_and_gradient_of_the_whole(
    policy_and_reference: tuple[Model, Reference, Any],
) -> None:
    policy, reference, _ = policy_and_reference
    prepare, objective = pairs(reference, max_length=None), preference(0.1)
    parts = with_totals(prepare(policy, [examples()[:3], examples()[3:]], 0))
    (whole,) = with_totals(prepare(policy, [examples()], 0))
    twin = replace(policy, network=copy.deepcopy(policy.network))

    loss = torch.stack([objective(policy.network, part)[0] for part in parts]).sum()

    assert_same(policy.network, loss, twin.network, objective(twin.network, whole)[0])
