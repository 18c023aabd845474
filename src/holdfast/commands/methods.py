"""`holdfast show`: the documentation of one method, from its docstrings and its settings class; presets and formats."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.markdown import Markdown
from rich.padding import Padding
from rich.table import Table as Grid

from holdfast.commands.display import console, note, shown
from holdfast.data import FORMATS
from holdfast.files.packaged import preset_files
from holdfast.methods.describe import Description, Setting, by_meaning, describe
from holdfast.methods.tables import Table, near
from holdfast.records import HoldfastError

TITLES = {"idea": "Idea", "equation": "Equation", "source": "Source", "differs": "Differs from the paper in"}


def kinds() -> dict[str, Table]:
    """The table of each kind of method, by the name that `holdfast show` and the pages use."""
    from holdfast.attacks import ATTACKS
    from holdfast.attacks.adaptive import ADAPTIVE
    from holdfast.defenses.offline import OFFLINE
    from holdfast.defenses.online import ONLINE
    from holdfast.judges import JUDGES

    return {
        "attack": ATTACKS,
        "adaptive attacker": ADAPTIVE,
        "offline defense": OFFLINE,
        "online defense": ONLINE,
        "judge": JUDGES,
    }


def show(name: str) -> None:
    """Print a method's description, settings, presets and knobs; of a preset its file, of a data format its columns.

    Raises:
        HoldfastError: no list has it; suggests the most similar name.
    """
    matches = [(kind, table) for kind, table in kinds().items() if name in table]
    files = preset_files()
    if not matches and name not in FORMATS and name not in files:
        known = [each for table in (*kinds().values(), FORMATS, files) for each in table]
        raise HoldfastError(f"nothing is called {name!r}{near(name, known)}; `holdfast list` shows all")
    for kind, table in matches:
        _print(kind, describe(table, name))
    if name in FORMATS:
        note(f"{name} (data format): {inspect.cleandoc(FORMATS.load(name).read.__doc__ or '').replace('`', '')}")
    elif name in files:
        print(Path(files[name]).read_text(encoding="utf-8").rstrip())


def _print(kind: str, method: Description) -> None:
    console.print(f"[bold]{shown(method.name)}[/] ({kind}): {shown(method.summary)}", highlight=False, soft_wrap=True)
    for block, title in TITLES.items():
        if text := method.documentation.blocks.get(block):
            _section(title, text)
    if method.documentation.text:
        _section("Notes", method.documentation.text)
    if method.settings:
        console.print("\n[bold]Settings[/]")
        for settings in by_meaning(method.settings):
            _explained(settings)
    for preset, values in method.presets.items():
        console.print(f"\n[bold]Preset {shown(preset)}[/] (preset: {shown(preset)})", highlight=False)
        _table(("setting", "value"), iter(values.items()))
    if method.knobs:
        console.print("\n[bold]Knobs[/] (what `holdfast search` varies by default)", highlight=False)
        _table(("setting", "tried"), iter(method.knobs.items()))
    note(f"\nIn the source: {method.target}")


def _section(title: str, text: str) -> None:
    console.print(f"\n[bold]{title}[/]")
    console.print(Padding(Markdown(text), (0, 0, 0, 2)))


def _explained(settings: Sequence[Setting]) -> None:
    """A line for each of the settings that one text explains, then the text."""
    for setting in settings:
        allowed = f" ({setting.range})" if setting.range else ""
        line = f"  [bold]{shown(setting.name)}[/] = {shown(setting.default)}  [dim]{shown(setting.kind + allowed)}[/]"
        console.print(line, highlight=False, soft_wrap=True)
    console.print(Padding(shown(settings[0].meaning.replace("`", "")), (0, 0, 0, 6)), highlight=False)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Grid(box=None, header_style="bold", pad_edge=True)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row))
    console.print(table)
