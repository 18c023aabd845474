"""Representation removal: train hidden states on harmful text so that they no longer represent it.

One family (Rosati et al. 2024, arXiv 2409.12914): with `Z_l` the outputs of chosen modules on a harmful answer, `g` a
projection and `d` a distance,

    L = refusal_weight CE(refusal | prompt) + removal_weight mean_l d(Z_l, g(Z_l)) - ascent_weight ascent
        + retain_weight |Z' - Z'_original| + benign_weight CE(benign answer)

where the last line is on benign text. RepNoise, Circuit Breakers and RMU are settings of it, as are the other pairs of
the nine combinations of distance and projection. `noise` and `fixed` are targets of the states; from `original`, the
states before the defense, they move away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from holdfast.data.endless import endless
from holdfast.defenses.representation.batches import Prepared
from holdfast.defenses.representation.objective import Loss, Original
from holdfast.defenses.representation.removal import Removal
from holdfast.losses.representation import control_vector
from holdfast.network.anatomy import anatomy
from holdfast.network.models import LoRA, Model, adapt, clone, merged
from holdfast.network.reach import check_lens, check_outputs
from holdfast.records import Example, HoldfastError
from holdfast.training.plan import Context, Optim, Plan, reference_of

__all__ = ["Loss", "Prepared", "Removal", "removal_plan", "remove"]


def remove(
    model: Model, context: Context, *, removal: Removal, optim: Optim, adapter: LoRA | None = None, name: str
) -> Model:
    """A copy of `model` hardened by a member of the family; `name` is the defense's name.

    Raises:
        HoldfastError: rows lack what a term needs, no tensor has a name in `trained`, or the architecture is unknown.
    """
    copy = clone(merged(model))
    copy.network.requires_grad_(True)
    plan = removal_plan(copy, context, removal=removal, optim=optim, adapter=adapter, name=name)
    hardened = merged(context.fit(plan).model)
    hardened.network.requires_grad_(True)
    return replace(hardened, name=f"{model.name}+{name}")


def removal_plan(
    model: Model, context: Context, *, removal: Removal, optim: Optim, adapter: LoRA | None = None, name: str
) -> Plan:
    """The training run on `model`, in place; disables gradients of parameters that are not trained."""
    rows = context.splits.harmful["defense"]
    _require(rows, ["response", "refusal"] if removal.pairs else ["response"], name, what="harmful")
    benign = context.splits.benign["defense"] if removal.retains else []
    if removal.retains:
        _require(benign, ["response"], name, what="benign")
    if removal.ascent_weight:
        check_lens(model.network)
    check_outputs(model.network, removal.modules(anatomy(model.network)))
    model = _restricted(model, removal, adapter, seed=context.seed)
    domains = tuple(sorted({row.domain for row in rows}))
    size = optim.per_device_train_batch_size * optim.gradient_accumulation_steps
    by_domain = (endless([row for row in rows if row.domain == domain], size, seed=context.seed) for domain in domains)
    return Plan(
        model=model,
        data=rows,
        prepare=Prepared(
            removal=removal,
            seed=context.seed,
            max_steps=optim.max_steps,
            domains=domains,
            of_domain=tuple(by_domain),
            benign=endless(benign, size, seed=context.seed),
        ),
        objective=Loss(
            removal=removal,
            original=_original(model) if removal.compares else None,
            vectors=_vectors(removal, len(domains), model, context.seed),
        ),
        optim=optim,
        seed=context.seed,
    )


def _require(rows: Sequence[Example], needed: Sequence[str], name: str, *, what: str) -> None:
    if not rows:
        raise HoldfastError(f"{name}: the defense split has no {what} rows; give some in the data")
    for row in rows:
        missing = next((field for field in needed if not getattr(row, field)), None)
        if missing:
            raise HoldfastError(
                f"{row.source or f'a {what} row'}: {name} needs {' and '.join(needed)}, and the row has no {missing}; "
                f"map a column to `{missing}`"
            )


def _restricted(model: Model, removal: Removal, adapter: LoRA | None, *, seed: int) -> Model:
    """The model with an adapter, or gradients, only where the settings train."""
    if removal.trained_layers is None and not removal.trained:
        return adapt(model, adapter, seed=seed)
    names = _trained_tensors(model, removal)
    if adapter is None:
        for name, parameter in model.network.named_parameters():
            parameter.requires_grad_(name in names)
        return model
    return adapt(model, adapter, seed=seed, within=names)


def _trained_tensors(model: Model, removal: Removal) -> set[str]:
    parts = anatomy(model.network)
    last = removal.layers(len(parts.layers))[-1]
    first = max(1, last - removal.trained_layers + 1) if removal.trained_layers else 1
    places = tuple(f"{parts.layers_name}.{layer - 1}." for layer in range(first, last + 1))
    within = [name for name, _ in model.network.named_parameters() if name.startswith(places)]
    names = {name for name in within if name.endswith(removal.trained or "")}
    for layer, place in enumerate(places, first):
        if not any(name.startswith(place) for name in names):
            own = sorted({name.removeprefix(place) for name in within if name.startswith(place)})
            raise HoldfastError(
                f"{model.name}: no tensor of layer {layer} has a name that ends in any of "
                f"{', '.join(removal.trained)}; name some of {', '.join(own)} in `trained`"
            )
    return names


def _original(model: Model) -> Original:
    """A context that gives the model in its current state."""
    reference = reference_of(model)
    return lambda: reference(model)


def _vectors(removal: Removal, count: int, model: Model, seed: int) -> Tensor | None:
    """One fixed vector per domain, (count, H)."""
    if removal.projection != "fixed":
        return None
    width = anatomy(model.network).config.hidden_size
    draws = torch.rand(count, width, generator=torch.Generator().manual_seed(seed))
    return control_vector(draws, removal.vector_length)
