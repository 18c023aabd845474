"""What a reader sees first: a verdict or what the runs can say, the grid of defenses by attacks, three sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.records import Outcome

if TYPE_CHECKING:
    from holdfast.report.contents import ReportContents

SYMBOLS = {
    Outcome.HELD: "✓",
    Outcome.BROKE: "✗",
    Outcome.UNTESTED: "?",
    Outcome.USELESS: "∅",
    Outcome.COLLAPSED: "≈",
    Outcome.DIVERGED: "∞",
    Outcome.FAILED: "!",
}
"""A sign for each outcome, beside its word and its pattern."""


def on_the_page(contents: ReportContents, gate: Mapping[str, Any] | None) -> dict[str, Any]:
    """The names of the page's first section; `gate` is the answer of `holdfast gate` as plain JSON values."""
    from holdfast.report.heatmap import grids
    from holdfast.report.plain_words import words_of

    shown = [row for row in contents.rows if row.label in contents.shown]
    all_grids = grids(contents.records, contents.labels, shown, contents.survivals)
    tiles = [tile for grid in all_grids for tile in grid.tiles]
    return {
        "grids_of_tiles": all_grids,
        "showed": [name for name in (*Outcome, "mixed") if any(name in (tile.showed, *tile.partly) for tile in tiles)],
        "symbols": {str(outcome): symbol for outcome, symbol in SYMBOLS.items()} | {"mixed": "±"},
        "gate": gate,
        "words": words_of(
            contents.records,
            contents.labels,
            contents.rows,
            unfinished=contents.unfinished,
            unread=len(contents.trouble),
        ),
    }
