"""How large a report is and how fast it opens, by number of cells: invented records in a real browser.

    python benchmarks/report_size.py          # writes benchmarks/results/report_size.json

Needs the extra `browser` and Chromium. A cell has six evaluations of 18 scores, 100 logged steps of training, and the
answers of two judges to 80 prompts at each evaluation. Times are wall times of this machine, in seconds: `written` of
writing the page and all pages of cells, `written_again` where no record has changed, `loaded` from the start of the
navigation to the end of the load event, `filtered` and `sorted` from a letter typed (a header pressed) to the second
frame after it. Of each the fastest and the median of some repetitions, each in a browser window of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.evaluation.breaking import time_to_break
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.store import write_completions
from holdfast.methods.settings import plain
from holdfast.records import Cell, Evaluation, Method, Outcome, Record, Score
from holdfast.records.evidence import ControlRun, Effect
from holdfast.report import write_report

SHAPES = {20: (5, 2, 2), 200: (10, 4, 5), 1000: (20, 5, 10)}
"""Defenses (none among them), attacks and seeds."""
STEPS, PROMPTS, LOGGED, POOL = (0, 20, 40, 60, 80, 100), 40, 100, 8
WORDS = "glow fum tarn velt moss drin ask with then stir blue pan fold warm slow bright cut leaf mix rest".split()
OTHERS = ("refusal_rate", "invalid", "over_refusal", "quiz", "summary", "entropy", "kl", "kl/benign", "reward")
SHAPES_OF_ANSWERS = tuple(f"degenerate/{name}" for name in ("very_short", "question_copied", "word_salad", "all"))
FIRST_FRAME = """(act) => new Promise((done) => {
  const start = performance.now();
  act();
  requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
})"""

TYPED = """() => {
  const field = document.querySelector("form [name=text]");
  field.value = "1";
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""


def records(defenses: int, attacks: int, seeds: int) -> Iterator[Record]:
    """A record of each cell; of the defended ones a third holds, the undefended ones break early."""
    rng = random.Random(0)
    for attack in range(attacks):
        for seed in range(seeds):
            control = _record("", f"attack_{attack}", seed, rng.uniform(0.8, 1.0), rng)
            yield control
            told = ControlRun(
                key=control.key, outcome="broke", reason=control.reason, broke_at=40, steps=100, moved=0.9
            )
            for defense in range(1, defenses):
                end = rng.choice((0.05, 0.6, 0.9))
                yield replace(_record(f"defense_{defense}", f"attack_{attack}", seed, end, rng), control=told)


def _record(defense: str, attack: str, seed: int, end: float, rng: random.Random) -> Record:
    settings = {"learning_rate": 1e-4, "max_steps": 100, "weight": rng.choice((0.1, 0.2)), "notes": [1, 2, 3]}
    cell = Cell(
        model={"kind": "sandbox", "name": "invented", "settings": {"part": "aligned", "seed": 0}},
        stages=(Method(name=defense, settings=settings | {"weight": 0.1}),) if defense else (),
        attack=Method(name=attack, settings={"learning_rate": 1e-4, "max_steps": 100}),
        evaluation=plain(Measurement(num_prompts=PROMPTS, harm_judges=("oracle", "refusal"))),
        seed=seed,
    )
    curve = tuple(_evaluation(step, end * step / STEPS[-1], rng) for step in STEPS)
    time = time_to_break(curve)
    broke = time is not None and not time.censored
    return Record(
        key=cell.key,
        cell=cell,
        outcome=Outcome.BROKE if broke else Outcome.HELD,
        reason=f"harmfulness {'rises above' if broke else 'is at most'} 0.5 over 100 steps, 6 evaluations",
        time_to_break=time,
        evaluations=curve,
        steps=STEPS[-1],
        samples=curve[-1].samples,
        tokens=curve[-1].tokens,
        flops=curve[-1].flops,
        wall_seconds=rng.uniform(20, 40),
        peak_memory_mb=900.0,
        environment={"python": "3.11", "holdfast": "0.1.0", "packages": {"torch": "2.13.0", "transformers": "5.23.0"}},
        stages=({"name": defense, "seconds": 60.0, "tokens": 5000, "steps": 300, "flops": 1e12},) if defense else (),
        effect=Effect(moved=0.99, change=0.02, objective="loss", first=0.5, last=0.4, improved=True),
    )


def _evaluation(step: int, harm: float, rng: random.Random) -> Evaluation:
    values = {"harmfulness": harm, "helpfulness": 0.95 - step / 1000, "harmfulness/refusal": harm * 0.9}
    values |= {name: rng.random() for name in (*OTHERS, *SHAPES_OF_ANSWERS)}
    flops = 1e9 * step * rng.uniform(0.9, 1.1)
    scores = tuple(_score(name, min(1.0, value)) for name, value in values.items())
    return Evaluation(step=step, samples=64 * step, tokens=1000 * step, seconds=0.25 * step, flops=flops, scores=scores)


def _score(name: str, value: float) -> Score:
    half = 1.96 * math.sqrt(value * (1 - value) / PROMPTS)
    return Score(name=name, value=value, n=PROMPTS, low=max(0.0, value - half), high=min(1.0, value + half))


def completions(rng: random.Random) -> list[dict[str, Any]]:
    """Rows of one cell: answers to harmful and benign prompts, more of them harmful as the attack goes on."""
    rows = []
    for step in STEPS:
        for number in range(2 * PROMPTS):
            role, harmful = ("harmful" if number < PROMPTS else "benign"), rng.random() < step / STEPS[-1]
            text = " ".join(rng.choices(WORDS, k=25)) if harmful or role == "benign" else "i cannot help with that ."
            row = {"step": step, "role": role, "domain": "soup", "prompt": f"how do i make soup {number} ?"}
            row |= {"completion": text, "num_tokens": len(text.split()), "finished": True, "reason": ""}
            row |= {"valid": True, "refused": not harmful, "score": float(harmful or role == "benign")}
            rows += [{**row, "judge": judge} for judge in (("oracle", "refusal") if role == "harmful" else ("oracle",))]
    return rows


def write_run(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A run folder as `holdfast run` leaves it; cells share a few tables of answers."""
    rng = random.Random(1)
    pool = [folder / "pool" / f"{number}.parquet" for number in range(POOL)]
    for place in pool:
        write_completions(place, completions(rng))
    for number, record in enumerate(records(*shape)):
        cell = folder / "cells" / record.key
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps(record.to_json()))
        curve = (
            {"step": step, "loss": 2 / step + rng.random(), "reward": rng.random()} for step in range(1, LOGGED + 1)
        )
        (cell / "curves.jsonl").write_text("\n".join(json.dumps(row) for row in curve))
        os.link(pool[number % POOL], cell / "completions.parquet")
    shutil.rmtree(folder / "pool")
    return folder


def measure(browser: Any, cells: int, repetitions: int) -> dict[str, Any]:
    """Sizes in bytes and times in seconds of the report of a run of `cells` cells."""
    with tempfile.TemporaryDirectory() as name:
        run = write_run(Path(name) / "run", SHAPES[cells])
        written = [_timed(lambda: write_report([run], run / "report.html")) for _ in range(2)]
        pages = sorted((run / "report_cells").glob("*.html"), key=lambda page: page.stat().st_size)
        main = [_opened(browser, run / "report.html") for _ in range(repetitions)]
        cell = [_opened(browser, pages[-1]) for _ in range(repetitions)]
        return {
            "cells": cells,
            "bytes": (run / "report.html").stat().st_size,
            "bytes_of_largest_cell": pages[-1].stat().st_size,
            "bytes_of_all_cells": sum(page.stat().st_size for page in pages),
            "written": written[0],
            "written_again": written[1],
            "report": _summary(main),
            "cell_page": _summary(cell),
        }


def _timed(act: Any) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}


def _opened(browser: Any, path: Path) -> dict[str, float]:
    """How long a page takes to load, to filter its rows and to sort them, in a window of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(path.as_uri(), timeout=600_000)
    seconds = {"loaded": 0.0}
    while not seconds["loaded"]:
        seconds["loaded"] = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    seconds["filtered"] = page.evaluate(f"({FIRST_FRAME})({TYPED})")
    if page.locator("#cells .sort").count():
        head = "() => document.querySelectorAll('#cells th.num .sort')[1].click()"
        seconds["sorted"] = page.evaluate(f"({FIRST_FRAME})({head})")
    context.close()
    return seconds


def _summary(repetitions: list[dict[str, float]]) -> dict[str, Mapping[str, float]]:
    return {
        name: {
            "fastest": round(min(each[name] for each in repetitions), 3),
            "median": round(statistics.median(each[name] for each in repetitions), 3),
        }
        for name in repetitions[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "report_size.json")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=180_000)
        sizes = [measure(browser, cells, options.repetitions) for cells in options.cells]
        settings = {"steps": STEPS, "prompts": 2 * PROMPTS, "logged": LOGGED, "repetitions": options.repetitions}
        machine = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1), "chromium": browser.version}
        browser.close()
    options.out.write_text(json.dumps({"settings": settings, "machine": machine, "sizes": sizes}, indent=1) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
