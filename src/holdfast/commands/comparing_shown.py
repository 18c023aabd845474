"""What `holdfast judge compare` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from holdfast.commands import display
from holdfast.commands.comparing import Answers, Calibration, Verdicts, calibration
from holdfast.evaluation import agreement
from holdfast.report.page import plural

LONGEST = 300
"""Characters of an answer that are printed."""


def show_agreement(answers: Answers, examples: int) -> None:
    """Print errors against labels, agreement by pair and in all, and answers that the judges differ on."""
    if answers.harmful is not None:
        _print_errors(agreement.errors(answers.scores, answers.harmful))
        _print_calibration(calibration(answers))
    if len(answers.scores) < 2:
        return
    table = _table("Agreement of two judges", "judges", "n", "same call", "Cohen's kappa", "rank correlation")
    for pair in agreement.pairs(answers.scores):
        same, names = display.interval(pair.same), f"{display.shown(pair.first)}, {display.shown(pair.second)}"
        table.add_row(names, str(pair.same.n), same, _number(pair.kappa), _number(pair.correlation))
    if table.row_count:
        display.console.print(table)
    places = agreement.disputed(answers.scores)
    alpha, kappa = _number(agreement.alpha(answers.scores)), _number(agreement.fleiss(answers.scores))
    display.note(
        f"Krippendorff's alpha of all {len(answers.scores)}: {alpha}, Fleiss' kappa {kappa}; "
        f"they differ on {plural(len(places), 'answer')}"
    )
    for place in places[:examples]:
        (prompt, text), own = answers.rows[place], {name: scores[place] for name, scores in answers.scores.items()}
        opinions = ", ".join(f"{name} {_number(score)}" for name, score in own.items())
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
        display.note(f"  {prompt}\n    {json.dumps(cut, ensure_ascii=False)}  ({opinions})")


def show_verdicts(verdicts: Sequence[Verdicts]) -> None:
    """Print the cells that break by one judge and not by another, or end otherwise."""
    broke, ended = sum(verdict.differ for verdict in verdicts), sum(verdict.end_otherwise for verdict in verdicts)
    display.note(
        f"{broke} of {len(verdicts)} cells break by one judge and not by another; {ended} have another outcome"
    )
    differ = [verdict for verdict in verdicts if verdict.differ or verdict.end_otherwise]
    if not differ:
        return
    names = list(dict.fromkeys(name for verdict in differ for name in verdict.by_judge))
    table = _table(
        "Cells whose verdict depends on the judge", "defense", "attack", "seed", *(f"by {name}" for name in names)
    )
    for verdict in differ:
        cell = verdict.record.cell
        own = [_called(verdict, name) for name in names]
        table.add_row(display.shown(cell.defense), display.shown(cell.attacker), str(cell.seed), *own)
    display.console.print(table)


def _called(verdict: Verdicts, name: str) -> str:
    step, harm = verdict.by_judge.get(name, (None, None))
    if harm is None:
        return "not judged"
    text = f"broke at {step}" if step is not None else f"no break by {verdict.last_step}, at most {_number(harm)}"
    outcome = verdict.outcomes.get(name)
    return text if step is not None and outcome == "broke" else f"{outcome or 'open'}: {text}"


def _print_calibration(calibrations: Sequence[Calibration]) -> None:
    """Print how far scores can be read as probabilities, and the reliability table of each judge."""
    table = _table(
        "Scores as probabilities of harm", "judge", "n", "accuracy", "F1", "Brier score", "calibration error"
    )
    for one in calibrations:
        shares = [display.interval(score) for score in (one.accuracy, one.f1, one.brier)]
        table.add_row(display.shown(one.judge), str(one.brier.n), *shares, _number(one.calibration_error.value))
    display.console.print(table)
    bins = _table(
        "Reliability: scores beside the share of harmful answers", "judge", "mean score", "share harmful", "n"
    )
    for one in calibrations:
        for each in one.bins:
            bins.add_row(display.shown(one.judge), _number(each.confidence), _number(each.share), str(each.n))
    display.console.print(bins)


def _print_errors(errors: Sequence[agreement.Errors]) -> None:
    table = _table(
        "Errors on labelled answers",
        "judge",
        "harmful, called harmless",
        "n",
        "harmless, called harm",
        "n",
        "not judged",
    )
    for one in errors:
        shares = [
            text
            for score in (one.missed, one.invented)
            for text in (("-", "0") if score is None else (display.interval(score), str(score.n)))
        ]
        table.add_row(display.shown(one.judge), *shares, str(one.unjudged))
    display.console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def show_usage(name: str, usage: Mapping[str, Any]) -> None:
    """Print what a judge asked of a language model, and how many replies were no verdict."""
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    price = f"${usage['price']:.4f}" if usage["price"] or not tokens else "no price set (input_price, output_price)"
    without = usage["unparsed"] + usage["failures"]
    shown = f"{name}: {plural(usage['replies'], 'reply')}, {usage['kept']} from before"
    display.note(f"{shown}, {plural(usage['retries'], 'request')} sent again; {plural(tokens, 'token')}, {price}")
    if without:
        of = usage["kept"] + usage["replies"] + usage["failures"]
        display.note(
            f"{name}: {without} of {plural(of, 'different answer')} not judged: no verdict in "
            f"{plural(usage['unparsed'], 'reply')}, no reply to {plural(usage['failures'], 'request')}"
        )
