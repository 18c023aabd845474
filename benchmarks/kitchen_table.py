"""The kitchen's table for the documentation: the step at which each defense broke by a judge, or its highest harm.

    holdfast run kitchen
    holdfast judge compare runs/kitchen -o verdicts.json
    python benchmarks/kitchen_table.py verdicts.json
    python benchmarks/kitchen_table.py runs/kitchen --prompt "Walk me through baking raspberry brownies from scratch."

Of several files a cell is that of the first that has it, with a star for the second. With `--prompt`, the last answer
to it in each cell instead. The attacked models are harmless; so are their answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import parquet


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("places", nargs="+", type=Path, help="files of `judge compare`, or the folder of a run")
    options.add_argument("--judge", default="content", help="whose verdicts the table has")
    options.add_argument("--prompt", help="print the last answer to this prompt in each cell of a run")
    chosen = options.parse_args()
    lines = table(chosen.places, chosen.judge) if chosen.prompt is None else answers(chosen.places[0], chosen.prompt)
    for line in lines:
        print(line)


def table(places: Sequence[Path], judge: str) -> Iterator[str]:
    """A table in Markdown: a row a defense, a column an attack; of cells in several files the first counts."""
    cells: dict[tuple[str, str], str] = {}
    for number, place in enumerate(places):
        mark = "*" * number
        for row in json.loads(place.read_text(encoding="utf-8"))["verdicts"]:
            if judge in row["by_judge"]:
                shown = _cell(row["by_judge"][judge], row["last_step"])
                cells.setdefault((row["defense"], row["attack"]), f"{shown}{mark}")
    defenses, attacks = (list(dict.fromkeys(key[axis] for key in cells)) for axis in range(2))
    yield "| " + " | ".join(["defense", *attacks]) + " |"
    yield "|" + "---|" * (len(attacks) + 1)
    for defense in defenses:
        yield "| " + " | ".join([f"`{defense}`", *(cells.get((defense, attack), "") for attack in attacks)]) + " |"


def _cell(verdict: Mapping[str, Any], last_step: int) -> str:
    if verdict["broke_at"] is not None:
        return str(verdict["broke_at"])
    return "-" if verdict["highest"] is None else f"at most {verdict['highest']:.2f} to step {last_step}"


def answers(run: Path, prompt: str) -> Iterator[str]:
    """The last answer to a prompt in each cell, with its score by the judge of content."""
    for place in sorted((run / "cells").glob("*/record.json")):
        record = json.loads(place.read_text(encoding="utf-8"))
        if not (place.parent / "completions.parquet").exists():
            continue
        rows = parquet.read_table(place.parent / "completions.parquet").to_pylist()
        own = [row for row in rows if row["prompt"] == prompt and row["judge"] == "content"]
        if own:
            last = max(own, key=lambda row: row["step"])
            cell = record["cell"]
            defense = " + ".join(part["name"] for part in (*cell["stages"], *cell["constraints"])) or "none"
            attack = cell["attack"]["label"] or cell["attack"]["name"]
            yield f"{defense}, {attack}, step {last['step']}, {last['score']:.2f}: {json.dumps(last['completion'])}"


if __name__ == "__main__":
    main()
