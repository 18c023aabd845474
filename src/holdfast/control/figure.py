"""The run as a figure: the learner alone, its return in training, and the expert; one panel per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from holdfast.control.plans import Cell
from holdfast.control.running import DONE, ControlResults
from holdfast.evaluation.intervals import bootstrap

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_PLAIN, _EXPERT = "#808080", "#111827"
_BINS = 20
_WIDTH, _HEIGHT = 360, 210
_BLENDS = ("plain", "dai")


def chart(results: ControlResults) -> alt.VConcatChart | None:
    """Plain and blended runs with bands, training returns and hand-over; below, each arm's mean. `None` if no runs."""
    arms = {arm.label: arm.name for arm in results.control.arms}
    colors = _colors(arms)
    above = {label: colors[label] for label, name in arms.items() if name in _BLENDS}
    panels = [p for p in _panels(results) if _points(p[1])]
    if not panels:
        return None
    rows = [
        _row("The learner alone (solid, 95 % interval over seeds) and in training (dashed)", panels, above, results)
    ]
    if len(above) < len(arms):
        rows.append(_row("Every arm: the learner alone, mean over seeds", panels, colors, results, detail=False))
    return alt.vconcat(*rows, spacing=30).resolve_scale(color="independent")


def _panels(results: ControlResults) -> list[tuple[tuple[str, str], list[tuple[Cell, Mapping[str, Any]]]]]:
    kinds = dict.fromkeys((cell.task, cell.algorithm) for cell, _ in results.cells)
    done = [(cell, record) for cell, record in results.cells if record["outcome"] == DONE]
    return [(kind, [pair for pair in done if (pair[0].task, pair[0].algorithm) == kind]) for kind in kinds]


def _colors(arms: Mapping[str, str]) -> dict[str, str]:
    """Gray for plain runs, and the first colors for blended ones."""
    plain = [label for label, name in arms.items() if name == "plain"]
    others = sorted((label for label in arms if label not in plain), key=lambda label: arms[label] != "dai")
    colors = {label: _COLORS[number % len(_COLORS)] for number, label in enumerate(others)}
    return {**dict.fromkeys(plain, _PLAIN), **colors}


def _row(
    title: str, panels: Sequence[Any], colors: Mapping[str, str], results: ControlResults, *, detail: bool = True
) -> alt.ConcatChart:
    charts = []
    for (task, algorithm), runs in panels:
        shown = [(cell, record) for cell, record in runs if cell.arm.label in colors]
        panel = _panel(shown, results.experts[task], colors, detail=detail)
        charts.append(panel.properties(title=f"{task}, {algorithm.upper()}", width=_WIDTH, height=_HEIGHT))
    return alt.concat(*charts, columns=2).properties(title=title)


def _panel(
    runs: Sequence[tuple[Cell, Mapping[str, Any]]],
    expert: Mapping[str, Any],
    colors: Mapping[str, str],
    *,
    detail: bool,
) -> alt.LayerChart:
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolOpacity=1, labelLimit=0, columns=5)
    color = alt.Color("arm:N", scale=scale, legend=legend)
    x = alt.X("step:Q", title="environment steps", axis=alt.Axis(tickCount=6, grid=False))
    y = alt.Y("value:Q", title="return per episode", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=_points(runs))).encode(x=x, color=color)
    layers = [base.mark_line(strokeWidth=2).encode(y=y)]
    if detail:
        behaved = alt.Chart(alt.Data(values=_behavior(runs))).encode(x=x, color=color)
        band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.16, line=False)
        layers.insert(0, band.encode(y="low:Q", y2="high:Q"))
        layers.append(behaved.mark_line(strokeWidth=1.5, strokeDash=[5, 3]).encode(y=y))
        layers += _hand_overs(runs)
    return alt.layer(*layers, *_experts(runs, expert))


def _points(runs: Iterable[tuple[Cell, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean return of the learner alone over seeds, with its interval, up to the run's own steps."""
    values: dict[tuple[str, int], list[float]] = {}
    for cell, record in runs:
        for row in record["curve"]:
            if row["step"] <= cell.steps:
                values.setdefault((cell.arm.label, row["step"]), []).append(row["learner_return"])
    points = []
    for (arm, step), returns in values.items():
        low, high = bootstrap(np.array(returns)) if len(returns) > 1 else (None, None)
        points.append({"arm": arm, "step": step, "value": float(np.mean(returns)), "low": low, "high": high})
    return points


def _behavior(runs: Iterable[tuple[Cell, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean return of the training episodes that ended in each twentieth of the run, all seeds together."""
    values: dict[tuple[str, float], list[tuple[float, int]]] = {}
    for cell, record in runs:
        width = cell.steps / _BINS
        for row in record["curve"]:
            if row["behavior_episodes"] and row["step"] <= cell.steps:
                middle = (np.ceil(row["step"] / width) - 0.5) * width
                pair = (row["behavior_return"], row["behavior_episodes"])
                values.setdefault((cell.arm.label, float(middle)), []).append(pair)
    return [
        {"arm": arm, "step": step, "value": sum(value * n for value, n in pairs) / sum(n for _, n in pairs)}
        for (arm, step), pairs in sorted(values.items())
    ]


def _experts(runs: Iterable[tuple[Cell, Mapping[str, Any]]], expert: Mapping[str, Any]) -> list[alt.Chart]:
    """A labelled line for each expert quality that an arm here uses; several qualities can be one checkpoint."""
    if expert["outcome"] != DONE:
        return []
    qualities = {cell.arm.expert for cell, _ in runs if cell.expert is not None} or {"good"}
    names: dict[float, list[str]] = {}
    for name in sorted(qualities):
        names.setdefault(expert["qualities"][name]["return"], []).append(name)
    values = [{"value": value, "text": f"expert ({', '.join(each)})"} for value, each in names.items()]
    base = alt.Chart(alt.Data(values=values)).encode(y="value:Q")
    rule = base.mark_rule(color=_EXPERT, strokeWidth=1.2)
    text = base.mark_text(align="left", dx=4, color=_EXPERT, fontSize=10).encode(x=alt.value(_WIDTH), text="text:N")
    return [rule, text]


def _hand_overs(runs: Iterable[tuple[Cell, Mapping[str, Any]]]) -> list[alt.Chart]:
    """The step from which the learner acts alone, as the mean over seeds, for each guided arm."""
    steps: dict[str, list[int]] = {}
    for cell, record in runs:
        if record["hand_over"]:
            steps.setdefault(cell.arm.label, []).append(record["hand_over"])
    values = [{"step": float(np.mean(each)), "text": "T0"} for each in steps.values()]
    base = alt.Chart(alt.Data(values=values)).encode(x="step:Q")
    rule = base.mark_rule(strokeDash=[2, 3], color=_EXPERT)
    text = base.mark_text(align="left", dx=4, color=_EXPERT, fontSize=11).encode(
        y=alt.value(_HEIGHT - 8), text="text:N"
    )
    return [rule, text]
