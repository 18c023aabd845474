"""What cells will need, looked at before the first of them starts: models, rows, judges, and methods over them.

Every model is loaded once, every prompt encoded, every judge asked once, and every method rehearsed: its plan is built
over a twin of the model without weights, and what would train stops there. What a user can put right comes out in the
first minute, not after hours; anything else is left to the cell itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from holdfast.attacks import trains
from holdfast.experiment import engine
from holdfast.experiment.judging import settings_of
from holdfast.experiment.methods import configured
from holdfast.experiment.world import context_of, load_model, load_splits, make_judge, refuse_long_prompts
from holdfast.judge_training.training import train as train_judge
from holdfast.judges import TRAINED
from holdfast.loading import refuse_not_finite
from holdfast.methods import OnlineDefense
from holdfast.models import Model, clone
from holdfast.plan import Context, Plan, Planner
from holdfast.records import Cell, Completion, HoldfastError, Method, digest
from holdfast.rewards import Judge
from holdfast.sandbox.build import Sandbox, untrained
from holdfast.settings import typed
from holdfast.splits import Splits

ASKED = 2
"""How many answers of each kind a judge is asked about."""


def look(cells: Sequence[Cell], *, apart: bool, threads: int = 1) -> None:
    """`refuse_unready`; with `apart` in a process of its own, so that this one holds no model and no accelerator.

    Raises:
        HoldfastError: as `refuse_unready`.
    """
    if not apart:
        return refuse_unready(cells)
    with engine.single_threaded(threads):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([engine.Work.preload])
        inbox, outbox = context.Pipe(duplex=False)
        process = context.Process(target=_apart, args=(cells, outbox), daemon=True)
        process.start()
    outbox.close()
    try:
        with contextlib.suppress(EOFError):  # it died, of too little memory say: cells die, and say so, one by one
            raise HoldfastError(inbox.recv())
    finally:
        process.kill()
    return None


def _apart(cells: Sequence[Cell], outbox: Connection) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    try:
        refuse_unready(cells)
    except HoldfastError as error:
        outbox.send(str(error))


class _Enough(BaseException):
    """A rehearsal came to what would train; no method may take it for an error of its own."""


def refuse_unready(cells: Sequence[Cell]) -> None:
    """Look at what the cells need, each thing once.

    Raises:
        HoldfastError: a model or judge cannot be had, a prompt is too long or cannot be told the model, a row lacks
            what a method learns from, or a method cannot work on the model.
    """
    data = cache(lambda: load_splits(cells[0].data))
    twins: dict[str, Model] = {}
    judges: dict[str, Judge] = {}
    rehearsed = set[str]()
    with _unchanged_randomness(), _silent():
        for cell in cells:
            but_for_the_seed = replace(cell, seed=0).key
            if but_for_the_seed in rehearsed:
                continue
            rehearsed.add(but_for_the_seed)
            key = digest([cell.model, cell.evaluation["max_new_tokens"]])
            if key not in twins:
                twins = {key: _twin(cell, data())}  # one at a time
            for name, method in cell.judges.items():
                judges[repr(method)] = judges.get(repr(method)) or _judge(name, method, cell, data())
            by_name = {name: judges[repr(method)] for name, method in cell.judges.items()}
            _rehearse(cell, twins[key], data(), by_name.__getitem__)


def _twin(cell: Cell, splits: Splits) -> Model:
    """The cell's model as far as a plan can tell, on no device; loaded and told every prompt first."""
    if cell.model["kind"] == "sandbox":
        model = untrained(typed(Sandbox, cell.model["settings"], "model.sandbox"))
    else:
        model = load_model(cell, None)
    refuse_not_finite(model.name, model.network)
    refuse_long_prompts(model, splits, cell.evaluation["max_new_tokens"])
    network = model.network.to("meta")
    network.tie_weights()
    return replace(model, network=network)


def _judge(name: str, method: Method, cell: Cell, splits: Splits) -> Judge:
    """The judge, asked once; one that is trained first is trained up to its first step."""
    if method.name in TRAINED:
        with contextlib.suppress(_Enough), _without_trouble():
            train_judge(settings_of(method), splits, _enough)
        return _enough
    judge = make_judge(method)
    with _without_trouble():
        _ask(name, judge, cell, splits)
    return judge


def _ask(name: str, judge: Judge, cell: Cell, splits: Splits) -> None:
    """Put some given answers to a judge: what it reports on is of harmful prompts, of benign ones, or of either."""
    rows = [row for rows in (splits.harmful, splits.benign) for row in rows["development"][:ASKED]]
    if name in cell.evaluation["harm_judges"]:
        rows = splits.harmful["development"][:ASKED]
    elif name == cell.evaluation["help_judge"]:
        rows = splits.benign["development"][:ASKED]
    answers = [Completion(example=row, text=row.response or "here it is .", num_tokens=1) for row in rows]
    try:
        verdicts = judge(answers)
    except HoldfastError as error:
        raise HoldfastError(f"judges.{name}: {error}") from error
    if verdicts and all(verdict.valid and verdict.score is None for verdict in verdicts):
        raise HoldfastError(f"judges.{name}: gives no score to {rows[0].source or 'the rows'}: {verdicts[0].reason}")


def _rehearse(cell: Cell, twin: Model, splits: Splits, judge: Callable[[str], Judge]) -> None:
    """Build every plan of a cell, each over a twin of its own."""

    def others(name: str) -> Model:
        known = name == "undefended" or (name == "base" and cell.model["kind"] == "sandbox")
        return clone(twin) if known else context_of(cell, splits, judge, _enough).models(name)

    context = replace(context_of(cell, splits, judge, _enough), models=others)
    for stage in cell.stages:
        _until_it_trains(partial(configured(stage, "offline").harden, clone(twin), context))
    if cell.attack is None or not trains(configured(cell.attack, "attack")):
        return
    planner = configured(cell.attack, "attack").plan
    for constraint in cell.constraints:
        _until_it_trains(partial(_constrained, configured(constraint, "online"), planner, clone(twin), context))
    for method in cell.adaptive:
        planner = configured(method, "adaptive").adapt(planner)
    _until_it_trains(partial(planner, clone(twin), context))


def _constrained(online: OnlineDefense, planner: Planner, model: Model, context: Context) -> Plan:
    return online.constrain(planner(model, context), context)


def _until_it_trains(build: Callable[[], Any]) -> None:
    with contextlib.suppress(_Enough), _without_trouble():
        build()


@contextlib.contextmanager
def _without_trouble() -> Iterator[None]:
    """What only a twin without weights stumbles over is none of the user's business, nor of other cells."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception:
        return


def _enough(*_: Any, **__: Any) -> NoReturn:
    """In the place of the loop, and of judges that there are not yet."""
    raise _Enough


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Warnings of libraries are for the cells that follow: here they would stand in front of the one line."""
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
    """Results are the same whether something was looked at before or not."""
    state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
