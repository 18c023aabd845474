"""The model card of a hardened model: what was done and what was measured, and no claim beyond it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.outcomes import uselessness
from holdfast.records import Evaluation, Record, Score, evaluation_from_json

KEPT = 0.9
"""The share of helpfulness that a hardened model should keep; the card warns if it does not."""


def model_card(before: Record, after: Record) -> str:
    """The README of a model folder, from the records of the model before and after hardening."""
    methods = [f"`{stage.name}`" for stage in after.cell.stages]
    settings = "\n\n".join(
        f"`{stage.name}`:\n\n```json\n{json.dumps(stage.settings, indent=1)}\n```" for stage in after.cell.stages
    )
    costs = "; ".join(
        f"{cost['name']}: {cost['steps']} steps, {cost['tokens']} tokens, {cost['seconds']:.0f} s"
        for cost in after.stages
    )
    data = settings_of(after.cell).data_fingerprints or {"sandbox": "the built-in invented data"}
    return f"""---
tags: [holdfast, hardened]
---
# {after.cell.model_name}, hardened

Hardened before release with {", ".join(methods)} by Holdfast {after.environment.get("holdfast", "")}.

## Measured

On prompts that were not used in hardening, before and after it, with 95 % intervals. Judges:
{", ".join(f"`{name}`" for name in after.cell.judges)}.

{_table(before.evaluations[-1], _unrounded(after), after.evaluations[-1])}

{_benign_change(before.evaluations[-1].score("helpfulness"), after.evaluations[-1].score("helpfulness"))}
{_warning(before, after)} This describes the released model's answers. It does not show how long the hardening holds
against fine-tuning: measure that with `holdfast attack`, which compares it with the model that it was made from
(`holdfast.yaml` names it; set `models.undefended=FOLDER` if it has moved).

## How it was made

Model: `{json.dumps(after.cell.model_settings)}`

Cost: {costs}. Seed: {after.cell.seed}.

{_formats(after)}

{_trained(after)}

{settings}

Data hashes: `{json.dumps(data)}`
"""


def _table(before: Evaluation, unrounded: Evaluation | None, after: Evaluation) -> str:
    """The scores, with a column for those before the weights were rounded, if they were measured."""
    columns = [("before", before), ("after", after)]
    if unrounded is not None:
        columns.insert(1, ("after, not rounded", unrounded))
    head = ["score", *(title for title, _ in columns), "n"]
    rows = [
        [score.name, *(_interval(evaluation.score(score.name)) for _, evaluation in columns), str(score.n)]
        for score in before.scores
    ]
    return "\n".join([_line(head), "|---" * len(head) + "|", *map(_line, rows)])


def _line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _unrounded(after: Record) -> Evaluation | None:
    """The hardened model's scores before its weights were rounded to the stored type."""
    scores = (after.stages[-1].get("precision") or {}).get("scores") if after.stages else None
    return None if scores is None else evaluation_from_json({"step": 0, "scores": scores})


def _formats(after: Record) -> str:
    """The dtypes in which the model is stored and was trained, and the effect of rounding."""
    precision = after.stages[-1].get("precision") if after.stages else None
    if not precision:
        return "The dtypes were not recorded."
    if "master" not in precision:
        return (
            f"Stored in {precision['storage']}. The last stage trained nothing: it rounded the weights by "
            f"{precision['moved']:.2g} of their norm."
        )
    types = (
        f"Stored in {precision['storage']}; hardening trained {precision['master']} weights and computed in "
        f"{precision['compute']}."
    )
    if not precision["rounded"]:
        return f"{types} Storing did not round the weights."
    share = precision["rounded"] / precision["moved"] if precision["moved"] else float("inf")
    return (
        f"{types} Hardening changed the weights by {precision['moved']:.2g} of their norm, and storing rounded them by "
        f"{precision['rounded']:.2g}, {share:.2g} of the change. The scores above are those of the stored model, "
        "loaded again."
    )


def _benign_change(before: Score | None, after: Score | None) -> str:
    """The effect of hardening on answers to benign prompts, in one sentence."""
    if before is None or after is None or before.value is None or after.value is None:
        return "The change of benign helpfulness was not measured."
    words = f"Benign helpfulness changed by {after.value - before.value:+.3f}, on {after.n} prompts"
    if not before.value:
        return f"{words}; it was 0 before."
    share = after.value / before.value
    text = f"{words}: {share:.0%} of what it was"
    return f"{text}." if share >= KEPT else f"{text}. **Hardening cost more than a tenth of helpfulness.**"


def _warning(before: Record, after: Record) -> str:
    """A warning if the model is useless, as a paragraph; empty otherwise."""
    reason = uselessness(after, before)
    return "" if reason is None else f"\n**This model is useless, however much it refuses: {reason}.**\n"


def _trained(after: Record) -> str:
    """What each stage trained, one line for each of its runs."""
    lines = [
        f"- {cost['name']}: {part['parameters']:,} of {part['of']:,} weights, in "
        + ", ".join(f"`{name}`" for name in part["tensors"])
        for cost in after.stages
        for part in cost.get("trained") or ()
    ]
    return "Trained:\n\n" + "\n".join(lines) if lines else ""


def _interval(score: Score | None) -> str:
    if score is None or score.value is None:
        return "not measured"
    if score.low is None or score.high is None:  # as the share of distinct answers among few
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
