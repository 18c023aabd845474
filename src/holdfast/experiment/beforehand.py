"""Checks before the first cell starts: models, rows, judges, and methods on them.

What is cheap and often wrong comes first: judges that ask an endpoint are called before anything is loaded, and their
problems are reported alone (whether the endpoints can be reached is seen earlier still, in `others`). Then every model
is loaded once, every prompt encoded, every judge called once, and every method rehearsed: its plan is built over a copy
of the model without weights, up to the first training step. Errors that a user can correct are reported in the first
minute, not after hours; all others are left to the cell itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from holdfast.data.dataset import Data
from holdfast.data.splits import Splits
from holdfast.experiment import engine, others
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.examples import load_splits
from holdfast.experiment.judging import judge_settings
from holdfast.experiment.others import Announce, Problems
from holdfast.experiment.rehearsal import Rehearsal, distinct_up_to_seed, no_judge
from holdfast.experiment.world import (
    load_model,
    make_judge,
    refuse_long_prompts,
    refuse_unmeasurable,
    refuse_unreadable,
)
from holdfast.judge_training.fitting import train as train_judge
from holdfast.judges import TRAINED, JudgeRaised, checked
from holdfast.methods.settings import plain
from holdfast.network.loading import refuse_not_finite
from holdfast.network.models import Model
from holdfast.network.reach import survey
from holdfast.records import Cell, Completion, HoldfastError, Judge, Method, digest
from holdfast.sandbox.build import Sandbox, untrained
from holdfast.training.contracts import check_judge

ASKED = 2
"""The number of answers of each kind with which a judge is tried."""

Returned = TypeVar("Returned")


def _unannounced(what: str) -> None:
    pass


def check(
    cells: Sequence[Cell], *, separate_process: bool, threads: int = 1, announce: Announce = _unannounced
) -> None:
    """`refuse_unready`; with `separate_process` in another process, so that this one holds no model and no accelerator.

    `announce` is called with what is checked next.

    Raises:
        Problems: as `refuse_unready`.
    """
    if not separate_process:
        return refuse_unready(cells, announce)
    with engine.single_threaded(threads):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([engine.Work.preload])
        inbox, outbox = context.Pipe(duplex=False)
        process = context.Process(target=_check_and_send, args=(cells, outbox), daemon=True)
        process.start()
    outbox.close()
    try:
        with contextlib.suppress(EOFError):  # it died, perhaps for lack of memory: cells then report this one by one
            while isinstance(message := inbox.recv(), str):
                announce(message)
            raise Problems(message)
    finally:
        process.kill()
    return None


def _check_and_send(cells: Sequence[Cell], outbox: Connection) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    try:
        refuse_unready(cells, outbox.send)
    except Problems as error:
        outbox.send(error.lines)


class _StopProbing(BaseException):
    """The training of a judge reached its first step; a `BaseException` so that no handler takes it for an error."""


def refuse_unready(cells: Sequence[Cell], announce: Announce = _unannounced) -> None:
    """Check the cells' requirements, each once; judges that ask others come first, and alone if they have problems.

    Raises:
        Problems: a model or judge cannot be loaded, a prompt is too long or cannot be encoded, a row lacks what a
            method learns from, or a method cannot work on the model; all problems, one line each.
    """
    check = _Check(data=settings_of(cells[0]).data_at_commit, announce=announce)
    distinct = distinct_up_to_seed(cells)
    with _unchanged_randomness(), _silent():
        for cell in distinct:
            check.judges_of(cell, [name for name, method in cell.judges.items() if others.asks_others(method)])
        for cell in [] if check.problems else distinct:
            check.at(cell)
    if check.problems:
        raise Problems(list(check.problems))


@dataclass(kw_only=True)
class _Check:
    """What was checked so far, and the problems, in order and each once."""

    data: Data
    announce: Announce
    problems: dict[str, None] = field(default_factory=dict)
    first_copies: dict[str, Model | None] = field(default_factory=dict)
    hardened: dict[str, Model] = field(default_factory=dict)
    judges: dict[str, Judge | None] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)

    @cached_property
    def splits(self) -> Splits | None:
        """The examples; all cells have the same."""
        self.announce("rows")
        return self._tried("", lambda: load_splits(self.data))

    def judges_of(self, cell: Cell, names: Iterable[str]) -> None:
        """Check judges of a cell."""
        for name in names:
            method = cell.judges[name]
            if self.splits is not None and repr(method) not in self.judges:
                self.announce(f"judge {name}")
                judge = self._tried(f"judges.{name}", partial(_judge, name, method, cell, self.splits))
                self.judges[repr(method)] = judge

    def at(self, cell: Cell) -> None:
        """Check one cell's model and judges, and rehearse it if they are available."""
        splits = self.splits
        if splits is None:
            return
        key = digest([cell.model, settings_of(cell).evaluation.longest])
        if key not in self.first_copies:
            self.announce(f"model {cell.model_name}, and the lengths of all prompts")
            before = next(iter(self.first_copies.values()), None)
            self.first_copies = {key: self._tried("models", lambda: _first_copy(cell, splits, before))}  # one at a time
        self._metrics(cell, splits)
        self.judges_of(cell, cell.judges)
        twin, judges = self.first_copies[key], {name: self.judges[repr(method)] for name, method in cell.judges.items()}
        if twin is not None:
            self.announce(f"methods on {cell.model_name}")
            rehearsal = Rehearsal(
                cell=cell,
                twin=twin,
                splits=splits,
                judge=lambda name: judges[name] or no_judge,
                hardened=self.hardened,
            )
            self.problems |= dict.fromkeys(rehearsal.run())

    def _metrics(self, cell: Cell, splits: Splits) -> None:
        """Check what the further metrics need; a model of reference is loaded once."""
        evaluation = settings_of(cell).evaluation
        self._tried("", lambda: refuse_unmeasurable(evaluation, splits))
        key = digest([cell.model, plain(evaluation.metrics)])
        if key not in self.references:
            self.references.add(key)
            if evaluation.metrics.perplexity is not None:
                self.announce(f"model of reference {evaluation.metrics.perplexity.path}")
            self._tried("evaluation.metrics.perplexity", lambda: refuse_unreadable(cell))

    def _tried(self, where: str, call: Callable[[], Returned]) -> Returned | None:
        try:
            return call()
        except HoldfastError as error:
            message = str(error).removeprefix(f"{where}: ")
            self.problems[f"{where}: {message}" if where else message] = None
            return None


