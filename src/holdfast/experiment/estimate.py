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

AT_THE_END = 10**9
"""`evaluation.every` of a probe: an evaluation before the first step and one after the last."""


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
    """When pieces of work started, reached each step of their last training, and ended; as news.

    A step is reported when it is done, and again after an evaluation at the end, which is `measured`. What a piece
    trains first (a warm start) is before its last training, whose steps are counted anew.

    It is a class because it remembers them between calls.
    """

    news: News
    started: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[int, float]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def __call__(self, piece: Any, state: engine.State, details: Mapping[str, Any]) -> None:
        """Remember the time, and pass the news on."""
        now = time.monotonic()
        if state == "started":
            self.started[piece.key] = now
        elif state == "progress" and "step" in details:
            reached = self.reached.setdefault(piece.key, {})
            if details["step"] < max(reached, default=0):
                reached.clear()
            reached.setdefault(details["step"], now)
            self.measured[piece.key] = now
        elif state in ("done", "failed"):
            self.ended[piece.key] = now
        self.news(piece, state, details)


def estimate(cells: Sequence[Cell], *, threads: int = 1, news: News) -> list[Needs]:
    """What each hardening and each attack of some cells need, found by running a few steps of each.

    Models that cells start from, and judges that they train, are made first and are not part of it.

    Raises:
        HoldfastError: a cell has no attack that trains, its requirements are not met, or one of its parts fails.
    """
    other = next((cell for cell in cells if not training(cell)), None)
    if other is not None:
        raise HoldfastError(f"{other.attacker}: only attacks that train can be estimated")
    times = Times(news=news)
    with tempfile.TemporaryDirectory() as scratch:
        run, short = Path(scratch), [shortened(cell) for cell in cells]
        experiment.check_requirements(short, 1, threads)
        work = experiment.work_of(tasks.Options(checkpoint_every=0, threads=threads))
        failed = engine.run(tasks.tasks_of(short, run, cache_folder()), work, times, workers=1, devices=gpus()[:1])
        if failed:
            raise HoldfastError(next(iter(failed.values())))
        # Pieces that differ in their steps alone are one piece when shortened, and yet each is work of its own.
        pieces = [piece for piece in tasks.tasks_of(cells, run, cache_folder()) if piece.kind in ("stage", "cell")]
        return [_needs(piece, _probe(piece), times, run) for piece in pieces]


def training(cell: Cell) -> bool:
    """Whether a cell has an attack that trains: only then it has steps to count on from."""
    return cell.attack is not None and trains(configured(cell.attack, "attack"))


def shortened(cell: Cell) -> Cell:
    """The cell with just enough steps of its attack and its hardenings to time them, and nothing that ends it early."""
    assert cell.attack is not None
    evaluation = {"every": AT_THE_END, "stop_when_broken": False, "give_up_below": ()}
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
    """A first rollout for warming up, two to be timed, and the first step of another."""
    return 3 * _rollout(method) + 1


def _probe(piece: tasks.Task) -> str:
    """The key of the shortened piece that stands for a piece."""
    short = shortened(piece.cell)
    return tasks.stage_key(short, piece.depth) if piece.kind == "stage" else short.key


def _needs(piece: tasks.Task, probe: str, times: Times, run: Path) -> Needs:
    """The needs of the whole piece from its shortened run, whose key is `probe`."""
    cell, stage = piece.cell, piece.kind == "stage"
    method = cell.stages[piece.depth - 1] if stage else cell.attack
    assert method is not None
    steps = _steps(method)
    record = store.read_object((store.stage_folder if stage else store.cell_folder)(run, probe) / "record.json")
    reached, measured = times.reached.get(probe, {}), times.measured.get(probe, times.ended[probe])
    return Needs(
        title=piece.title,
        steps=steps,
        evaluations=0 if stage else -(-steps // settings_of(cell).evaluation.every),
        **seconds(
            (times.started[probe], times.ended[probe]),
            reached,
            measured=None if stage else measured,
            steps=steps,
            rollout=_rollout(method),
        ),
        memory_mb=record["peak_memory_mb"],
        accelerator_mb=record["environment"].get("accelerator_memory_mb"),
    )


def seconds(
    times: tuple[float, float], reached: Mapping[int, float], *, measured: float | None, steps: int, rollout: int
) -> dict[str, float]:
    """Seconds `before`, of the `first_step`, of each later `step`, of an `evaluation` and `after`, from times.

    Args:
        times: when the piece started and ended.
        reached: when it had done each of its steps, those of a warm start not among them, beginning with their number.
        measured: when the evaluation after the last step had been made; `None` if there is none.
        steps: of the whole piece.
        rollout: steps that share a rollout.
    """
    started, ended = times
    begun = min(reached, default=0)
    at = [reached[step] for step in sorted(reached)]
    last, evaluation = max(reached, default=0) - begun, 0.0
    if measured is not None and at:
        evaluation = max(measured - at[-1], 0.0)
    if last >= steps or last == 0:  # nothing was left out: the whole time is known
        known = {"first_step": 0.0, "step": 0.0, "after": 0.0}
        return {"before": max(ended - started - evaluation, 0.0), "evaluation": evaluation, **known}
    first, until = min(rollout, last - 1), min(3 * rollout, last)
    return {
        "before": at[0] - started,
        "first_step": at[1] - at[0],
        "step": (at[until] - at[first]) / (until - first),
        "evaluation": evaluation,
        "after": ended - at[-1] - evaluation,
    }
