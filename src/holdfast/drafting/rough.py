"""How long pieces of work take, very roughly and before any of them has run, by the rule of thumb of `sizes`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from holdfast.drafting.looking import weights_of
from holdfast.drafting.sizes import (
    GENERATING,
    OF_A_CELL,
    OF_A_STEP,
    OF_AN_EVALUATION,
    UNKNOWN_WEIGHTS,
    operations_per_second,
)
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.tasks import Task
from holdfast.records import Cell

FULL, ADAPTER = 6, 4
"""Operations for each weight and token that is trained on, with all weights or an adapter's."""


class Rough(NamedTuple):
    """Seconds that work takes on an idle machine; a lower bound if `at_least`.

    `unseen` are the models, by folder, file or id, whose size is not known, and so taken for `UNKNOWN_WEIGHTS`.
    """

    seconds: float
    at_least: bool
    unseen: tuple[str, ...] = ()


def rough_time(pieces: Sequence[Task], at_once: int) -> Rough:
    """How long some pieces take, `at_once` beside each other, each on one core or GPU.

    A row is taken to be as long as the longest answer of the evaluation, and of a GPU `OF_A_GPU` operations a second
    are assumed. What is not reckoned makes it a lower bound: training a judge, an attack without optimizer steps (such
    as best of N answers), and fits within a step (such as TAR's inner attackers).

    Args:
        pieces: what is to be done, each after those that it needs.
        at_once: number of processes.
    """
    own = {piece.key: _seconds(piece) for piece in pieces}
    ends: dict[str, float] = {}
    for piece in pieces:
        before = (ends.get(key, 0.0) for key in (*piece.needs, *piece.after))
        ends[piece.key] = own[piece.key] + max(before, default=0.0)
    seconds = max(sum(own.values()) / max(at_once, 1), max(ends.values(), default=0.0))
    unseen = {place[0] for piece in pieces if (place := _place(piece.cell)) and not _seen(*place)}
    return Rough(seconds, any(map(_has_more, pieces)), tuple(sorted(unseen)))


def _has_more(piece: Task) -> bool:
    """Whether there is work in a piece that is not reckoned."""
    if piece.kind == "judge":
        return True
    method = piece.cell.stages[piece.depth - 1] if piece.kind == "stage" else piece.cell.attack
    if method is None or piece.kind not in ("stage", "cell"):
        return False
    return not method.settings.get("optim") or _fits(method.settings) > 1


def _fits(settings: Mapping[str, Any]) -> int:
    """How many optimizers there are in a method's settings."""
    inner = [value for value in settings.values() if isinstance(value, Mapping)]
    return ("max_steps" in settings) + sum(map(_fits, inner))


def _seconds(piece: Task) -> float:
    cell = piece.cell
    weights, measured = _weights(cell), settings_of(cell).evaluation
    if piece.kind == "stage":
        return OF_A_CELL + _training(cell.stages[piece.depth - 1].settings, weights, measured)
    if piece.kind in ("base", "aligned"):
        return OF_A_CELL + _training({"optim": cell.model_settings[piece.kind]}, weights, measured)
    if piece.kind != "cell":
        return OF_A_CELL
    attack = {} if cell.attack is None else cell.attack.settings
    steps = int((attack.get("optim") or {}).get("max_steps", 0))
    return OF_A_CELL + _training(attack, weights, measured) + _evaluating(steps, weights, measured)


def _training(settings: Mapping[str, Any], weights: float, measured: Measurement) -> float:
    """Seconds of all optimizer steps; 0 of a method without any."""
    optim, policy = settings.get("optim"), settings.get("policy")
    if not optim:
        return 0.0
    rows, length = optim["per_device_train_batch_size"], measured.max_new_tokens
    rows *= optim.get("gradient_accumulation_steps", 1)
    learnt, sampled = (ADAPTER if settings.get("adapter") else FULL) * weights * length, 0.0
    if policy:
        new, parts = policy.get("max_new_tokens") or length, policy.get("minibatches", 1)
        rows *= policy.get("group_size", 1) / parts
        learnt, sampled = learnt * (1 + new / length), 2 * weights * new / GENERATING / policy.get("passes", 1)
    return float(optim["max_steps"] * (OF_A_STEP + rows * (learnt + sampled) / _speed()))


def _evaluating(steps: int, weights: float, measured: Measurement) -> float:
    """Seconds of the evaluations: before the first step, between, and after the last."""
    answers = 2 * measured.num_prompts * 2 * weights * measured.max_new_tokens / GENERATING
    return (1 - -steps // measured.every) * (OF_AN_EVALUATION + answers / _speed())


def _speed() -> float:
    """Operations a second of one core, or of one GPU."""
    from holdfast.experiment.devices import gpus

    return operations_per_second() / (len(gpus()) or os.cpu_count() or 1)


def _weights(cell: Cell) -> float:
    place = _place(cell)
    if place is None:
        from holdfast.sandbox.build import SIZES

        hidden, layers, _, width = SIZES[cell.model_settings["size"]]
        return float(layers * hidden * (4 * hidden + 3 * width))
    return float(_seen(*place) or UNKNOWN_WEIGHTS)


def _place(cell: Cell) -> tuple[str, str | None] | None:
    """The folder, file or id of a cell's model, and its revision; `None` for the sandbox's."""
    return None if is_sandbox(cell) else settings_of(cell).place


_seen = cache(weights_of)
