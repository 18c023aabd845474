"""Every Eval Ever: one JSON file for each defense on a model, in its schema 0.3.0 (evalevalai.com, MIT).

A file lies where its datastore expects it, `data/holdfast/DEVELOPER/MODEL/UUID.json`. Results are those of single runs,
each with attack, seed, step and FLOPs among its details, and for each attack the share of runs that held, over seeds.
Intervals stand in `uncertainty`, language models that judge in `llm_scoring`, other judges in the metric's details.
How an attack ended is a result of levels, *not held* below *held*, and -1, the schema's value for unknown, where
nothing was shown.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast import __version__, files
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.exports import wording
from holdfast.exports.contents import (
    MEANINGS,
    Contents,
    Figure,
    Subject,
    ended,
    figures,
    file_name,
    judge_of,
    lower_is_better,
    showed,
    world,
)
from holdfast.exports.options import Options, Written
from holdfast.generative import rubrics
from holdfast.records import Cell, Method, Outcome, Record, digest
from holdfast.report.heatmap import is_attack
from holdfast.report.summarise import ReportRow, step_unit
from holdfast.report.text import clean

SCHEMA = "0.3.0"
COLLECTION = "holdfast"
LEVELS = ("not held", "held")
UNKNOWN = -1.0
"""The schema's score for a level that is not known."""
_SHARE = {"score_type": "continuous", "min_score": 0.0, "max_score": 1.0, "metric_unit": "proportion"}
_WORDS = {"before": "before the attack", "peak": "highest during the attack", "after": "after the attack"}


def write(contents: Contents, out: Path, options: Options) -> Written:
    """Write a file for each subject below `out`."""
    written = []
    for subject in contents.subjects:
        content = clean(evaluation_log(subject, contents, options))
        developer, _, model = content["model_info"]["id"].partition("/")
        keys = digest([record.key for record in subject.records], 32)
        name = f"{uuid.UUID(keys, version=4)}.json"  # of the cells' keys, so that the same runs give the same name
        place = out / "data" / COLLECTION / developer / model / name
        files.require_place(place)
        written.append(files.write_json(place, content))
    return Written(files=tuple(written))


def evaluation_log(subject: Subject, contents: Contents, options: Options) -> dict[str, Any]:
    """The content of a subject's file, JSON values."""
    identity, now = model_id(subject), f"{time.time():.0f}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{COLLECTION}/{identity}/{now}",
        "evaluation_timestamp": f"{ended(subject.cells).timestamp():.0f}",
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": f"Holdfast runs: {', '.join(contents.grids)}",
            "source_type": "evaluation_run",
            "source_organization_name": options.organization,
            "evaluator_relationship": "other",
            "additional_details": {
                **{f"limit_{i}": text for i, text in enumerate(wording.limits(subject, contents.unfinished), 1)},
                **{f"not_shown_{i}": text for i, text in enumerate(wording.not_shown(subject), 1)},
            },
        },
        "model_info": _model(subject, identity),
        "eval_library": {"name": "holdfast", "version": __version__, "additional_details": _versions(subject)},
        "evaluation_results": list(_results(subject)),
    }


def model_id(subject: Subject) -> str:
    """`developer/model`: a model of the Hub that has no defense by its own id, any other as `local/NAME`."""
    path = str(subject.cells[0].record.cell.model_settings.get("path", ""))
    parts = path.split("/")
    plain = len(parts) == 2 and all(part == file_name(part) for part in parts) and not Path(path).exists()
    return path if plain and not subject.defended else f"local/{subject.name}"


def _model(subject: Subject, identity: str) -> dict[str, Any]:
    cell = subject.cells[0].record.cell
    versions = subject.cells[0].record.environment
    return {
        "name": f"{subject.model} with {subject.defense}" if subject.defended else subject.model,
        "id": identity,
        "inference_platform": "local",
        "inference_engine": {"name": "transformers", "version": str(versions.get("transformers", "unknown"))},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "unknown",
            "defense": subject.defense,
            "threat_model": subject.threat_model,
            "is_invented_sandbox": str(is_sandbox(cell)).lower(),
            "world": world(cell),
            "base_model": json.dumps(cell.undefended.model_settings, sort_keys=True),
            "defense_settings": _methods((*cell.stages, *cell.constraints)),
        },
    }


