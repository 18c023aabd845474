"""Read a method's docstrings from its source, without importing torch or the method.

A module's docstring is a title line and the blocks `Idea`, `Equation`, `Source` and `Differs from the paper in`, then
notes after a blank line. A class's docstring may have its own blocks if several methods share a module.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BLOCKS = ("idea", "equation", "source", "differs")
_LABEL = re.compile(r"^(Idea|Equation|Source|Differs from the paper)s?(?: in)?(?:[,;] [^:\n]*)?:[ \n]", re.MULTILINE)
_PAPER = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Documentation:
    """The parts of a docstring as Markdown text; empty if it has none. `text` is the text outside the blocks."""

    title: str = ""
    blocks: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def papers(self) -> tuple[str, ...]:
        """The arXiv ids that the source names, in order."""
        return tuple(dict.fromkeys(_PAPER.findall(self.blocks.get("source", ""))))

    @property
    def where(self) -> str:
        """The source in a few words: its arXiv ids, else authors and year, else `own`; empty if there is no source."""
        source = self.blocks.get("source", "")
        if self.papers:
            return f"arXiv {', '.join(self.papers)}"
        named = re.search(r"\(([A-Z][^()]* \d{4})\)", source)
        return named[1] if named else "own" if source else ""


def parse(docstring: str) -> Documentation:
    """The parts of a docstring without indentation."""
    labels = list(_LABEL.finditer(docstring))
    head = docstring[: labels[0].start()] if labels else docstring
    title, _, before = head.partition("\n")
    blocks, notes = {}, before.strip()
    for label, after in zip(labels, [*labels[1:], None], strict=False):
        body = docstring[label.start() : after.start() if after else None]
        if after is None:  # notes come after a blank line
            body, _, after_blank = body.partition("\n\n")
            notes = f"{notes}\n\n{after_blank.strip()}".strip()
        content = re.sub(r"^[^,;:]*[,;:]\s*", "", body, count=1).strip()
        blocks["differs" if label[1].startswith("Differs") else label[1].lower()] = content
    return Documentation(title=title.strip(), blocks=blocks, text=notes)


def documentation(target: str) -> Documentation:
    """The documentation of `module:Class`; the class's blocks take precedence over its module's.

    It is empty for a module that cannot be found, which may happen for another package's.
    """
    module, _, name = target.partition(":")
    source = _docstrings(module)
    of_module, of_class = parse(source.get("", "")), parse(source.get(name, ""))
    return Documentation(title=of_module.title, blocks={**of_module.blocks, **of_class.blocks}, text=of_module.text)


@cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstrings of a module (under the empty name) and of its classes."""
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    except (
        Exception,
        SystemExit,
    ):  # to find a module imports the packages that it lies in, and those may raise anything
        return {}
    classes = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)}
    return {"": ast.get_docstring(tree) or "", **classes}


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, each on one line; items of lists and rows of tables are separate."""
    for piece in re.split(r"\n\s*\n|\n(?=- |\|)", text):
        line = " ".join(piece.split())
        if line.startswith("|"):
            yield line.strip("| ").partition(" |")[0].replace("`: ", "` is ", 1)
        else:
            yield from re.split(r"(?<=[.!?]) (?=[A-Z`])", line.removeprefix("- "))


def defined(name: str, text: str) -> str:
    """What an item "- `name`: ..." of a list says of a setting; empty if there is none."""
    item = re.search(rf"^- `{re.escape(name)}`: (.*?)(?=\n- |\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(item[1].split()) if item else ""


def mentioning(name: str, text: str) -> str:
    """What a text says of a setting: the item of a list that defines it, else the sentences that mention it, in
    backquotes, alone or with a value (`name=...`, `name: ...`)."""
    if definition := defined(name, text):
        return definition
    mention = re.compile(rf"`{re.escape(name)}(?:`|[=: ])")
    return " ".join(dict.fromkeys(one for one in sentences(text) if mention.search(one)))


def class_text(cls: type) -> str:
    """A class's own docstring without blocks; empty if it only has one that `dataclass` generated."""
    own = vars(cls).get("__doc__") or ""
    if own.startswith(f"{cls.__name__}("):
        return ""
    parts = parse(inspect.cleandoc(own))
    return f"{parts.title}\n{parts.text}" if parts.text else parts.title
