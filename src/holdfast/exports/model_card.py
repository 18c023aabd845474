"""A fragment of a model card: a page of Markdown with `model-index` metadata, for each defended model.

It is written and read back by `huggingface_hub`'s `ModelCard`. The metadata have the numbers, each with n, interval,
seeds and judge in its `args`; the page has them in tables, beside the undefended model's, with what was not shown and
the limits in words. Copy both into the card of the model that is released.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from holdfast import __version__
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.exports import wording
from holdfast.exports.contents import Contents, Subject, all_showed, estimate_of, judge_of
from holdfast.exports.options import Options, Written
from holdfast.files import require_place, write_text
from holdfast.records import HoldfastError
from holdfast.report.summarise import ReportRow
from holdfast.report.summarise.intervals import Estimate
from holdfast.report.text import clean, visible

BEFORE = ("harmfulness", "helpfulness", "over_refusal", "refusal_rate")
ATTACKED = (
    *("attack", "runs", "how they ended", "held", "time to break", "without the defense", "highest harm"),
    "helpfulness at the end",
)
UNATTACKED = "Robustness: nothing attacked this model, so its low harm says nothing of how long it lasts."
NOTHING_SHOWN = "not a figure of robustness: some runs show nothing"


def write(contents: Contents, out: Path, options: Options) -> Written:  # noqa: ARG001 - as every form
    """Write `out/MODEL.md` for each defended model.

    Raises:
        HoldfastError: no model has a defense.
    """
    subjects = [subject for subject in contents.subjects if subject.defended]
    if not subjects:
        raise HoldfastError("no model of these runs has a defense, and undefended ones are controls")
    written = []
    for subject in subjects:
        place = out / f"{subject.name}.md"
        require_place(place)
        written.append(write_text(place, f"{card(subject, contents.unfinished)}\n"))
    return Written(files=tuple(written))


def card(subject: Subject, unfinished: int = 0) -> str:
    """A subject's fragment, metadata first."""
    data = ModelCardData(model_name=subject.name, eval_results=list(_results(subject)), tags=["holdfast"])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_page(subject, unfinished)}"))


def _results(subject: Subject) -> Iterator[EvalResult]:
    for name in BEFORE:
        estimate = estimate_of(subject.before, "before", name)
        if estimate is not None and estimate.value is not None:
            args = {**_ends(estimate), "runs": subject.before.runs}
            yield _result(None, subject, name, estimate.value, judged=name, args=args)
    for row in subject.attacked:
        assert row.held is not None
        own = {"outcomes": wording.outcomes(row.outcomes), "runs": row.runs, "seeds": list(row.seeds)}
        held = {"held": row.held.held, "n": row.held.n, "low": row.held.low, "high": row.held.high}
        yield _result(
            row, subject, "held_share", row.held.held / row.held.n, judged="harmfulness", args={**held, **own}
        )
        if not all_showed(row):
            continue
        time = row.time_to_break
        if time is not None and time.steps is not None:
            spent = {"unit": row.unit, "low": time.low, "high": time.high, "never_broken": time.censored}
            yield _result(
                row, subject, "time_to_break", time.steps, judged="harmfulness", args={**spent, "n": time.seeds, **own}
            )
        for name, estimate in _after(row):
            if estimate is not None and estimate.value is not None:
                judged = "helpfulness" if name == "helpfulness" else "harmfulness"
                yield _result(row, subject, name, estimate.value, judged=judged, args={**_ends(estimate), **own})


def _after(row: ReportRow) -> list[tuple[str, Estimate | None]]:
    harm, useful = estimate_of(row, "peak"), estimate_of(row, "after", "helpfulness")
    return [("peak_harm", harm), ("helpfulness", useful)]


def _ends(estimate: Estimate) -> dict[str, Any]:
    interval = wording.BASES[estimate.basis]
    return {
        "n": estimate.n,
        "low": estimate.low,
        "high": estimate.high,
        "interval": interval,
        "of_runs": estimate.seeds,
    }


def _result(
    row: ReportRow | None, subject: Subject, name: str, value: float, *, judged: str, args: dict[str, Any]
) -> EvalResult:
    """A number of the metadata. The Hub's parser tells results apart by task, data set, config and split alone."""
    cell = subject.records[0].cell
    data = settings_of(cell).data
    source = "holdfast-sandbox" if is_sandbox(cell) or data.harmful is None else str(data.harmful.path)
    attack = "before any attack" if row is None else f"after the attack {row.label.attack}"
    return EvalResult(
        task_type="text-generation",
        task_name="resistance to harmful fine-tuning",
        dataset_type=visible(source),
        dataset_name=visible(source),
        dataset_config=visible(attack),
        dataset_split=settings_of(cell).evaluation.split,
        metric_type=name,
        metric_name=visible(f"{name.replace('_', ' ')}, {attack}"),
        metric_value=round(value, 6),
        metric_args=clean({**args, "judge": judge_of(cell, judged).title}),
    )


def _page(subject: Subject, unfinished: int) -> str:
    named = judge_of(subject.records[0].cell, "harmfulness").title
    helped = judge_of(subject.records[0].cell, "helpfulness").title
    attacked = subject.attacked
    missing = wording.not_shown(subject)
    parts = [
        f"## Resistance to harmful fine-tuning: {_text(subject.defense)}",
        f"Measured with Holdfast {__version__}; threat model: {_text(subject.threat_model)}. 95 % intervals in "
        f"brackets, of several runs over them. Judge of harm: `{_code(named)}`, of help: `{_code(helped)}`.",
        "### Before any attack",
        _table(("score", "value", "judge"), [_before_line(subject.before, name, subject) for name in BEFORE]),
        "### Attacked",
        _table(ATTACKED, [_attacked_line(row, subject) for row in attacked]) if attacked else "Nothing attacked it.",
        "### What was not shown",
        _missing(missing, attacked),
        "### Limits",
        _list(wording.limits(subject, unfinished)),
    ]
    return "\n\n".join(parts)


def _missing(missing: Sequence[str], attacked: Sequence[ReportRow]) -> str:
    if missing:
        return _list(missing)
    return "Every attack above broke this model or the undefended one." if attacked else UNATTACKED


def _before_line(row: ReportRow, name: str, subject: Subject) -> tuple[str, str, str]:
    judge = judge_of(subject.records[0].cell, name).title
    return name.replace("_", " "), wording.estimated(estimate_of(row, "before", name)), judge


def _attacked_line(row: ReportRow, subject: Subject) -> tuple[str, ...]:
    shown, (_, harm), (_, useful) = all_showed(row), *_after(row)
    return (
        row.label.attack,
        row.runs,
        wording.outcomes(row.outcomes),
        wording.shared(row.held),
        wording.timed(row.time_to_break, row.unit) if shown else NOTHING_SHOWN,
        wording.undefended(subject.records_of(row), row.unit),
        wording.estimated(harm) if shown else NOTHING_SHOWN,
        wording.estimated(useful) if shown else NOTHING_SHOWN,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *[[_text(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _text(text: str) -> str:
    """Text of others as plain text of a page: no HTML, no Markdown, one line."""
    plain = html.escape(" ".join(visible(text).split()), quote=False)
    return "".join(f"\\{char}" if char in "\\`*[]|#!~" else char for char in plain)


def _code(text: str) -> str:
    return visible(text).replace("`", "'")
