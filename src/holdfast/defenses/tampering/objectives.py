"""TAR's tamper-resistance losses and its retain loss (arXiv 2408.00761)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.attacks.dpo import pairs
from holdfast.attacks.dpo import preference as preference_objective
from holdfast.data.endless import endless
from holdfast.data.mixing import preferences
from holdfast.defenses.tampering.attackers import Probe
from holdfast.defenses.tampering.tensor_store import Place, TensorStore
from holdfast.distributions import Entropy, LogProb
from holdfast.losses.tamper import max_entropy, random_mapping, representation_distance
from holdfast.network.forward import distributions_and_states, forward, hidden_states, target_distributions
from holdfast.network.generate import evaluating
from holdfast.network.models import Model, clone, has_adapter
from holdfast.network.precision import reading
from holdfast.records import Example
from holdfast.tensors import Batch, masked_mean, target_mask, with_totals
from holdfast.training.plan import GivenAnswers, Metrics, Objective, Reference, reference_of

Mode = Literal["clean", "reference"]
"""Which positions count: answers and real tokens only (`clean`), or, as in the published code, all of them."""

SMOOTHING = 1e-3
"""Smoothing in units of a hidden state's norm; far below any relevant distance."""


def preference_probe(
    model: Model, reference: Reference, rows: Sequence[Example], *, batch_size: int, beta: float, max_length: int | None
) -> Probe:
    """DPO on held-out rows, with the refusal preferred.

    Computed in two halves, since a pair is two sequences: no pass is larger than one of training.
    """
    draw, prepare = endless(preferences(rows), batch_size, seed=0), pairs(reference, max_length=max_length)
    objective, half = preference_objective(beta), -(-batch_size // 2)

    def probe(number: int) -> list[tuple[Objective, Batch]]:
        sampled = draw(number)
        halves = [rows for rows in (sampled[:half], sampled[half:]) if rows]
        return [(objective, _moved(model, batch)) for batch in with_totals(prepare(model, halves, number))]

    return probe


def entropy_probe(
    model: Model, rows: Sequence[Example], *, batch_size: int, mode: Mode, max_length: int | None
) -> Probe:
    """Minus the entropy on held-out harmful answers."""
    draw, prepare = endless(rows, batch_size, seed=0), GivenAnswers(max_length=max_length)
    objective = entropy(mode)

    def probe(number: int) -> list[tuple[Objective, Batch]]:
        (batch,) = with_totals(prepare(model, [draw(number)], number))
        return [(objective, _moved(model, batch))]

    return probe


def _moved(model: Model, batch: Batch) -> Batch:
    return {name: value.to(model.device) for name, value in batch.items()}


def entropy(mode: Mode) -> Objective:
    """Minus the mean entropy: over the answers' targets (`clean`), or over every position (`reference`)."""

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        if mode == "clean":
            (entropies,) = target_distributions(network, batch).measure(Entropy())
            loss = -masked_mean(entropies, target_mask(batch["loss_mask"]), batch["num_tokens"])
        else:
            loss = max_entropy(forward(network, batch))
        return loss, {"loss": float(loss.detach())}

    return objective


def retention(model: Model, reference: Reference, mode: Mode) -> Objective:
    """Cross entropy of the answers plus the mean distance of all hidden states to the reference's."""

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        with reference(model) as frozen, evaluating(frozen):
            theirs = hidden_states(frozen, batch)
        distributions, hidden = distributions_and_states(network, batch)
        (logprobs,) = distributions.measure(LogProb(batch["input_ids"][:, 1:]))
        learnt = masked_mean(-logprobs, target_mask(batch["loss_mask"]), batch["num_tokens"])
        mask, smoothing = (_real(batch), SMOOTHING) if mode == "clean" else (None, 0.0)
        distance = representation_distance(hidden, theirs, mask, smoothing=smoothing)
        moved = distance * len(batch["input_ids"]) / batch["num_sequences"]
        loss = learnt + moved
        return loss, {"loss": float(loss.detach()), "moved": float(moved.detach())}

    return objective


def random_table(network: Any, *, seed: int) -> Tensor:
    """A Gaussian vector for each token, (V, H)."""
    shape = network.get_input_embeddings().weight.shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mapped(table: Tensor, mode: Mode) -> Objective:
    """One minus the absolute cosine between hidden states and their tokens' random vectors."""

    def objective(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        hidden = hidden_states(network, batch)
        ids, mask = batch["input_ids"], _real(batch) if mode == "clean" else None
        loss = random_mapping(hidden, table.to(ids.device, hidden[0].dtype), ids, mask)
        return loss, {"loss": float(loss.detach())}

    return objective


def weighed(weight: float, objective: Objective) -> Objective:
    """The objective multiplied by `weight`; its metrics are unchanged."""

    def scaled(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        loss, metrics = objective(network, batch)
        return weight * loss, metrics

    return scaled


def reference_to(model: Model, keep_on: Place) -> Reference:
    """The model in its current state, frozen; between uses its weights are stored at `keep_on`."""
    if keep_on == "device" or has_adapter(model):
        return reference_of(model)
    twin, store = clone(model).network.eval().requires_grad_(False), TensorStore(keep_on)
    for i, parameter in enumerate(twin.parameters()):
        store.put(i, parameter)
        parameter.data = parameter.new_empty(0)

    @contextmanager
    def visiting(model: Model) -> Iterator[torch.nn.Module]:
        twin.to(model.device)
        try:
            for i, parameter in enumerate(twin.parameters()):
                value = store.get(i)
                assert value is not None
                parameter.data = value.to(model.device)
            with reading(twin, model.network) as network:
                yield network
        finally:
            for parameter in twin.parameters():
                parameter.data = parameter.new_empty(0)

    return visiting


def _real(batch: Batch) -> Tensor:
    """The mask of tokens that are not padding, (B, S)."""
    places = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
    return (places < batch["lengths"].to(places.device)[:, None]).float()