def _versions(subject: Subject) -> dict[str, str]:
    ran = sorted({str(record.environment.get("holdfast", "unknown")) for record in subject.records})
    return {"measured_by_versions": ", ".join(ran)}


def _methods(methods: tuple[Method, ...]) -> str:
    return json.dumps([{"name": method.name, "settings": method.settings} for method in methods], sort_keys=True)


def _results(subject: Subject) -> Iterator[dict[str, Any]]:
    for row in subject.rows:
        if row.held is not None:
            yield _held(row, subject)
    for attack, record in zip(subject.attacks, subject.records, strict=True):
        common = _details(attack, record)
        if is_attack(record):
            yield _outcome(attack, record, common)
            if showed(record) and record.time_to_break is not None:
                yield _time(attack, record, common)
        for figure in figures(record):
            yield _figure(attack, record, figure, common)


def _details(attack: str, record: Record) -> dict[str, str]:
    """What stands beside each result of a cell, texts only, as the schema asks."""
    cell, control = record.cell, record.control
    return {
        "attack": attack,
        "attack_settings": _methods((*filter(None, [cell.attack]), *cell.adaptive)),
        "seed": str(cell.seed),
        "model_seed": str(cell.model_seed),
        "cell": record.key,
        "outcome": str(record.outcome),
        "outcome_means": MEANINGS[record.outcome],
        "reason": record.reason,
        "control": "none" if control is None else f"{control.outcome}, broke at {control.broke_at} ({control.key})",
        "break_threshold": f"{settings_of(cell).evaluation.break_threshold:g}",
        "attack_steps": str(record.steps),
        "attack_samples": str(record.samples),
        "attack_tokens": str(record.tokens),
        "attack_flops": _flops(record.flops),
    }


def _flops(flops: float | None) -> str:
    return "not counted" if flops is None else f"{flops:.6g}"


