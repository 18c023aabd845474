"""`holdfast list`: what there is, by name. Titles and papers are read from the sources; no method is imported."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast import attacks, judges
from holdfast.attacks import adaptive
from holdfast.commands import display
from holdfast.data import FORMATS
from holdfast.defenses import offline, online
from holdfast.evaluation import refusal_forms
from holdfast.exports import names as forms
from holdfast.files.packaged import CONTROL_PRESETS, presets
from holdfast.methods.describe import brief
from holdfast.methods.docstrings import documentation
from holdfast.methods.tables import Table, near
from holdfast.published.tables import names as published_tables
from holdfast.records import HoldfastError

TABLES: Mapping[str, tuple[Table, ...]] = {
    "attacks": (attacks.ATTACKS, adaptive.ADAPTIVE),
    "defenses": (offline.OFFLINE, online.ONLINE),
    "judges": (judges.JUDGES,),
    "formats": (FORMATS,),
}
"""The tables of each list to which installed packages add rows."""


def show_list(what: str | None) -> None:
    """Print the tables of methods with their papers, and those of judges, formats and presets."""

    def summaries(table: Table, suffix: str = "") -> dict[str, str]:
        return {name: brief(row) + _papers(row.target) + suffix for name, row in table.items()}

    listings = {
        "attacks": {
            **summaries(attacks.ATTACKS),
            **summaries(adaptive.ADAPTIVE, " (adaptive)"),
        },
        "defenses": {
            **summaries(offline.OFFLINE, " (offline)"),
            **summaries(online.ONLINE, " (online)"),
        },
        "judges": summaries(judges.JUDGES),
        "formats": {name: _columns(name) for name in FORMATS},
        "presets": presets(),
        "control": presets(CONTROL_PRESETS),
        "published": published_tables(),
        "exports": forms(),
    }
    if what is not None and what not in listings:
        raise HoldfastError(f"there is no list called {what!r}{near(what, listings)}; there are {', '.join(listings)}")
    for title in [what] if what else listings:
        display.note(f"{title}:")
        for name, summary in listings[title].items():
            display.note(f"  {name:<24} {summary}")
        for line in (line for table in TABLES.get(title, ()) for line in table.not_used()):
            display.note(f"  {line}")
        if title == "judges":
            display.note(f"  {refusal_forms.summary()}")


def _papers(target: str) -> str:
    where = documentation(target).where
    return f" [{where}]" if where else ""


def _columns(name: str) -> str:
    """A schema's columns, from the first line of its reader's docstring, or the error of its row."""
    try:
        schema = FORMATS.load(name)
    except HoldfastError as error:  # one package's wrong row must not hide the others
        return str(error)
    about = (schema.read.__doc__ or "").partition("\n")[0].replace("`", "").removesuffix(".")
    return about or f"columns {', '.join(schema.columns)}"
