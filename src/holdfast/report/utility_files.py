"""Read what other tools measured of a model: result files of lm-evaluation-harness, and logs of inspect.

A new tool needs one reader and one row in `READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.evaluation.intervals import NORMAL
from holdfast.files import parse_json
from holdfast.files.documents import text_of
from holdfast.records import HoldfastError

DISPERSION = ("stderr", "bootstrap_stderr", "std", "stddev", "var")
"""Metrics of inspect that tell how sure another one is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One number of another tool: `value` of a task's `metric` over `n` samples, with its own standard error.

    `version` is the task's and that of the tool, `shots` the number of examples in the prompt; `None` where the file
    does not say.
    """

    task: str
    metric: str
    value: float
    stderr: float | None = None
    n: int | None = None
    version: str = ""
    shots: int | None = None

    @property
    def low(self) -> float | None:
        """The lower end of value +- 1.96 standard errors; `None` without one."""
        return None if self.stderr is None else self.value - NORMAL * self.stderr

    @property
    def high(self) -> float | None:
        """The upper end of that interval."""
        return None if self.stderr is None else self.value + NORMAL * self.stderr


def lm_eval(path: Path) -> list[Measured]:
    """The metrics of a result file of lm-evaluation-harness 0.4 (`results_*.json`), those of groups too.

    A metric that is not a finite number was not measured and is left out.

    Raises:
        HoldfastError: it is not such a file, or has no metric.
    """
    wrong = f"{path}: is no result file of lm-evaluation-harness"
    try:
        content = parse_json(text_of(path), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise HoldfastError(f"{path}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise HoldfastError(f"{wrong}, but it is no JSON: {' '.join(str(error).split())[:100]}") from None
    results = content.get("results") if isinstance(content, Mapping) else None
    if not isinstance(results, Mapping) or not all(isinstance(row, Mapping) for row in results.values()):
        raise HoldfastError(f"{wrong}: it has no `results` by task; give the file `results_*.json` that it writes")
    scores = [each for task, row in results.items() for each in _of_task(str(task), row, content)]
    if not scores:
        raise HoldfastError(f"{wrong} of version 0.4 or later: it has no metric with a filter, such as `acc,none`")
    return scores


def _of_task(task: str, row: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[Measured]:
    tool = str(content.get("lm_eval_version") or "unknown")
    version = f"task {_part(content, 'versions', task) or 'unknown'}, lm-eval {tool}"
    counts, shots = _part(content, "n-samples", task), _part(content, "n-shot", task)
    n = counts.get("effective") if isinstance(counts, Mapping) else row.get("sample_len")
    for key, value in row.items():
        metric, comma, kept_by = str(key).partition(",")
        if not comma or metric.endswith("_stderr") or _number(value) is None:
            continue
        yield Measured(
            task=task,
            metric=metric if kept_by == "none" else f"{metric} ({kept_by})",
            value=float(value),
            stderr=_number(row.get(f"{metric}_stderr,{kept_by}")),
            n=_count(n),
            version=version,
            shots=_count(shots),
        )


def _part(content: Mapping[str, Any], name: str, task: str) -> Any:
    part = content.get(name)
    return part.get(task) if isinstance(part, Mapping) else None


def _number(value: Any) -> float | None:
    """A finite number; the tool writes text where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e15 else None


def inspect(path: Path) -> list[Measured]:
    """The metrics of a finished log of inspect (`.eval` or `.json`), read by `inspect_ai`.

    Raises:
        HoldfastError: `inspect_ai` is not installed, or it is no log, or one that did not end well or has no score.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise HoldfastError(f"{path}: needs inspect's own reader: pip install 'holdfast-llm[inspect]'") from None
    if not path.is_file():
        raise HoldfastError(f"{path}: there is no such file")
    try:
        log = read_eval_log(str(path.resolve()), header_only=True)
    except Exception as error:  # whatever it raises for what is no log
        raise HoldfastError(f"{path}: is no log of inspect: {' '.join(str(error).split())[:100]}") from None
    return of_log(log, path)


def of_log(log: Any, path: Path) -> list[Measured]:
    """The metrics of a log of inspect, an `inspect_ai.log.EvalLog`, that was read from `path`.

    Raises:
        HoldfastError: its evaluation did not end well, or it has no score.
    """
    if log.status != "success" or log.results is None:
        raise HoldfastError(
            f"{path}: the evaluation ended with status {log.status!r}; give a log of one that succeeded"
        )
    version = f"task {log.eval.task_version}, inspect_ai {log.eval.packages.get('inspect_ai', 'unknown')}"
    scores = [each for score in log.results.scores for each in _of_score(score, str(log.eval.task), version)]
    if not scores:
        raise HoldfastError(f"{path}: has no score; score it with `inspect score` first")
    return scores


def _of_score(score: Any, task: str, version: str) -> Iterator[Measured]:
    errors = [m.value for name in DISPERSION[:2] for m in score.metrics.values() if m.name == name]
    for name, metric in score.metrics.items():
        if metric.name in DISPERSION or _number(metric.value) is None:
            continue
        yield Measured(
            task=task,
            metric=name if score.name == score.scorer else f"{score.name}: {name}",
            value=float(metric.value),
            stderr=_number(errors[0]) if errors else None,
            n=_count(score.scored_samples),
            version=version,
        )


READERS: dict[str, Callable[[Path], list[Measured]]] = {"lm_eval": lm_eval, "inspect": inspect}
