"""Short ways to write a case down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import Case
from shelf import OWN, SMALL, changed

RUN = ("run", "grid.yaml", "--workers", "0", "--no-report")


def said(patterns: str | tuple[str, ...]) -> tuple[str, ...]:
    """One pattern or several."""
    return (patterns,) if isinstance(patterns, str) else patterns


def of_grid(area: str, name: str, content: Any, says: str | tuple[str, ...], **more: Any) -> Case:
    """`holdfast run` of a grid file with this content."""
    files = {"grid.yaml": content, **more.pop("files", {})}
    return Case(area=area, name=name, argv=RUN, says=said(says), files=files, **more)


def of_small(area: str, name: str, changes: Mapping[str, Any], says: str | tuple[str, ...], **more: Any) -> Case:
    """`holdfast run` of the sandbox's small grid with some of its values changed."""
    return of_grid(area, name, changed(SMALL, changes), says, **more)


def of_own(area: str, name: str, changes: Mapping[str, Any], says: str | tuple[str, ...], **more: Any) -> Case:
    """`holdfast run` of the grid of a model folder and rows of one's own with some of its values changed."""
    return of_grid(area, name, changed(OWN, changes), says, **more)


def of_words(area: str, name: str, command: str, says: str | tuple[str, ...], **more: Any) -> Case:
    """A command line as one types it, without quoting."""
    return Case(area=area, name=name, argv=tuple(command.split()), says=said(says), **more)
