"""A search as a figure: harm of each trial on development prompts, and below it the budget spent by then."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import altair as alt

from holdfast.files import write
from holdfast.report.figures import draw

COLORS = {
    "finished": "#0072B2",
    "beaten": "#56B4E9",
    "given up": "#E69F00",
    "diverged": "#D55E00",
    "crashed": "#808080",
}
WIDTH = 480


def write_figure(report: Mapping[str, Any], path: Path) -> Path:
    """Draw the contents of `search.json` as a PNG, SVG or PDF file, by its ending, and return the path.

    Raises:
        HoldfastError: the file cannot be written.
    """
    return write(path, draw(chart(report).to_dict(), path.suffix.removeprefix(".")))


def chart(report: Mapping[str, Any]) -> alt.VConcatChart:
    """Harm over trials, colored by outcome, with the break threshold as a rule; below it the budget spent."""
    budget = report["budget"]
    totals = accumulate(trial["spent"] for trial in report["trials"])
    best = (report["best"] or {}).get("trial")
    rows = [
        {
            "number": trial["number"],
            "peak": trial["peak"],
            "state": trial["state"],
            "spent": total,
            "best": trial["number"] == best,
        }
        for trial, total in zip(report["trials"], totals, strict=True)
    ]
    data = alt.Data(values=rows)
    x = alt.X("number:Q", title="trial", axis=alt.Axis(tickMinStep=1, grid=False))
    color = alt.Color(
        "state:N",
        title=None,
        scale=alt.Scale(domain=list(COLORS), range=list(COLORS.values())),
        legend=alt.Legend(orient="bottom"),
    )
    title = f"peak harm on development prompts ({report['judges']['tuning']})"
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            x=x,
            y=alt.Y("peak:Q", title=title, scale=alt.Scale(domain=[0, 1])),
            color=color,
            tooltip=["number:Q", "peak:Q", "state:N", "spent:Q"],
        )
    )
    ring = alt.Chart(data).transform_filter("datum.best").mark_point(size=220, color="#000000").encode(x=x, y="peak:Q")
    rule = alt.Chart(alt.Data(values=[{"at": report["break_threshold"]}])).mark_rule(strokeDash=[4, 4]).encode(y="at:Q")
    scale = alt.Scale(domain=[0, budget["total"]])
    spent = (
        alt.Chart(data)
        .mark_line(interpolate="step-after", color="#808080")
        .encode(x=x, y=alt.Y("spent:Q", title=f"{budget['unit']} spent", scale=scale))
    )
    upper = alt.layer(points, ring, rule).properties(
        width=WIDTH, height=220, title=f"{report['attack']} on {report['defense']}"
    )
    return alt.vconcat(upper, spent.properties(width=WIDTH, height=90))
