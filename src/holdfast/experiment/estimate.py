"""What a cell will need: its first steps are run, timed, and counted on to the whole.

Nothing is modelled: the model is loaded, attacked and measured as the cell would do it, with all its prompts, for a few
steps, in a process of its own. Steps are assumed to go on costing what the first ones cost. Those of reinforcement
learning cost more where answers become longer, up to `max_new_tokens`; a break, or a diverging run, ends a cell early.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast import experiment
from holdfast.experiment import engine, store, tasks
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.devices import gpus
from holdfast.experiment.engine import News
from holdfast.experiment.methods import configured
from holdfast.experiment.places import cache_folder
from holdfast.methods.settings import merge
from holdfast.records import Cell, HoldfastError, Method
from holdfast.training.contracts import trains


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a piece of work needs: a hardening, or an attack with its evaluations.

    Seconds of what comes before the first step (loading and the first evaluation), of the first step, of each later
    one, of each later evaluation (0 for a hardening), and of the end. Memory in MiB at its peak: of the process, and of
    the accelerator (`None` without one).
    """

    title: str
    steps: int
    evaluations: int
    before: float
    first_step: float
    step: float
    evaluation: float
    after: float
    memory_mb: float
    accelerator_mb: float | None = None

    @property
    def seconds(self) -> float:
        """All of it, if nothing ends it early."""
        steps = self.first_step + max(self.steps - 1, 0) * self.step if self.steps else 0.0
        return self.before + steps + self.evaluations * self.evaluation + self.after


@dataclass(kw_only=True)
class Times:
    """When pieces of work started, reached each of their steps first, and ended; as news.

    It is a class because it remembers them between calls.
    """

    news: News
    started: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[int, float]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def __call__(self, piece: Any, state: engine.State, details: Mapping[str, Any]) -> None:
        """Remember the time, and pass the news on."""
        now = time.monotonic()
        if state == "started":
            self.started[piece.key] = now
        elif state == "progress" and "step" in details:
            self.reached.setdefault(piece.key, {}).setdefault(details["step"], now)
        elif state in ("done", "failed"):
            self.ended[piece.key] = now
        self.news(piece, state, details)


def estimate(cells: Sequence[Cell], *, threads: int = 1, news: News) -> list[Needs]:
    """What each hardening and each attack of some cells need, found by running a few steps of each.

    Models that cells start from, and judges that they train, are made first and are not part of it.

    Raises:
        HoldfastError: a cell has no attack that trains, its requirements are not met, or one of its parts fails.
    """
    other = next((c for c in cells if c.attack is None or not trains(configured(c.attack, "attack"))), None)
    if other is not None:
        raise HoldfastError(f"{other.attacker}: only attacks that train can be estimated")
    probes = {shortened(cell).key: cell for cell in cells}
    times = Times(news=news)
    with tempfile.TemporaryDirectory() as scratch:
        short = [shortened(cell) for cell in cells]
        pieces = tasks.tasks_of(short, Path(scratch), cache_folder())
        experiment.check_requirements(short, 1, threads)
        work = experiment.work_of(tasks.Options(checkpoint_every=0, threads=threads))
        failed = engine.run(pieces, work, times, workers=1, devices=gpus()[:1])
        if failed:
            raise HoldfastError(next(iter(failed.values())))
        parts = [piece for piece in pieces if piece.kind in ("stage", "cell")]
        return [
            _needs(piece, probes[piece.cell.key], times, store.read_object(piece.folder / "record.json"))
            for piece in parts
        ]


def shortened(cell: Cell) -> Cell:
    """The cell with just enough steps of its attack and its hardenings to time them, and nothing that ends it early."""
    assert cell.attack is not None
    evaluation = {"every": _probe_steps(cell.attack), "stop_when_broken": False, "give_up_below": ()}
    return replace(
        cell,
        stages=tuple(map(_short, cell.stages)),
        attack=_short(cell.attack),
        evaluation={**cell.evaluation, **evaluation},
    )


def _short(method: Method) -> Method:
    if "max_steps" not in method.settings.get("optim", {}):
        return method
    steps = min(_steps(method), _probe_steps(method))
    return replace(method, settings=merge(method.settings, {"optim": {"max_steps": steps}}))


def _steps(method: Method) -> int:
    return int(method.settings.get("optim", {}).get("max_steps", 0))


def _rollout(method: Method) -> int:
    """Optimizer steps that share a rollout; their costs differ."""
    policy = method.settings.get("policy") or {}
    return int(policy.get("passes", 1)) * int(policy.get("minibatches", 1))


def _probe_steps(method: Method) -> int:
    """A first rollout for warming up, two to be timed, and the first step of another, after which is an evaluation."""
    return 3 * _rollout(method) + 1


def _needs(piece: tasks.Task, cell: Cell, times: Times, record: Mapping[str, Any]) -> Needs:
    """The needs of the whole piece from its shortened run."""
    method = cell.stages[piece.depth - 1] if piece.kind == "stage" else cell.attack
    assert method is not None
    steps, evaluations = _steps(method), 0
    if piece.kind == "cell":
        evaluations = -(-steps // settings_of(cell).evaluation.every)
    return Needs(
        title=piece.title,
        steps=steps,
        evaluations=evaluations,
        **seconds(
            times.started[piece.key],
            times.reached.get(piece.key, {}),
            times.ended[piece.key],
            rollout=_rollout(method),
            evaluated=piece.kind == "cell",
        ),
        memory_mb=record["peak_memory_mb"],
        accelerator_mb=record["environment"].get("accelerator_memory_mb"),
    )


def seconds(
    started: float, reached: Mapping[int, float], ended: float, *, rollout: int, evaluated: bool
) -> dict[str, float]:
    """Seconds `before`, of the `first_step`, of each later `step`, of an `evaluation` and `after`, from times.

    Args:
        started: when the piece started.
        reached: when it had done each of its steps, 0 included.
        ended: when it ended.
        rollout: steps that share a rollout.
        evaluated: whether an evaluation follows the last step.
    """
    last = max(reached, default=0)
    if last < 3 * rollout + 1:  # it is as short as the probe: its whole time is known
        return {"before": ended - started, "first_step": 0.0, "step": 0.0, "evaluation": 0.0, "after": 0.0}
    whole = [reached[i + 1] - reached[i] for i in range(rollout, 3 * rollout)]
    first_of_rollout = whole[rollout]
    evaluation = max(reached[last] - reached[last - 1] - first_of_rollout, 0.0) if evaluated else 0.0
    return {
        "before": reached[0] - started,
        "first_step": reached[1] - reached[0],
        "step": sum(whole) / len(whole),
        "evaluation": evaluation,
        "after": ended - reached[last],
    }
