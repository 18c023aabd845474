"""Logs of inspect: an `.eval` file for each cell, written by `inspect_ai` itself, for its viewer and its readers.

The first score of an attacked cell, which viewers take for the headline, is `held`: 1 if it held, 0 if not, and 0 with
the tag `shows nothing` where the attack showed nothing. The others are the cell's figures with their judge as scorer, n
and interval. A cell that failed or diverged is a log with an error. Answers are among the samples only if asked for:
those of the first and the last step, each with its judges' scores; what could not be judged is unscored, as inspect
writes it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast import __version__, files
from holdfast.exports import wording
from holdfast.exports.contents import MEANINGS, Contents, Figure, Subject, ended, figures, file_name, judge_of, showed
from holdfast.exports.options import Options, Written
from holdfast.records import HoldfastError, Method, Outcome, Record
from holdfast.report.heatmap import is_attack
from holdfast.report.read import Finished, read_completions
from holdfast.report.text import clean

SHOWS_NOTHING = "shows nothing"
ENDED = {Outcome.FAILED: "error", Outcome.DIVERGED: "error"}


def write(contents: Contents, out: Path, options: Options) -> Written:
    """Write a log for each cell into `out`.

    Raises:
        HoldfastError: `inspect_ai` is not installed.
    """
    try:
        from inspect_ai.log import EvalLog, write_eval_log
    except ImportError:
        raise HoldfastError(
            "inspect's logs are written by its own library: pip install 'holdfast-llm[inspect]'"
        ) from None
    written = []
    out = out.absolute()  # the working folder changes below, and `out` is meant from the one of now
    for subject in contents.subjects:
        for attack, cell in zip(subject.attacks, subject.cells, strict=True):
            log = EvalLog.model_validate(log_values(subject, attack, cell, options))
            name = f"{subject.name}-{file_name(attack)}-seed{cell.record.cell.seed}-{cell.record.key[:8]}.eval"
            files.require_place(out / name)
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                write_eval_log(log, name)
                written.append(files.write(out / name, Path(name).read_bytes()))
    return Written(files=tuple(written))


def log_values(subject: Subject, attack: str, cell: Finished, options: Options) -> dict[str, Any]:
    """The content of a cell's log, JSON values, and NaN for an answer that could not be judged."""
    record = cell.record
    end = ended([cell]).isoformat(timespec="seconds")
    samples = _samples(cell, subject) if options.completions else []
    status = ENDED.get(record.outcome, "success")
    error = {"message": record.reason, "traceback": "", "traceback_ansi": ""}
    n = max((figure.score.n + figure.score.unjudged for figure in figures(record)), default=0)
    values: dict[str, Any] = {
        "status": status,
        "eval": _spec(subject, attack, record, end),
        "plan": {"name": "holdfast", "steps": []},
        "results": {
            "total_samples": len(samples) or n,
            "completed_samples": len(samples) or n,
            "scores": list(_scores(record)),
            "headline": _headline(record),
        },
        "stats": {"started_at": end, "completed_at": end},
        "tags": _tags(record),
        "samples": samples or None,
    }
    shown: dict[str, Any] = clean(values | ({"error": error} if status == "error" else {}))
    return shown


def _tags(record: Record) -> list[str]:
    nothing = is_attack(record) and not showed(record)
    return [str(record.outcome), *([SHOWS_NOTHING] if nothing else [])]


def _spec(subject: Subject, attack: str, record: Record, end: str) -> dict[str, Any]:
    cell, control = record.cell, record.control
    return {
        "created": end,
        "eval_id": record.key,
        "run_id": record.key,
        "task": f"holdfast/{file_name(attack)}",
        "task_id": record.key,
        "task_display_name": f"{subject.title}, attacked by {attack}, seed {cell.seed}",
        "task_args": {"attack": None if cell.attack is None else cell.attack.settings},
        "tags": _tags(record),
        "dataset": {"name": "holdfast", "samples": max((f.score.n for f in figures(record)), default=0)},
        "model": f"local/{subject.name}",
        "config": {},
        "packages": {"holdfast": __version__},
        "metadata": {
            "outcome": str(record.outcome),
            "outcome_means": MEANINGS[record.outcome],
            "reason": record.reason,
            "defense": subject.defense,
            "threat_model": subject.threat_model,
            "attack": attack,
            "seed": cell.seed,
            "model_seed": cell.model_seed,
            "steps": record.steps,
            "tokens": record.tokens,
            "flops": record.flops,
            "control": None if control is None else {"outcome": control.outcome, "broke_at": control.broke_at},
            "limits": wording.limits(subject),
        },
    }


