"""The search loop: propose trials, run them as cells, and report the best setting on new prompts, judge and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from holdfast import experiment
from holdfast.experiment.grid import cells
from holdfast.files import write_json
from holdfast.records import HoldfastError, Record
from holdfast.search.question import Question, question_of
from holdfast.search.results import search_results
from holdfast.search.search_settings import Search
from holdfast.search.study import Study, propose
from holdfast.search.trials import Trial, bars, best, trial_of

if TYPE_CHECKING:
    from holdfast.experiment.engine import News
    from holdfast.experiment.grid import Grid

Run = Callable[..., list[Record]]
"""`experiment.run`, or a replacement."""


class NoResult(HoldfastError):
    """The trials crash or diverge, so the search has no result."""


def search(
    grid: Grid,
    settings: Search,
    folder: Path,
    *,
    workers: int = 1,
    news: News | None = None,
    on_trial: Callable[[Trial, int], None] | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Tune an attack within a budget, report the best setting on data it was not tuned on, and save both results.

    Searching again in the same folder resumes an interrupted search; finished trials are not run again, and the result
    is the same as without the interruption. Budget and number of trials may be increased.

    Args:
        grid: one model, one defense or stack, one attack, one seed.
        settings: budget, knobs, judge.
        folder: receives `study.log` (the trials), `trials/` and `test/` (two runs) and `search.json`.
        workers: number of parallel trials, which do not learn from each other. 0 runs everything in this process.
        news: called at every start, step and end of a cell.
        on_trial: called for every trial, with the budget spent by then.
        run: the function that runs a grid, by default `experiment.run`.

    Returns:
        The contents of `search.json` (see `search_results`).

    Raises:
        HoldfastError: the grid or the settings are invalid, optuna is missing, or another process searches in the
            folder.
        NoResult: too many consecutive trials crashed or diverged, or none finished.
    """
    question = question_of(grid, settings)

    if run is None:
        experiment.check_requirements([*cells(question.tuning), *cells(question.reporting)], workers)
        run = partial(experiment.run, checked=True)

    def carried_out(part: Grid, name: str) -> list[Record]:
        return run(part, folder / name, workers=workers, news=news)

    with _exclusive(folder):
        study = Study(folder / "study.log", question.key)
        failures = 0
        while params := _next(study.trials(), question, together=max(workers, 1)):
            before = study.trials()
            records = carried_out(question.trials(params, _bars(before, question), first=len(before)), "trials")
            for values, record in zip(params, records, strict=True):
                trial = _add_trial(study, question, values, record)
                if on_trial is not None:
                    on_trial(trial, spent(study.trials()))
                failures = failures + 1 if trial.state in ("crashed", "diverged") else 0
            write_json(folder / "search.json", search_results(question, study.trials()))
            _refuse_consecutive_failures(failures, study.trials(), question)
        trials = study.trials()
        chosen = best(trials)
        if chosen is None:
            raise NoResult(f"none of {len(trials)} trials finished; the last: {trials[-1].reason}")
        # The controls that the final grid adds come last; their results are also in the records that they are for.
        records = carried_out(question.final(chosen.params), "test")[: len(question.reporting.seeds)]
        report = search_results(question, trials, chosen, records)
        write_json(folder / "search.json", report)
    return report


def spent(trials: Sequence[Trial]) -> int:
    """The budget spent."""
    return sum(trial.spent for trial in trials)


def _next(trials: Sequence[Trial], question: Question, *, together: int) -> list[dict[str, Any]]:
    """The values of the knobs for the next trials, which run in parallel; none if the search is over."""
    left, settings = question.budget - spent(trials), question.search
    longest = max([question.horizon, *(trial.steps for trial in trials)])
    covered = left // longest if settings.unit == "steps" else (together if left > 0 else 0)
    proposals: list[dict[str, Any]] = []
    for number in range(len(trials), len(trials) + min(together, settings.trials - len(trials), covered)):
        values = propose(trials, proposals, question.knobs, seed=settings.seed, startup=settings.startup)
        proposals.append({**values, **(question.own() if number == 0 else {})})
    return proposals


def _bars(trials: Sequence[Trial], question: Question) -> tuple[tuple[int, float], ...]:
    settings = question.search
    return bars(
        trials,
        startup=settings.startup,
        warmup=settings.warmup * question.horizon,
        threshold=question.tuning.evaluation.break_threshold,
        unit=settings.unit,
    )


def _add_trial(study: Study, question: Question, params: dict[str, Any], record: Record) -> Trial:
    """A trial from its cell's record, added to the study."""
    known = study.trials()
    paid = any(trial.key == record.key and trial.spent for trial in known)
    trial = trial_of(record, number=len(known), params=params, unit=question.search.unit, paid=paid)
    study.add(trial, question.knobs)
    return trial


def _refuse_consecutive_failures(failures: int, trials: Sequence[Trial], question: Question) -> None:
    if failures >= question.search.max_crashes:
        raise NoResult(
            f"{failures} trials in a row crashed or diverged, the last: {trials[-1].reason}; "
            "correct the cause or narrow the knobs (search.knobs), and run again"
        )


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Exclude other searches from a folder; the lock is released when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".search.lock").acquire(timeout=0)
    except Timeout:
        raise HoldfastError(f"{folder}: another process is searching there; wait, or give another --runs") from None
    except OSError as error:
        raise HoldfastError(f"{folder}: cannot be written to: {error.strerror or error}") from error
    with lock:
        yield
