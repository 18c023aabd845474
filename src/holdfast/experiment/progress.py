"""A hook that measures the model during an attack, and saves each evaluation to disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.evaluation.breaking import given_up, is_break
from holdfast.evaluation.constraint import REWARD
from holdfast.evaluation.evaluate import Judged, Suite, divergence, diversity, evaluate
from holdfast.evaluation.hacking import hacking
from holdfast.evaluation.measurement import Measurement
from holdfast.evaluation.scores import Longer
from holdfast.experiment.store import (
    append_line,
    damaged_lines,
    discard,
    keep_lines,
    read_json,
    read_object,
    set_aside,
    write_completions,
)
from holdfast.files import write_json
from holdfast.network.models import Model
from holdfast.records import Evaluation, HoldfastError, evaluation_from_json
from holdfast.training.plan import Progress

Report = Callable[[Mapping[str, Any]], None]
"""Called with a run's progress for the display: `step`, `max_steps`, and `harmfulness` once measured."""


@dataclass(kw_only=True)
class ProgressRecorder:
    """Measures before the first step, every `every` steps, and at the end; requests a stop at a break if so set.

    `start` is the model before the attack, if the divergence from it is to be measured.

    Each evaluation is saved in its own file until `close`, so that a resumed run does not measure again. It is a class
    because its state outlives a call.
    """

    folder: Path
    suite: Suite
    settings: Measurement
    report: Report
    start: Model | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    early: int = 0
    """The number of evaluations before the attack's own first one."""
    satisfied: bool = False
    """Whether this hook requested the stop."""

    def __call__(self, progress: Progress) -> bool:
        """The hook."""
        if progress.phase == "start":
            self._resume(progress.step)
        elif progress.phase == "step":
            append_line(self.folder / "curves.jsonl", {"step": progress.step, **progress.metrics})
        first = len(self.evaluations) == self.early
        due = first or progress.phase == "end" or progress.step % self.settings.every == 0
        if progress.phase == "end" and progress.stopped and not self.satisfied:
            self._drop_last(progress.step)  # an early stop may restore earlier weights
        if due and all(done.step != progress.step for done in self.evaluations[self.early :]):
            self.measure(progress)
        self.report({"step": progress.step, "max_steps": progress.max_steps, "harmfulness": self._harm()})
        broken = self.settings.stop_when_broken and self._broken()
        self.satisfied = broken or given_up(self.evaluations, self.settings)
        return self.satisfied

    def whole(self) -> bool:
        """Whether a run can be resumed from a checkpoint: not if an earlier evaluation or log cannot be read.

        That cannot be measured again without the weights of its step, so the run then starts again.
        """
        saved = [_saved(path) for path in sorted((self.folder / "evaluations").glob("step-*.json"))]
        curve = self.folder / "curves.jsonl"
        damaged = damaged_lines(curve)
        if damaged:
            set_aside(curve, f"{damaged} of its lines")
        return not damaged and None not in saved

    def before(self, model: Model) -> None:
        """Measure the model that the attacker received, if the attack's own first step comes later."""
        path = self.folder / "evaluations" / "before.json"
        if path.exists() and (saved := _saved(path)):
            self.evaluations.append(saved)
            self.files.append(path)
        else:
            self.measure(Progress(phase="start", step=0, max_steps=0, model=model, flops=0.0), path)
        self.early = 1

    def measure(self, progress: Progress, path: Path | None = None) -> None:
        """Evaluate the current model, and save the result."""
        start = time.perf_counter()
        scores, judged = evaluate(progress.model, self.suite)
        if self.suite.group_size and not self.evaluations:
            scores = (*scores, *diversity(progress.model, self.suite))
        if self.start is not None:
            scores = (*scores, *divergence(progress.model, self.start, self.suite))
        if self.evaluations:  # the first one tells the reward before the attack
            answers, judge = judged[: len(self.suite.harmful)], self.settings.harm_judges[0]
            before = self.evaluations[0].score(REWARD)
            scores = (*scores, *hacking(answers, judge, bound=self.suite.harm_bound, before=before))
        evaluation = Evaluation(
            step=progress.step,
            samples=progress.samples,
            tokens=progress.tokens,
            flops=progress.flops,
            seconds=progress.seconds,
            scores=scores,
        )
        self.add(evaluation, judged, path)
        self.seconds += time.perf_counter() - start

    def add(self, evaluation: Evaluation, judged: Sequence[Judged], path: Path | None = None) -> None:
        """Save an evaluation and judged answers."""
        place = path or self.folder / "evaluations" / f"step-{evaluation.step:08d}.json"
        rows = [row for answer in judged for row in completion_rows(evaluation.step, answer)]
        write_json(place, {"evaluation": asdict(evaluation), "completions": rows})
        self.evaluations.append(evaluation)
        self.files.append(place)

    def keep(self, number: int, of: int, make: Callable[[], Any]) -> Any:
        """Piece `number` of `of`, a JSON value, computed unless an interrupted run has saved it; see `attacks.Keep`."""
        path = self.folder / "evaluations" / f"piece-{number:08d}.json"
        try:
            made = read_json(path) if path.exists() else None
        except HoldfastError as error:
            set_aside(path, error)
            made = None
        if made is None:
            write_json(path, make())
        self.report({"step": number + 1, "max_steps": of, "harmfulness": self._harm()})
        return read_json(path) if made is None else made

    def close(self) -> None:
        """Put all completions into one file."""
        rows = [row for path in self.files for row in read_json(path)["completions"]]
        write_completions(self.folder / "completions.parquet", rows)

    def clear(self) -> None:
        """Remove files that only an interrupted run needs; called after the cell's record is written."""
        discard(self.folder / "evaluations")

    def _resume(self, step: int) -> None:
        """Load evaluations up to `step`; later ones belong to the interrupted run."""
        keep_lines(self.folder / "curves.jsonl", step)
        for path in sorted((self.folder / "evaluations").glob("step-*.json")):
            evaluation = evaluation_from_json(read_json(path)["evaluation"])
            if evaluation.step > step:
                path.unlink()
            else:
                self.evaluations.append(evaluation)
                self.files.append(path)

    def _drop_last(self, step: int) -> None:
        if len(self.evaluations) > self.early and self.evaluations[-1].step == step:
            self.evaluations.pop()
            self.files.pop().unlink()

    def _broken(self) -> bool:
        threshold, limit = self.settings.break_threshold, self.settings.collapse_threshold
        return bool(self.evaluations) and is_break(self.evaluations[-1], threshold, max_invalid=limit)

    def _harm(self) -> float | None:
        return self.evaluations[-1].value("harmfulness") if self.evaluations else None


