"""Save a trained judge as a Hugging Face folder: weights, tokenizer, configuration, scores, figure, card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.data.dataset import Data
from holdfast.files import write, write_json, write_text
from holdfast.judge_training.fitting import Trained
from holdfast.judge_training.recipes import RewardModel
from holdfast.judge_training.scores import Bin
from holdfast.methods.settings import plain
from holdfast.network.releasing import save
from holdfast.records import HoldfastError, Score


def save_judge(trained: Trained, folder: Path, data: Data, fingerprints: Mapping[str, str]) -> None:
    """Write the judge to a folder; `data` is its training data, `fingerprints` are the hashes of its files.

    Raises:
        HoldfastError: the disk is full or the place is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(trained.model, folder)
    except OSError as error:
        raise HoldfastError(f"{folder}: the judge cannot be saved: {error.strerror or error}") from error
    write_json(folder / "scores.json", scores_json(trained))
    write_text(folder / "README.md", card(trained, data, fingerprints))
    for form in ("png", "svg"):
        write(folder / f"reliability.{form}", reliability_figure(trained.reliability, form))


def scores_json(trained: Trained) -> dict[str, Any]:
    """The scores as JSON values."""
    return {
        "scores": [asdict(score) for score in trained.scores],
        "reliability": [entry._asdict() for entry in trained.reliability],
        "num_train": trained.num_train,
        "num_held_out": trained.num_held_out,
    }


def reliability_figure(bins: Sequence[Bin], form: str) -> bytes:
    """Share of positive labels over predicted probability, one point per bin, sized by its count; PNG or SVG."""
    import altair as alt
    import vl_convert

    rows = [entry._asdict() for entry in bins]
    unit = alt.Scale(domain=[0, 1])
    line = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(
        strokeDash=[4, 4], color="#808080"
    )
    points = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, opacity=0.9, color="#0072B2")
    chart = alt.layer(
        line.encode(x=alt.X("x:Q"), y=alt.Y("y:Q")),
        points.encode(
            x=alt.X("confidence:Q", scale=unit, title="predicted probability"),
            y=alt.Y("share:Q", scale=unit, title="share of positive labels"),
            size=alt.Size("n:Q", title="answers", scale=alt.Scale(range=[40, 400])),
        ),
    ).properties(width=260, height=260)
    if form == "svg":
        return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[]).encode()
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=2, allowed_base_urls=[])


def card(trained: Trained, data: Data, fingerprints: Mapping[str, str]) -> str:
    """The folder's README: data, recipe, scores and limits."""
    settings, fitted = trained.settings, trained.fitted
    reward = isinstance(settings, RewardModel)
    kind = "Bradley-Terry reward model" if reward else "harm classifier of question and answer"
    return f"""---
tags: [holdfast, {"reward-model" if reward else "text-classification"}]
---
# A {kind}

Trained by Holdfast {__version__} from `{settings.backbone}` for experiments on harmful fine-tuning.

## Data

{_data_lines(trained, data, fingerprints)}

## Scores

On {trained.num_held_out} held-out rows whose prompts were not trained on, with 95 % intervals where available.

| score | value | n |
|---|---|---|
{_score_rows(trained.scores)}

{_meaning(reward)}
{_oracle(trained.scores)}
![Reliability: share of positive labels over predicted probability](reliability.png)

## How it was made

{fitted.steps} optimizer steps, {fitted.tokens} tokens, {fitted.seconds:.0f} s of training.

```json
{json.dumps(plain(settings), indent=1)}
```

## How to use it

In a grid or on the command line as the judge `{"reward_model" if reward else "classifier"}` with this folder as
`path`{"" if reward else " and `harmful` as `harmful_label`"}. It reads question and answer as
`{json.dumps(settings.input_format)}`, at most {settings.max_length} tokens.

## Limits

It rewards the style of the answers and refusals that it was trained on. A model tuned against it learns to deceive it:
never report harm by the attacker's own reward, nor by a judge trained on the same answers. It is not a moderation
filter.
"""


def _data_lines(trained: Trained, data: Data, fingerprints: Mapping[str, str]) -> str:
    settings = trained.settings
    sources = {"harmful": data.harmful, "benign": data.benign}
    lines = [
        f"- {name} rows: `{source.path}` (format `{source.format}`, sha256 or revision `{fingerprints.get(name, '')}`)"
        for name, source in sources.items()
        if source is not None
    ] or [f"- the sandbox's invented data, seed {data.seed}"]
    lines.append(f"- split `{settings.split}`: {trained.num_train} rows trained, {trained.num_held_out} held out")
    if isinstance(settings, RewardModel):
        how = "reversed" if settings.flip_how == "reverse" else "ordered by a coin (noise control)"
        lines.append(f"- flip ratio {settings.flip_ratio}: that share of the preferences is {how}")
    return "\n".join(lines)


def _score_rows(scores: Sequence[Score]) -> str:
    return "\n".join(f"| {score.name} | {_value(score)} | {score.n} |" for score in scores)


def _value(score: Score) -> str:
    if score.value is None:
        return "not defined"
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _meaning(reward: bool) -> str:
    if reward:
        return (
            "`accuracy`, `f1`, `brier` and `calibration_error` (10 bins) are those of the probability that the first "
            "answer of a randomly ordered pair is preferred, on held-out pairs with the same share flipped. "
            "`harmful_preferred`: the share of pairs whose harmful answer gets the higher reward; "
            "`harmful_probability`: the mean probability that it is preferred."
        )
    return "`accuracy`, `f1`, `brier` and `calibration_error` (10 bins) are those of the probability of `harmful`."


def _oracle(scores: Sequence[Score]) -> str:
    if not any(score.name.startswith("oracle") for score in scores):
        return ""
    return (
        "\n`oracle_agreement`: the share of prompts whose right answer scores above the refusal, as it does for the "
        "oracle; `oracle_rank_correlation`: Spearman's, over answers with none to all of the right steps, and the "
        "refusal.\n"
    )
