"""Store trials and propose the next one: the only module that uses Optuna.

A study has only finished trials, each written atomically. The next proposal depends only on those and on the seed, so
that a search killed during a trial proposes the same trial again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from holdfast.files import write
from holdfast.methods import knobs
from holdfast.methods.knobs import Choices, Knob
from holdfast.records import HoldfastError
from holdfast.search.trials import State, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

NAME = "search"
_STATES: dict[State, str] = {
    "finished": "COMPLETE",
    "beaten": "COMPLETE",
    "given up": "PRUNED",
    "diverged": "COMPLETE",
    "crashed": "FAIL",
}


def optuna() -> ModuleType:
    """The library, without its log messages.

    Raises:
        HoldfastError: it is not installed.
    """
    return knobs.optuna("searching")


class Study:
    """The finished trials of a search, kept in a file of Optuna's journal format across runs of the search."""

    def __init__(self, path: Path, question: str) -> None:
        """Open or create a study.

        Args:
            path: the journal.
            question: hash of the search's subject; a journal belongs to one search only.

        Raises:
            HoldfastError: the file cannot be written or read, or holds another search's trials.
        """
        library = optuna()
        from optuna.storages.journal import JournalFileBackend

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_incomplete_line(path)
            storage = library.storages.JournalStorage(JournalFileBackend(str(path)))
            self.study = library.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise HoldfastError(f"{path}: cannot be read or written ({error}); give another --runs folder") from error
        stored_question = self.study.user_attrs.get("question")
        if stored_question not in (None, question):
            raise HoldfastError(
                f"{path.parent}: holds a search with other settings; give another --runs folder, or delete this one"
            )
        if stored_question is None:
            self.study.set_user_attr("question", question)

    def trials(self) -> list[Trial]:
        """Every finished trial, in order."""
        return [Trial.from_json(json.loads(stored.user_attrs["trial"])) for stored in self.study.get_trials(False)]

    def add(self, trial: Trial, knobs: Mapping[str, Knob]) -> None:
        """Store a finished trial."""
        self.study.add_trial(_frozen(trial, knobs))


def propose(
    trials: Sequence[Trial],
    pending: Sequence[Mapping[str, Any]],
    knobs: Mapping[str, Knob],
    *,
    seed: int,
    startup: int,
) -> dict[str, Any]:
    """Values of the knobs for the next trial: Optuna's TPE sampler over the trials so far.

    The first `startup` trials are random. `pending` are the values of parallel trials, which the sampler avoids.
    """
    library = optuna()
    number = len(trials) + len(pending)
    sampler = library.samplers.TPESampler(seed=(seed * 1_000_003 + number) % 2**32, n_startup_trials=startup)
    study = library.create_study(direction="maximize", sampler=sampler)
    running = library.trial.TrialState.RUNNING
    study.add_trials([_frozen(trial, knobs) for trial in trials])
    study.add_trials([_created(params, knobs, state=running) for params in pending])
    proposed = study.ask({name: _distribution(knob) for name, knob in knobs.items()}).params
    return {
        name: json.loads(proposed[name]) if isinstance(knob, Choices) else proposed[name]
        for name, knob in knobs.items()
    }


def _frozen(trial: Trial, knobs: Mapping[str, Knob]) -> FrozenTrial:
    state = optuna().trial.TrialState[_STATES[trial.state]]
    return _created(
        trial.params,
        knobs,
        state=state,
        value=trial.value if state.name == "COMPLETE" else None,
        intermediate_values=dict(trial.harms),
        user_attrs={"trial": json.dumps(trial.to_json())},
    )


def _created(params: Mapping[str, Any], knobs: Mapping[str, Knob], **more: Any) -> FrozenTrial:
    return optuna().trial.create_trial(
        params={name: _encoded(knob, params[name]) for name, knob in knobs.items()},
        distributions={name: _distribution(knob) for name, knob in knobs.items()},
        **more,
    )


def _distribution(knob: Knob) -> BaseDistribution:
    kinds = optuna().distributions
    if isinstance(knob, Choices):
        return kinds.CategoricalDistribution([json.dumps(choice, sort_keys=True) for choice in knob.choices])
    if knob.whole:
        return kinds.IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return kinds.FloatDistribution(knob.low, knob.high, log=knob.log)


def _encoded(knob: Knob, value: Any) -> Any:
    """A knob's value as an Optuna category, which must be plain; choices may be groups of settings."""
    return json.dumps(value, sort_keys=True) if isinstance(knob, Choices) else value


def _drop_incomplete_line(path: Path) -> None:
    """Remove an incomplete last line after a crash, since further lines would make the journal unreadable."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        write(path, content[: content.rfind(b"\n") + 1])
