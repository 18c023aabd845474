"""`seeds` of a model in a grid: the same model trained anew with each seed, one model of the grid for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.kitchen.world import KITCHEN
from holdfast.methods.ranges import SEED, shown
from holdfast.records import HoldfastError

SANDBOX, SEEDS = "sandbox", "seeds"
BUILT = (SANDBOX, KITCHEN)
"""Models that Holdfast trains itself, so that it can train them with another seed."""


def seeds_of(value: Any, where: str) -> tuple[int, ...]:
    """One seed or a list of different ones.

    Raises:
        HoldfastError: there is none, one is not a seed, or one is given twice.
    """
    seeds = list(value) if isinstance(value, list | tuple) else [value]
    bad = [seed for seed in seeds if seed not in SEED or not isinstance(seed, int)]
    if bad or not seeds:
        raise HoldfastError(f"{where}: seeds: each must be {SEED}, not {shown(bad[0] if bad else value)}")
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise HoldfastError(f"{where}: seeds: {twice} is given twice; the same seed does not give an independent run")
    return tuple(seeds)


def one_per_seed(models: Sequence[Any], where: str, *, world: Any = None) -> list[Any]:
    """A grid's models as plain values, with one in place of each that names `seeds`, for every seed.

    `{sandbox: {architecture: qwen3}, seeds: [0, 1]}` is that model twice; `{seeds: [0, 1]}` alone, in a grid of this
    `world`, are its models. Seeds change a model's training and not its world: prompts stay the same.

    Raises:
        HoldfastError: the model is not one that Holdfast trains, a seed is wrong, or `seed` is given too.
    """
    expanded: list[Any] = []
    for model in models:
        named = isinstance(model, Mapping) and SEEDS in model
        expanded += _of_each_seed(model, where, world) if named else [model]
    return expanded


def with_seeds(models: Sequence[Any], seeds: Any) -> list[Any]:
    """Every model of a grid with these `seeds`, for `one_per_seed` to expand or refuse."""
    return [{**_named(model), SEEDS: seeds} for model in models]


def _named(model: Any) -> dict[str, Any]:
    if isinstance(model, Mapping):
        return dict(model)
    return {str(model): {}} if model in BUILT else {"path": model}


def _of_each_seed(model: Mapping[str, Any], where: str, world: Any) -> list[dict[str, Any]]:
    kinds = [str(key) for key in model if key != SEEDS]
    if not kinds and world == KITCHEN:
        kinds = [KITCHEN]
    if not kinds:
        raise HoldfastError(f"{where}: models.seeds: of no model; write `model: {{sandbox: {{}}, seeds: [0, 1]}}`")
    if len(kinds) != 1 or kinds[0] not in BUILT:
        named = next((str(model[key]) for key in ("path", "package") if key in model), ", ".join(kinds))
        raise HoldfastError(
            f"{where}: models.seeds: only models that are trained here have seeds ({', '.join(BUILT)}), not {named}; "
            "name each trained model by itself: `models: [FOLDER, OTHER]`"
        )
    kind = kinds[0]
    settings = model.get(kind) or {}
    if not isinstance(settings, Mapping):
        raise HoldfastError(f"{where}: models.{kind}: expected settings as `key: value`, not {shown(settings)}")
    if "seed" in settings:
        raise HoldfastError(f"{where}: models.{kind}.seed and models.seeds are both given; keep one of them")
    return [{kind: {**settings, "seed": seed}} for seed in seeds_of(model[SEEDS], f"{where}: models")]
