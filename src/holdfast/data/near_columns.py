"""Columns whose names nearly match one that a schema reads. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

CLOSE = 0.6
"""Similarity in [0, 1] from which a column is named when the one that is needed is missing."""
SURELY = 0.85
"""Similarity from which a column is taken for a misspelling of one that may be missing."""


def close_to(name: str, columns: Iterable[object]) -> list[str]:
    """The columns that could be meant by `name`, the most similar first: capitals, spaces and signs do not count."""
    shown = [str(column) for column in columns]
    by_letters: dict[str, list[str]] = {}
    for column in shown:
        by_letters.setdefault(_letters(column), []).append(column)
    close = get_close_matches(_letters(name), by_letters, n=3, cutoff=CLOSE)
    return [column for letters in close for column in by_letters[letters]]


def misspelt(name: str, columns: Iterable[object]) -> str | None:
    """The column that surely means `name`, though it is written differently; `None` if there is none."""
    for column in close_to(name, columns):
        if SequenceMatcher(None, _letters(name), _letters(column)).ratio() >= SURELY:
            return column
    return None


def remedy(name: str, close: Iterable[str]) -> str:
    """What to write so that a schema's column `name` is read from the file's own."""
    names = list(close)
    own = names[0] if names else "COLUMN"
    alike = " and ".join(map(repr, names))
    hint = f"{alike} {'is' if len(names) == 1 else 'are'} close: " if names else ""
    return f"{hint}say columns.{name}={own}, after a command data.harmful.columns.{name}={own} (or data.benign)"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold() or name
