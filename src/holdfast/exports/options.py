"""Options and result of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of an export.

    `completions` puts answers of models into forms that have a place for them (`inspect`). `dataset` is the id of the
    benchmark on the Hub whose leaderboard the Hub's results belong to. `organization` is who ran this, as Every Eval
    Ever names it.
    """

    completions: bool = False
    dataset: str | None = None
    organization: str = "not stated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The written files of an export, and a sentence for each thing that the form cannot hold."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
