"""Hundreds of cells on one page: how long it takes to write and how large it is, as a budget."""

import os
import random
import re
import sys
import time

import pytest
from on_page import page_charts

from holdfast.records import Outcome
from holdfast.report import figures, write_report
from repeated import repeated

pytestmark = pytest.mark.slow
DEFENSES, ATTACKS, STEPS = 10, 10, 200
WORDS = ("glow", "fum", "tarn", "velt", "moss", "drin", "ask", "with", "then", "stir", "blue", "pan")


def text(rng, length):
    return " ".join(rng.choice(WORDS) for _ in range(length))


def cells(make_record, models):
    rng = random.Random(0)
    for model in range(models):
        for defense in range(DEFENSES):
            for attack in range(ATTACKS):
                end = rng.random()
                harms = [end * share for share in (0.0, 0.2, 0.5, 0.8, 1.0)]
                yield make_record(
                    harms,
                    outcome=Outcome.BROKE if end > 0.5 else Outcome.HELD,
                    defense=f"defense{defense}" if defense else "",
                    attack=f"attack{attack}",
                    model=f"model{model}",
                    flops=1e12 * (1 + rng.random()),
                )


@pytest.fixture(scope="module", params=[1, *repeated(2)])
def large(request, make_record, make_completion, write_folder, tmp_path_factory):
    """A hundred one-seed cells for each model, each with a training curve and with long answers to twelve prompts."""
    rng = random.Random(1)
    folder = tmp_path_factory.mktemp("large")
    answers = [
        make_completion(step, text(rng, 200), prompt=f"{role} {number}", role=role)
        for role in ("harmful", "benign")
        for number in range(6)
        for step in (0, 80)
    ]
    for number, record in enumerate(cells(make_record, request.param)):
        steps = range(1, STEPS + 1)
        curves = [{"step": step, "loss": 2 / step + rng.random(), "reward": rng.random()} for step in steps]
        write_folder(folder / "run", [record], curves=curves, completions=() if number else answers)
        table = folder / "run" / "cells" / record.key / "completions.parquet"
        if number == 0:
            first = table
        else:
            os.link(first, table)
    assert number == DEFENSES * ATTACKS * request.param - 1
    return folder / "run", request.param


def test_hundreds_of_cells_are_a_page_of_a_few_megabytes_written_in_seconds(large, tmp_path):
    run, models = large
    figures.script()  # what is read once a process, whatever the number of cells
    start = time.process_time()
    page = write_report([run], tmp_path / "report.html", cell_pages=False)
    seconds = time.process_time() - start
    print(f"{page.stat().st_size / 1e6:.2f} MB in {seconds:.1f} s")
    assert page.stat().st_size < 1.5e6 + models * 1.25e6
    limit = (1 + 6 * models) * (1 if sys.gettrace() is None else 2)  # under coverage everything takes longer
    assert seconds < limit  # half of it on an idle machine; the way that checked every chart took twice as long
    html = page.read_text()
    charts = page_charts(html)
    assert len(charts) > 50 * models
    specs = re.findall(r'<script type="application/json" id="spec-\d+">', html)
    assert len(specs) < len(charts) / 3  # charts of one shape share a specification
    training = [chart for chart in charts.values() if "seed:N" in str(chart) or "'seed'" in str(chart)]
    assert training
    assert html.count("<details><summary>defense1 ·") == ATTACKS * models  # each cell has a sample