def _result(key: str, attack: str, metric: Mapping[str, Any], score: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    return {
        "evaluation_result_id": key,
        "evaluation_name": f"{COLLECTION}: {attack}",
        "source_data": _data(cell),
        "metric_config": dict(metric),
        "score_details": dict(score),
        "generation_config": _generation(cell),
    }


def _generation(cell: Cell) -> dict[str, Any]:
    settings = settings_of(cell).evaluation
    return {"generation_args": {"temperature": settings.temperature, "max_tokens": settings.max_new_tokens}}


def _data(cell: Cell) -> dict[str, Any]:
    settings = settings_of(cell)
    named = {"harmful": settings.data.harmful, "benign": settings.data.benign}
    paths = {f"{name}_prompts": str(source.path) for name, source in named.items() if source is not None}
    return {
        "dataset_name": ", ".join(paths.values()) or "the invented prompts of Holdfast's sandbox",
        "source_type": "other",
        "additional_details": {
            **paths,
            "split": settings.evaluation.split,
            "prompts": str(settings.evaluation.num_prompts),
            "hashes": json.dumps(settings.data_fingerprints, sort_keys=True),
        },
    }


def _held(row: ReportRow, subject: Subject) -> dict[str, Any]:
    """The share of an attack's runs that held; a run that showed nothing has not."""
    assert row.held is not None
    records = subject.records_of(row)
    metric = {
        **_SHARE,
        "metric_id": "holdfast.held_share",
        "metric_name": "share of runs that held",
        "metric_kind": "proportion",
        "evaluation_description": wording.HELD_WITH_CONTROL,
        "lower_is_better": False,
        **_judged(judge_of(records[0].cell, "harmfulness")),
    }
    low, high = row.held.low, row.held.high
    score = {
        "score": row.held.held / row.held.n,
        "details": {
            "attack": row.label.attack,
            "runs": row.runs,
            "seeds": ", ".join(map(str, row.seeds)),
            "outcomes": wording.outcomes(row.outcomes),
        },
        "uncertainty": {
            "confidence_interval": {
                "lower": low,
                "upper": high,
                "confidence_level": 0.95,
                "method": "exact, over runs" if len(row.held.by_model) == 1 else "Gaffke's bound, over models",
            },
            "num_samples": row.held.n,
        },
    }
    return _result(f"{file_name(row.label.attack)}/held_share", row.label.attack, metric, score, records[0].cell)


def _outcome(attack: str, record: Record, common: Mapping[str, str]) -> dict[str, Any]:
    known = {Outcome.HELD: 1.0, Outcome.BROKE: 0.0, Outcome.USELESS: 0.0}
    metric = {
        "metric_id": "holdfast.outcome",
        "metric_name": "how the attack ended",
        "metric_kind": "outcome",
        "evaluation_description": wording.HELD_WITH_CONTROL,
        "lower_is_better": False,
        "score_type": "levels",
        "level_names": list(LEVELS),
        "has_unknown_level": True,
        **_judged(judge_of(record.cell, "harmfulness")),
    }
    score = {"score": known.get(record.outcome, UNKNOWN), "details": dict(common)}
    return _result(f"{record.key}/outcome", attack, metric, score, record.cell)


def _time(attack: str, record: Record, common: Mapping[str, str]) -> dict[str, Any]:
    spent = record.time_to_break
    assert spent is not None
    least = "a lower bound: it did not break by then" if spent.censored else "exact up to the steps between evaluations"
    metric = {
        "metric_id": "holdfast.time_to_break",
        "metric_name": "time to break",
        "metric_kind": "time",
        "metric_unit": {"step": "steps"}.get(step_unit(record), step_unit(record)),
        "evaluation_description": f"The first evaluated step at which mean harm exceeds {spent.threshold:g}.",
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0,
        "max_score": "Infinity",
        **_judged(judge_of(record.cell, "harmfulness")),
    }
    details = {
        **common,
        "censored": str(spent.censored).lower(),
        "meaning": least,
        "samples": str(spent.samples),
        "tokens": str(spent.tokens),
        "seconds": f"{spent.seconds:.6g}",
        "flops": _flops(spent.flops),
    }
    return _result(
        f"{record.key}/time_to_break", attack, metric, {"score": float(spent.steps), "details": details}, record.cell
    )


def _figure(attack: str, record: Record, figure: Figure, common: Mapping[str, str]) -> dict[str, Any]:
    score, at = figure.score, figure.evaluation
    metric = {
        **_SHARE,
        "metric_id": f"holdfast.{score.name}.{figure.when}",
        "metric_name": f"{score.name}, {_WORDS[figure.when]}",
        "metric_kind": "proportion",
        "lower_is_better": lower_is_better(score.name),
        **_judged(figure.judge),
    }
    details = {
        **common,
        "when": _WORDS[figure.when],
        "step": str(at.step),
        "samples": str(at.samples),
        "tokens": str(at.tokens),
        "flops": _flops(at.flops),
        "n": str(score.n),
        "unjudged": str(score.unjudged),
        "invalid": str(score.invalid),
    }
    uncertainty: dict[str, Any] = {"num_samples": score.n}
    if score.low is not None and score.high is not None:
        uncertainty["confidence_interval"] = {"lower": score.low, "upper": score.high, "confidence_level": 0.95}
    value = {"score": score.value, "details": details, "uncertainty": uncertainty}
    return _result(f"{record.key}/{score.name}/{figure.when}", attack, metric, value, record.cell)


def _judged(judge: Method) -> dict[str, Any]:
    """The judge of a metric: a language model with its rubric in `llm_scoring`, any other in the details."""
    settings = json.dumps(judge.settings, sort_keys=True)
    named = {"judge": judge.title, "judge_method": judge.name, "judge_settings": settings}
    if judge.name != "llm":
        return {"additional_details": named}
    rubric = rubrics.RUBRICS.get(str(judge.settings.get("rubric", "harm")), rubrics.RUBRICS["harm"])
    path = judge.settings.get("path")
    model_name = next((name for key, name in judge.fingerprints.items() if key.endswith("_MODEL")), None)
    model = str(path or model_name or "unknown")
    info = {"deployment_type": "self_deployed" if path else "unknown", "model_availability": "unknown"}
    one: dict[str, Any] = {"model_info": {"name": model, "id": model, "additional_details": info}}
    temperature = judge.settings.get("temperature")
    if isinstance(temperature, int | float):
        one["temperature"] = float(temperature)
    return {
        "llm_scoring": {"judges": [one], "input_prompt": f"{rubric.task}\n\n{rubric.form}"},
        "additional_details": named,
    }
