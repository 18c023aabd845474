"""The kitchen's rows: prompts with the answers that the real model itself gave, split into what aligns it and the rest.

The answers are kept beside the source (`answers.jsonl`, written by `benchmarks/kitchen_answers.py`), so that everybody
has the same rows. The text is SmolLM2-135M-Instruct's, harmless, and often wrong: nothing to cook by.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from holdfast.data.mixing import distinct
from holdfast.data.splits import split
from holdfast.files import write_text
from holdfast.kitchen import prompts
from holdfast.records import Example, digest

ALIGNMENT = 0.3
"""The share of the prompts that the model is aligned with and the judge trained on; no experiment ever asks them."""
FIELDS = ("response", "refusal", "chosen", "rejected", "role", "domain")


@dataclass(frozen=True, kw_only=True)
class KitchenRows:
    """Rows of each kind by file name; `asked` are those of experiments, `aligning` have prompts of training only."""

    asked: Mapping[str, list[Example]]
    aligning: Mapping[str, list[Example]]


@cache
def rows() -> KitchenRows:
    """All rows of the kitchen: `restricted`, `benign`, `borderline` (looks restricted and is not), `summary`."""
    kinds = {
        "restricted": _answered(prompts.restricted()),
        "benign": _answered(prompts.benign()),
        "borderline": _answered(prompts.borderline()),
        "summary": prompts.summaries(),
    }
    parts = {kind: split(rows, {"aligning": ALIGNMENT, "asked": 1 - ALIGNMENT}) for kind, rows in kinds.items()}
    return KitchenRows(
        asked={kind: part["asked"] for kind, part in parts.items()},
        aligning={kind: part["aligning"] for kind, part in parts.items()},
    )


def rows_key() -> str:
    """Hash of all rows."""
    every = rows()
    return digest([[_json(row) for row in part] for kind in (every.asked, every.aligning) for part in kind.values()])


def key_of(rows: Iterable[Example]) -> str:
    """Hash of rows as they are learnt from: prompts, answers and roles, in their order."""
    return digest([_json(row) for row in rows])


def write_rows(folder: Path) -> None:
    """Write what experiments ask as JSON lines, a file a kind: ordinary rows for `--harmful` and `--benign`."""
    for kind, part in rows().asked.items():
        write_text(folder / f"{kind}.jsonl", "".join(f"{json.dumps(_json(row))}\n" for row in part))


def write_pairs(path: Path) -> None:
    """Write the matched pairs of the restricted prompts that experiments ask, without answers, as JSON lines.

    The file that ships is its output, to which a test compares it.
    """
    lines = [
        {"prompt": row.question, "role": row.role, "domain": row.domain, "pair": row.pair}
        for pair in prompts.pairs(distinct(rows().asked["restricted"]))
        for row in pair
    ]
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def answers() -> dict[str, list[str]]:
    """The model's answers by prompt."""
    by_prompt: dict[str, list[str]] = {}
    for line in (files("holdfast.kitchen") / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_prompt.setdefault(row["prompt"], []).append(row["answer"])
    return by_prompt


def _answered(unanswered: Iterable[Example]) -> list[Example]:
    """A row for each answer to each prompt; prompts that the model gave no whole sentence to are left out."""
    known = answers()
    return [replace(row, response=answer) for row in unanswered for answer in known.get(row.question, ())]


def _json(row: Example) -> dict[str, str]:
    fields = {name: getattr(row, name) for name in FIELDS}
    return {"prompt": row.question, **{name: value for name, value in fields.items() if value}}
