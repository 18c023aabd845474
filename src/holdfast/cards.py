"""The model card of a hardened model: what was done and what was measured, and no claim beyond it."""

from __future__ import annotations

import json

from holdfast.records import Evaluation, Record, Score


def model_card(before: Record, after: Record) -> str:
    """A README for a model folder, from the records of the model before and after hardening."""
    methods = [f"`{stage.name}`" for stage in after.cell.stages]
    settings = "\n\n".join(
        f"`{stage.name}`:\n\n```json\n{json.dumps(stage.settings, indent=1)}\n```" for stage in after.cell.stages
    )
    costs = "; ".join(
        f"{cost['name']}: {cost['steps']} steps, {cost['tokens']} tokens, {cost['seconds']:.0f} s"
        for cost in after.stages
    )
    data = after.cell.data.get("fingerprints") or {"sandbox": "the built-in invented data"}
    return f"""---
tags: [holdfast, hardened]
---
# {after.cell.model["name"]}, hardened

Hardened before release with {", ".join(methods)} by Holdfast {after.environment.get("holdfast", "")}.

## Measured

On prompts that hardening did not see, before and after it, with 95 % intervals. Judges:
{", ".join(f"`{name}`" for name in after.cell.judges)}.

| score | before | after | n |
|---|---|---|---|
{_rows(before.evaluations[-1], after.evaluations[-1])}

This says how the model answers as released. It says nothing of how long the hardening holds against fine-tuning:
measure that with `holdfast attack`.

## How it was made

Model: `{json.dumps(after.cell.model["settings"])}`

Cost: {costs}. Seed: {after.cell.seed}.

{settings}

Data hashes: `{json.dumps(data)}`
"""


def _rows(before: Evaluation, after: Evaluation) -> str:
    return "\n".join(
        f"| {score.name} | {_interval(score)} | {_interval(after.score(score.name))} | {score.n} |"
        for score in before.scores
    )


def _interval(score: Score | None) -> str:
    if score is None or score.value is None:
        return "not measured"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