def _first_copy(cell: Cell, splits: Splits, before: Model | None = None) -> Model:
    """A copy of the cell's model without weights, after loading it, encoding every prompt and surveying its modules.

    Prompts that the model `before` has encoded are not encoded again if both have the same tokenizer and format.
    """
    settings = settings_of(cell)
    if isinstance(settings.model, Sandbox):
        with torch.device("meta"):
            model = untrained(settings.model)
    else:
        model = load_model(cell, None)
        refuse_not_finite(model.name, model.network)
    kinds = (splits.harmful, splits.benign, *splits.tasks.values())
    pairs = [pair for part in splits.pairs.values() for pair in part]
    prompt_sets = [*(rows for kind in kinds for rows in kind.values()), *pairs]
    if before is not None:
        model.take_prompts(before)
    refuse_long_prompts(model, prompt_sets, settings.evaluation.longest)
    with contextlib.suppress(Exception):  # a method that needs the parts of an unknown architecture reports this itself
        survey(model.network)
    network = model.network.to("meta")
    network.tie_weights()
    copied = replace(model, network=network)
    copied.take_prompts(model)
    return copied


def _judge(name: str, method: Method, cell: Cell, splits: Splits) -> Judge:
    """The judge, called once; one that is trained first is prepared up to its first step."""
    if method.name in TRAINED:
        with contextlib.suppress(_StopProbing), _ignoring_artificial_errors():
            train_judge(judge_settings(method), splits, _stop)
        return no_judge
    judge = make_judge(method)
    if not others.asks_others(method):
        check_judge(judge)
    with _ignoring_artificial_errors():
        _ask(name, judge, cell, splits)
    return judge


def _ask(name: str, judge: Judge, cell: Cell, splits: Splits) -> None:
    """Call a judge on some given answers to harmful or benign prompts or to tasks, whichever it reports on."""
    every = (splits.harmful, splits.benign, *splits.tasks.values())
    rows = [row for rows in every for row in rows["development"][:ASKED]]
    evaluation = settings_of(cell).evaluation
    measured = [task for task, judge in evaluation.task_judges.items() if judge == name]
    unknown = next((task for task in measured if task not in splits.tasks), None)
    if unknown is not None:
        raise HoldfastError(
            f"evaluation.task_judges: the data has no task {unknown!r}; known: {', '.join(splits.tasks) or 'none'}"
        )
    if measured:
        rows = [row for task in measured for row in splits.tasks[task]["development"][:ASKED]]
    elif name in evaluation.harm_judges:
        rows = splits.harmful["development"][:ASKED]
    elif name == evaluation.help_judge:
        rows = splits.benign["development"][:ASKED]
    answers = [Completion(example=row, text=row.response or "here it is .", num_tokens=1) for row in rows]
    try:
        verdicts = checked(judge, answers, name)
    except JudgeRaised:  # it may be due to the artificial answers
        return
    if verdicts and all(verdict.valid and verdict.score is None for verdict in verdicts):
        raise HoldfastError(f"gives no score to {rows[0].source or 'the rows'}: {verdicts[0].reason}")


@contextlib.contextmanager
def _ignoring_artificial_errors() -> Iterator[None]:
    """Suppress errors that are due only to the artificial rows and answers of the check."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception:
        return


def _stop(*_: Any, **__: Any) -> NoReturn:
    """Used instead of the loop that trains a judge."""
    raise _StopProbing


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress warnings of libraries, which the cells repeat; here they would hide the error line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _unchanged_randomness() -> Iterator[None]:
    """Restore random states, so that the check does not change results."""
    state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