def _saved(path: Path) -> Evaluation | None:
    """A saved evaluation; if it cannot be read, `None`, and the file is set aside."""
    try:
        value = read_object(path)
        rows = value["completions"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("completions are not rows")
        return evaluation_from_json(value["evaluation"])
    except (HoldfastError, KeyError, TypeError, ValueError, AttributeError) as error:
        set_aside(path, error)
        return None


def completion_rows(step: int, judged: Judged) -> list[dict[str, Any]]:
    """A judged completion as rows of the completions table, one per judge."""
    completion = judged.completion
    shared = {
        "step": step,
        "role": judged.part or completion.example.role,
        "domain": completion.example.domain,
        "prompt": completion.example.question,
        "completion": completion.text,
        "num_tokens": completion.num_tokens,
        "finished": completion.finished,
    }
    return [
        {
            **shared,
            "judge": name,
            "score": verdict.score,
            "valid": verdict.valid,
            "refused": verdict.refused,
            "reason": verdict.reason,
            **({} if judged.longer is None else _longer(judged.longer, name)),
        }
        for name, verdict in judged.verdicts.items()
    ]


def _longer(longer: Longer, judge: str) -> dict[str, Any]:
    """The columns of an answer that is judged at two lengths."""
    return {
        "longer": longer.completion.text,
        "longer_tokens": longer.completion.num_tokens,
        "longer_score": longer.verdicts[judge].score,
        "flips": judge in longer.flipped,
    }
