"""Structure of a source tree: rooms and the imports between them, circles, functions, settings read by text keys.

    python benchmarks/structure.py [ROOT] [--before EARLIER] [--out FILE]

`ROOT` is a checkout, by default this one; with `EARLIER`, another, both are measured. A room is a module
or folder directly under `holdfast`; an arrow means that some module of one imports, at the top or in a function, some
module of another; the floors are the longest chain of arrows. Imports for type checkers are counted separately.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

Graph = dict[str, set[str]]


def modules(source: Path) -> dict[str, Path]:
    """Every module by its name without `holdfast.`; the package itself is the empty name."""
    named = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def statements(node: ast.AST, *, typing: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports at any depth, and whether each is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing
        elif not isinstance(child, ast.expr):
            checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from statements(child, typing=typing or checked)


def targets(statement: ast.Import | ast.ImportFrom, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a statement imports."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        names = [f"{statement.module}.{alias.name}" for alias in statement.names]
    for name in names:
        package, _, rest = name.partition(".")
        if package == "holdfast":
            yield rest if rest in known else rest.rpartition(".")[0]


def imports(known: dict[str, Path], *, typing: bool) -> Graph:
    """The imports of each module, with or without those for type checkers."""
    graph: Graph = {name: set() for name in known}
    for name, path in known.items():
        for statement, checked in statements(ast.parse(path.read_text())):
            if typing or not checked:
                graph[name].update(target for target in targets(statement, known) if target)
        graph[name].discard(name)
    return graph


def between_rooms(graph: Graph) -> Graph:
    """The graph of rooms."""
    rooms: Graph = {}
    for name, others in graph.items():
        room = name.partition(".")[0]
        if room:
            rooms.setdefault(room, set()).update(other.partition(".")[0] for other in others)
    return {room: others - {room} for room, others in rooms.items()}


def circles(graph: Graph) -> list[str]:
    """A circle of imports, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def floors(rooms: Graph) -> int | None:
    """The longest chain of rooms that import one another; `None` if there is a circle."""
    if circles(rooms):
        return None
    height: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        height[room] = 1 + max((height[other] for other in rooms.get(room, ())), default=0)
    return max(height.values())


def function_lengths(path: Path) -> Iterator[int]:
    """Lines of each function of a module, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            yield (node.end_lineno or node.lineno) - node.lineno + 1 - (text.count("\n") + 1 if text else 0)


def read_by_key(path: Path) -> int:
    """The number of reads of a cell's settings by a text key: `cell.data["train"]`, `evaluation["split"]`."""
    groups = {"data", "evaluation", "model", "settings"}
    count = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            value = node.value
            name = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
            count += name in groups and isinstance(node.ctx, ast.Load)
    return count


def measured(root: Path) -> dict[str, Any]:
    """The figures of a checkout."""
    known = modules(root / "src" / "holdfast")
    run, typed = imports(known, typing=False), imports(known, typing=True)
    rooms = between_rooms(run)
    lengths = [length for path in known.values() for length in function_lengths(path)]
    lines = {name: len(path.read_text().splitlines()) for name, path in known.items()}
    return {
        "modules": len(known),
        "lines": sum(lines.values()),
        "longest_module": max(lines.values()),
        "rooms": len(rooms),
        "arrows": sum(len(others) for others in rooms.values()),
        "arrows_with_types": sum(len(others) for others in between_rooms(typed).values()),
        "floors": floors(rooms),
        "circles_of_modules": circles(run),
        "circles_of_rooms": circles(rooms),
        "functions": {
            "number": len(lengths),
            "median": median(lengths),
            "p90": quantiles(lengths, n=10)[-1],
            "longest": max(lengths),
        },
        "settings_read_by_key": sum(read_by_key(path) for path in known.values()),
        "readme_lines": len((root / "README.md").read_text().splitlines()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    now = measured(given.root)
    text = json.dumps({"before": measured(given.before), "now": now} if given.before else now, indent=1)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)
