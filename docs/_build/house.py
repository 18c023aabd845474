"""The picture of the source: rooms on floors by their imports, and lines for imports that do not follow from others."""

from __future__ import annotations

from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import structure

SOURCE = Path(__file__).parents[2] / "src" / "holdfast"
WIDTH, ROOM, HEIGHT, FLOOR = 560, 124, 36, 66
BESIDE = WIDTH // (ROOM + 14)
"""How many rooms stand beside each other; a floor with more has several rows."""


def rooms() -> dict[str, set[str]]:
    """Which room imports which."""
    return structure.between_rooms(structure.imports(structure.modules(SOURCE), typing=False))


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest room that it imports."""
    floor: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        floor[room] = 1 + max((floor[below] for below in graph.get(room, ())), default=0)
    return floor


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others."""

    @cache
    def below(room: str) -> set[str]:
        return graph.get(room, set()) | {deep for one in graph.get(room, ()) for deep in below(one)}

    return {room: {one for one in used if not any(one in below(o) for o in used - {one})} for room, used in graph.items()}


def places(graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """The middle of each room's box, the ground at the bottom."""
    floor = floors(graph)
    rows: list[list[str]] = []
    for level in range(max(floor.values()), 0, -1):
        named = sorted(room for room, its in floor.items() if its == level)
        count = -(-len(named) // BESIDE)
        rows += [named[i::count] for i in range(count)]
    return {
        room: (WIDTH / len(row) * (i + 0.5), number * FLOOR + HEIGHT)
        for number, row in enumerate(rows)
        for i, room in enumerate(row)
    }


def drawing(graph: dict[str, set[str]] | None = None) -> str:
    """The picture of `rooms()` as SVG; the ground is at the bottom."""
    graph = rooms() if graph is None else graph
    place = places(graph)
    lines = [
        f'<path d="M{x:.0f},{y + HEIGHT / 2:.0f} C{x:.0f},{y + FLOOR / 2:.0f} {u:.0f},{v - FLOOR / 2:.0f} '
        f'{u:.0f},{v - HEIGHT / 2:.0f}"/>'
        for room, used in direct(graph).items()
        for (x, y), (u, v) in ((place[room], place[one]) for one in sorted(used))
    ]
    boxes = [
        f'<g><rect x="{x - ROOM / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{ROOM}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}">{room}</text></g>'
        for room, (x, y) in place.items()
    ]
    style = (
        "path{fill:none;stroke:#8aa5a2;stroke-width:1.4}rect{fill:#e3f2f0;stroke:#00796b}"
        "text{font:17px sans-serif;text-anchor:middle;fill:#123}"
    )
    height = max(y for _, y in place.values()) + HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="The rooms of the source and their imports"><style>{style}</style>'
        f'<rect width="{WIDTH}" height="{height:.0f}" style="fill:#fff;stroke:none"/>{"".join(lines + boxes)}</svg>'
    )
