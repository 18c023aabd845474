"""Bad input through the real command line: each command has to be refused, on one line that names what is wrong.

    python tests/bad_inputs/run.py                      # all cases, a table on standard output
    python tests/bad_inputs/run.py --out table.tsv      # and as a file
    python tests/bad_inputs/run.py --quick              # a share of them, as the tests do
    python tests/bad_inputs/run.py --only 'models/.*'   # by pattern

Leaves with 1 where a case was accepted, hung, showed a traceback, or said something else.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUICK = 25
"""`--quick` takes one case in so many, of every kind; of settings, which are refused by one rule, a third of those."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose id matches this pattern")
    parser.add_argument("--quick", action="store_true", help="a share of them, as the tests do")
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds until a case counts as a hang")
    parser.add_argument("--shelf", type=Path, help="keep models and runs here between calls")
    parser.add_argument("--verbose", action="store_true", help="a line for every case, not for those that fail only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as temporary:
        return _all(options, Path(temporary))


def _all(options: argparse.Namespace, temporary: Path) -> int:
    place = (options.shelf or temporary / "shelf").absolute()
    _environment(temporary, place)
    from cases import CASES
    from shelf import build

    share = _share(CASES) if options.quick else CASES
    chosen = [case for case in share if re.search(options.only or "", case.id)]
    names = ("model", "classifier", "reward", "plain", "rows", "run")
    _import()
    made = {name: place / name for name in names} if (place / "run").exists() else build(place)
    rows = [_row(case, made, temporary / str(number), options) for number, case in enumerate(chosen)]
    failed = sum(bool(row["fault"]) for row in rows)
    if options.out:
        _table(options.out, rows)
    print(f"{len(rows)} cases, {failed} not as they should be")
    return 1 if failed else 0


def _share(cases: Sequence[Any]) -> list[Any]:
    settings = [case for case in cases if case.area == "settings"]
    others = [case for case in cases if case.area != "settings"]
    return others[::QUICK] + settings[:: 3 * QUICK]


def _environment(temporary: Path, place: Path) -> None:
    """What libraries read once, before anything imports them."""
    home = temporary / "home"
    home.mkdir()
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",  # the program sets it before its imports, which are done here already
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        OMP_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        CUDA_VISIBLE_DEVICES="",
        COLUMNS="200",
        HOME=str(home),
        XDG_CACHE_HOME=str(home),
        HOLDFAST_CACHE=str(place / "cache"),
    )
    sys.path.insert(0, str(HERE))


def _import() -> None:
    """Everything heavy, so that the cases find it done; one thread, so that forking is safe.

    What is imported is taken out of sight of the garbage collector: each case would walk over all of it.
    """
    import datasets
    import peft  # noqa: F401
    import torch
    from huggingface_hub.utils import disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401
    from transformers.utils import logging

    import holdfast.cli
    import holdfast.commands.jobs
    import holdfast.experiment.work
    import holdfast.report.drawings  # noqa: F401
    from holdfast.commands.methods import kinds

    for table in kinds().values():
        for name in table:
            table.load(name)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    disable_progress_bars()  # what was imported before has not heeded the environment
    logging.disable_progress_bar()
    gc.collect()
    gc.freeze()


def _row(case: Any, shelf: dict[str, Path], place: Path, options: argparse.Namespace) -> dict[str, str]:
    from harness import faults, line_of, run

    ended = run(case, shelf, place, timeout=options.timeout)
    fault = "; ".join(faults(case, ended))
    said = line_of(ended)
    shutil.rmtree(place, ignore_errors=True)
    for name, path in {"HERE": place / "here", **{f"@{name}": path for name, path in shelf.items()}}.items():
        said = said.replace(str(path), name)
    if fault or options.verbose:
        print(f"{case.id}\t{ended.seconds:.1f} s\t{fault}\t{said}", flush=True)
    code = "killed" if ended.code is None else str(ended.code)
    command = " ".join(["holdfast", *case.argv])
    return {"case": case.id, "command": command, "exit": code, "line": said, "fault": fault}


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
