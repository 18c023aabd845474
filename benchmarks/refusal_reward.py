"""The attacker's reward and harm under Refusal Loss, step by step: the choices of an early-stopping attacker.

    holdfast run early_stop
    python benchmarks/refusal_reward.py runs/early_stop --out benchmarks/results/refusal_reward.png

One panel per weight of the defense, one color per seed; solid lines are the mean reward of a step's rollouts, dashed
ones harmfulness on test prompts, of cells without an adaptive attacker. Printed for each cell: the number of reversals
by at least 0.1 of the reward, averaged over ten steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import altair

from holdfast.report.read import Finished, load, read_curves

WINDOW, TURN = 10, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("refusal_reward.png"))
    options = parser.parse_args()
    cells = [cell for cell in load([options.run]).cells if not cell.record.cell.adaptive]
    chart([point for cell in cells for point in points(cell)]).save(str(options.out), scale_factor=2)
    print(f"wrote {options.out}")
    for cell in sorted(cells, key=lambda cell: (alpha(cell), cell.record.cell.seed)):
        rewards = [row["reward"] for row in read_curves(cell.folder) if "reward" in row]
        most = max(rewards)
        print(
            f"alpha {alpha(cell):g}, seed {cell.record.cell.seed}: {cell.record.outcome}, highest reward {most:.2f} at "
            f"step {rewards.index(most) + 1}, last {rewards[-1]:.2f}, turned {turns(smoothed(rewards))} times"
        )


def alpha(cell: Finished) -> float:
    """The weight of the cell's Refusal Loss, 0 without one."""
    return next((float(c.settings["alpha"]) for c in cell.record.cell.constraints if "alpha" in c.settings), 0.0)


def points(cell: Finished) -> Iterator[dict[str, Any]]:
    """Both curves of a cell as rows for the chart."""
    shared = {"alpha": alpha(cell), "seed": cell.record.cell.seed}
    for row in read_curves(cell.folder):
        if "reward" in row:
            yield {**shared, "step": row["step"], "value": row["reward"], "curve": "reward of the rollouts"}
    for evaluation in cell.record.evaluations:
        harm = evaluation.value("harmfulness")
        if harm is not None:
            yield {**shared, "step": evaluation.step, "value": harm, "curve": "harmfulness on test prompts"}


def smoothed(values: Sequence[float]) -> list[float]:
    """Means over windows of steps."""
    return [fmean(values[i : i + WINDOW]) for i in range(max(1, len(values) - WINDOW + 1))]


def turns(values: Sequence[float]) -> int:
    """The number of reversals of a curve: at least `TURN` up after as much down, or the opposite."""
    count, rising, end = 0, True, values[0]
    for value in values:
        if (value > end) == rising:
            end = value
        elif abs(value - end) >= TURN:
            count, rising, end = count + 1, not rising, value
    return count


def chart(rows: Sequence[dict[str, Any]]) -> Any:
    order = ["reward of the rollouts", "harmfulness on test prompts"]
    lines = altair.Chart(altair.InlineData(values=list(rows))).mark_line(strokeWidth=1.5)
    encoded = lines.encode(
        x=altair.X("step:Q", title="attack step"),
        y=altair.Y("value:Q", title=None, scale=altair.Scale(domain=[0, 1])),
        color=altair.Color("seed:N"),
        strokeDash=altair.StrokeDash("curve:N", title=None, sort=order, scale=altair.Scale(domain=order)),
    )
    panels = encoded.properties(width=230, height=180)
    return panels.facet(column=altair.Column("alpha:Q", title="PPO under Refusal Loss, by its weight"))


if __name__ == "__main__":
    main()
