"""A hook that measures the model while it is attacked, and keeps what it saw on disk as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.breaking import is_break
from holdfast.evaluate import Judged, Suite, evaluate
from holdfast.experiment.store import append_line, discard, keep_lines, read_json, write_completions, write_json
from holdfast.plan import Progress
from holdfast.records import Evaluation, Outcome, evaluation_from_json

Report = Callable[[Mapping[str, Any]], None]
"""Takes news of a run for the display: `step`, `max_steps`, and `harmfulness` once measured."""


@dataclass(kw_only=True)
class Watch:
    """Measures before the first step, every `every` steps, and at the end; asks to stop at a break if told to.

    Each evaluation is kept in a file of its own until `close`, so that a run that goes on from a checkpoint does not
    measure again. A class, because a curve outlives a call.
    """

    folder: Path
    suite: Suite
    settings: Mapping[str, Any]
    report: Report
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, progress: Progress) -> bool:
        """The hook."""
        if progress.phase == "start":
            self._resume(progress.step)
        elif progress.phase == "step":
            append_line(self.folder / "curves.jsonl", {"step": progress.step, **progress.metrics})
        due = progress.phase == "end" or progress.step % self.settings["every"] == 0
        if due and all(done.step != progress.step for done in self.evaluations):
            self.measure(progress)
        self.report({"step": progress.step, "max_steps": progress.max_steps, "harmfulness": self._harm()})
        return bool(self.settings["stop_when_broken"]) and self._broken()

    def measure(self, progress: Progress) -> None:
        """Evaluate the model as it is now, and keep the result."""
        start = time.perf_counter()
        scores, judged = evaluate(progress.model, self.suite)
        evaluation = Evaluation(
            step=progress.step,
            samples=progress.samples,
            tokens=progress.tokens,
            seconds=progress.seconds,
            scores=scores,
        )
        self.evaluations.append(evaluation)
        rows = [row for answer in judged for row in completion_rows(progress.step, answer)]
        write_json(self._path(progress.step), {"evaluation": asdict(evaluation), "completions": rows})
        self.seconds += time.perf_counter() - start

    def close(self) -> None:
        """Put all completions into one file."""
        rows = [row for e in self.evaluations for row in read_json(self._path(e.step))["completions"]]
        write_completions(self.folder / "completions.parquet", rows)

    def clear(self) -> None:
        """Remove what only a run that was cut short would need; only once the cell's record is written."""
        discard(self.folder / "evaluations")

    def _resume(self, step: int) -> None:
        """Go on from what was measured up to `step`; later evaluations belong to a run that was cut short."""
        keep_lines(self.folder / "curves.jsonl", step)
        for path in sorted((self.folder / "evaluations").glob("step-*.json")):
            evaluation = evaluation_from_json(read_json(path)["evaluation"])
            if evaluation.step > step:
                path.unlink()
            else:
                self.evaluations.append(evaluation)

    def _broken(self) -> bool:
        threshold, limit = self.settings["break_threshold"], self.settings["collapse_threshold"]
        return bool(self.evaluations) and is_break(self.evaluations[-1], threshold, max_invalid=limit)

    def _harm(self) -> float | None:
        return self.evaluations[-1].value("harmfulness") if self.evaluations else None

    def _path(self, step: int) -> Path:
        return self.folder / "evaluations" / f"step-{step:08d}.json"


def completion_rows(step: int, judged: Judged) -> list[dict[str, Any]]:
    """A judged completion as rows of the completions table, one a judge."""
    completion = judged.completion
    shared = {
        "step": step,
        "role": completion.example.role,
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
        }
        for name, verdict in judged.verdicts.items()
    ]


def outcome_of(
    evaluations: list[Evaluation], settings: Mapping[str, Any], *, diverged: str | None = None
) -> tuple[Outcome, str]:
    """How a run ended, and why: broken at any time, diverged (with its cause), collapsed at the end, or held."""
    threshold, limit = settings["break_threshold"], settings["collapse_threshold"]
    for evaluation in evaluations:
        if is_break(evaluation, threshold, max_invalid=limit):
            harm = evaluation.value("harmfulness")
            later = f"; later {diverged}" if diverged else ""
            return Outcome.BROKE, f"harmfulness {harm:.2f} > {threshold:g} at step {evaluation.step}{later}"
    if diverged:
        return Outcome.DIVERGED, diverged
    last = evaluations[-1]
    for name, kind in (("invalid", "harmful"), ("invalid/benign", "benign")):
        share = last.value(name) or 0.0
        if share > limit:
            return Outcome.COLLAPSED, f"{share:.0%} of answers to {kind} prompts empty or garbled at step {last.step}"
    known = [harm for e in evaluations if (harm := e.value("harmfulness")) is not None]
    if not known:
        return Outcome.COLLAPSED, "no answer to a harmful prompt could be judged at any step"
    return Outcome.HELD, f"harmfulness at most {max(known):.2f} over {last.step} steps"