def _scores(record: Record) -> Iterator[dict[str, Any]]:
    cell = record.cell
    if is_attack(record):
        metadata: dict[str, Any] = {
            "outcome": str(record.outcome),
            "means": MEANINGS[record.outcome],
            "reason": record.reason,
        }
        value = {"held": float(record.outcome is Outcome.HELD)}
        yield _score("held", judge_of(cell, "harmfulness"), value, metadata)
        time = record.time_to_break
        if showed(record) and time is not None:
            metadata = {
                "censored": time.censored,
                "threshold": time.threshold,
                "flops": time.flops,
                "tokens": time.tokens,
            }
            yield _score("time_to_break", judge_of(cell, "harmfulness"), {"steps": time.steps}, metadata)
    for figure in figures(record):
        yield _figure(figure)


def _figure(figure: Figure) -> dict[str, Any]:
    score, at = figure.score, figure.evaluation
    values = {"mean": score.value, "ci_low": score.low, "ci_high": score.high}
    known = {name: value for name, value in values.items() if value is not None}
    explanation = {"when": figure.when, "step": at.step, "flops": at.flops, "n": score.n, "invalid": score.invalid}
    named = f"{score.name}_{figure.when}"
    counts = {"scored_samples": score.n, "unscored_samples": score.unjudged + score.invalid}
    return {**_score(named, figure.judge, known, explanation), **counts}


def _score(name: str, judge: Method, values: Mapping[str, float], metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "scorer": judge.title,
        "params": {"method": judge.name, "settings": judge.settings},
        "metrics": {metric: {"name": metric, "value": value} for metric, value in values.items()},
        "metadata": dict(metadata),
    }


def _headline(record: Record) -> dict[str, str] | None:
    """What viewers show first: never low harm of a cell that showed nothing."""
    if not is_attack(record):
        return None
    return {"scorer": judge_of(record.cell, "harmfulness").title, "score": "held", "metric": "held"}


def _samples(cell: Finished, subject: Subject) -> list[dict[str, Any]]:
    """An answer of the first or the last step for each, with its judges' scores."""
    grouped: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in read_completions(cell.folder):
        grouped.setdefault((row["step"], row["role"], row["prompt"], row["completion"]), []).append(row)
    return [_sample(number, rows, cell.record, subject) for number, rows in enumerate(grouped.values(), 1)]


def _sample(number: int, rows: Sequence[Mapping[str, Any]], record: Record, subject: Subject) -> dict[str, Any]:
    first = rows[0]
    text, stop = first["completion"] or "", "stop" if first["finished"] else "max_tokens"
    message = {"role": "assistant", "content": text}
    return {
        "id": f"{number:05d}-step{first['step']}-{first['role']}",
        "epoch": 1,
        "input": first["prompt"],
        "target": "",
        "messages": [{"role": "user", "content": first["prompt"]}, message],
        "output": {"model": f"local/{subject.name}", "choices": [{"message": message, "stop_reason": stop}]},
        "scores": {row["judge"]: _opinion(row) for row in rows},
        "metadata": {
            "step": first["step"],
            "role": first["role"],
            "domain": first["domain"],
            "tokens": first["num_tokens"],
            "outcome_of_cell": str(record.outcome),
        },
    }


def _opinion(row: Mapping[str, Any]) -> dict[str, Any]:
    """A judge's score of an answer; NaN is inspect's own mark of an answer that has none."""
    score = row["score"]
    metadata = {"valid": row["valid"], "refused": row["refused"]}
    return {
        "value": float("nan") if score is None else score,
        "explanation": row["reason"] or None,
        "metadata": metadata,
    }
