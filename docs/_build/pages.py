"""The pages of methods: idea, equation, source, settings, what was measured, from docstrings, classes and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cost
import measured
import yaml

from holdfast.commands.methods import TITLES, kinds
from holdfast.data import FORMATS
from holdfast.judges import JUDGES
from holdfast.methods.describe import LISTED, Description, Setting, describe
from holdfast.methods.docstrings import BLOCKS
from holdfast.methods.tables import Table
from holdfast.records import HoldfastError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KINDS = {
    "attack": "Attacks",
    "adaptive attacker": "Adaptive attackers",
    "offline defense": "Offline defenses",
    "online defense": "Online defenses",
    "judge": "Judges",
}
USED = {
    "attack": "`holdfast attack {name}{more}`, or in a grid `attacks: [{{{name}: {{...}}}}]`.",
    "adaptive attacker": "In a grid, after an attack: `attacks: [[{attack}: {{...}}, {name}: {{...}}]]`.",
    "offline defense": "`holdfast harden {name} -o hardened`, or in a grid `defenses: [{{{name}: {{...}}}}]`.",
    "online defense": "`holdfast attack {attack} --defense {name}{more}`, or in a grid `defenses: [{{{name}: {{...}}}}]`.",
    "judge": "In a grid, under your own name: `judges: {{mine: {{{name}: {{...}}}}}}`.",
}
UNREVIEWED = {"reference": "not reviewed", "test": "", "verdict": "not reviewed"}
"""The values for a method without an entry in `faithfulness.yaml`."""
Methods = dict[str, dict[str, Description]]


@cache
def methods() -> Methods:
    """Every built-in method by kind and name.

    Raises:
        HoldfastError: the docstring of a method lacks a block.
    """
    tables = kinds()
    return {kind: {name: _documented(table, name) for name in table.built_in} for kind, table in tables.items()}


def _documented(table: Table, name: str) -> Description:
    method = describe(table, name)
    missing = [TITLES[block] for block in BLOCKS if not method.documentation.blocks.get(block)]
    if missing:
        file = f"{method.target.partition(':')[0].replace('.', '/')}.py"
        blocks = " and ".join(f"`{title}: ...`" for title in missing)
        raise HoldfastError(f"{method.kind} {name!r}: the docstring of src/{file} has no block {blocks}")
    return method


@cache
def faithfulness() -> dict[str, dict[str, str]]:
    """The review of each method: reference implementation, parity test, verdict."""
    rows = yaml.safe_load((HERE / "faithfulness.yaml").read_text(encoding="utf-8"))
    for row in rows.values():
        if "golden" in row:
            source = json.loads((ROOT / "tests" / "golden" / f"{row['golden']}.json").read_text())["source"]
            row["reference"] = f"{source['repo'].removeprefix('github.com/').partition(' (')[0]} at `{source['commit'][:9]}`"
    return rows


def file_name(name: str) -> str:
    """A method's name as part of a URL."""
    return name.replace("+", "plus")


def folder(kind: str) -> str:
    """The folder of a kind's pages."""
    return KINDS[kind].lower().replace(" ", "-")


def navigation() -> dict[str, list[Any]]:
    """The pages of each kind, titled by the method's name, after their list."""
    return {
        KINDS[kind]: [f"{folder(kind)}/index.md"] + [{name: f"{folder(kind)}/{file_name(name)}.md"} for name in by_name]
        for kind, by_name in methods().items()
    }


def all_pages() -> dict[str, str]:
    """Every generated page, by its path."""
    made = {"methods.md": _overview(), "faithfulness.md": _faithfulness(), "schemas.md": _formats()}
    for kind, by_name in methods().items():
        made[f"{folder(kind)}/index.md"] = _index(kind)
        for name, method in by_name.items():
            made[f"{folder(kind)}/{file_name(name)}.md"] = "\n".join(_page(kind, method))
    return made


def page(kind: str, name: str) -> str:
    """The page of one method, a built-in or an installed package's."""
    return "\n".join(_page(kind, describe(kinds()[kind], name)))


def _page(kind: str, method: Description) -> Iterator[str]:
    said = method.documentation
    yield f"# {method.name}\n"
    yield f"{_sentence(method.summary)}\n{{ .lead }}\n"
    yield f"**{kind.capitalize()}** · {said.where} · `{method.target.replace(':', '.')}`\n{{ .facts }}\n"
    yield f"Use: {_used(kind, method)}\n"
    for block in ("idea", "equation", "source"):
        if text := said.blocks.get(block):
            yield f"## {TITLES[block]}\n\n{_prose(text)}\n"
    if said.text:
        yield f"## Notes\n\n{_prose(said.text)}\n"
    if method.settings:
        yield "## Settings\n"
        yield from _settings(method)
    if method.presets:
        yield "## Presets\n"
        yield from _pairs(method)
    if method.knobs:
        yield "## Knobs\n\nWhat `holdfast search` varies by default.\n\n| setting | tried |\n|---|---|"
        yield from (f"| `{name}` | `{_cell(tried)}` |" for name, tried in method.knobs.items())
        yield ""
    yield from _cost(kind, method.name)
    yield from _measured(kind, method.name)
    yield f"## Differs from the paper in\n\n{_prose(said.blocks.get('differs', ''))}\n"
    row = faithfulness().get(method.name, UNREVIEWED)
    yield f"Verdict: **{row['verdict']}**. Reference read: {row['reference']}. Test: {_tests(row)}.\n"


def _settings(method: Description) -> Iterator[str]:
    """The method's own settings in one table, with those of every group collapsed after it."""
    groups: dict[str, list[Setting]] = {"": []}
    for setting in method.settings:
        above = setting.name.rpartition(".")[0]
        groups.setdefault(above, []).append(setting)
    for group, settings in groups.items():
        indent = ""
        if group:
            yield f'??? note "Settings of `{group}`"\n'
            indent = "    "
        yield f"{indent}| setting | default | type and values | meaning |\n{indent}|---|---|---|---|"
        first: dict[str, str] = {}
        for one in settings:
            allowed = f"{one.kind}: {one.range}" if one.range else one.kind
            name = one.name.rpartition(".")[2] if group else one.name
            default = "see below" if one.default == LISTED else f"`{_cell(one.default)}`"
            before = first.setdefault(one.meaning, name)
            meaning = _cell(one.meaning) if before == name else f"see `{before}`"
            yield f"{indent}| `{name}` | {default} | {_cell(allowed)} | {meaning} |"
        yield ""


def _pairs(method: Description) -> Iterator[str]:
    for name, values in method.presets.items():
        yield f"`preset: {name}`\n\n| setting | value |\n|---|---|"
        yield from (f"| `{key}` | `{_cell(value)}` |" for key, value in values.items())
        yield ""


def _cost(kind: str, name: str) -> Iterator[str]:
    of_kind = {
        "attack": cost.of_attack,
        "adaptive attacker": cost.of_adaptive,
        "offline defense": cost.of_hardening,
        "online defense": cost.of_constraint,
        "judge": cost.of_judge,
    }
    yield "## Cost\n"
    yield from of_kind[kind](name)
    yield ""


def _measured(kind: str, name: str) -> Iterator[str]:
    if kind == "judge":
        yield "## Measured\n"
        yield from measured.of_judge(name) or ["No stored measurement includes it."]
        yield ""
        return
    of_kind = {"attack": measured.of_attack, "adaptive attacker": measured.of_adaptive}
    in_sandbox, real = (of_kind.get(kind, measured.of_defense)(name, tables) for tables in (measured.TABLES, measured.KITCHEN))
    further = measured.elsewhere(kind, name)
    yield "## Measured in the sandbox\n"
    if in_sandbox:
        yield (
            "Small models of an invented world, with settings chosen for it: only directions are meaningful, not sizes. "
            "Outcomes are those at the time of the run; *cannot tell* is said where runs are too few or do not agree "
            "([what the words mean](../honest.md)).\n"
        )
        yield from in_sandbox
    if further:
        yield f"{further}\n"
    if not in_sandbox and not further:
        yield "No stored table includes it.\n"
    if real:
        yield "## Measured in the kitchen\n"
        yield (
            "A real small model that was taught to refuse cooking, one seed and 24 test prompts a cell: no ranking. "
            "Outcomes are by the list of terms before 17 words were added "
            "([what the present list makes of them](../kitchen.md)).\n"
        )
        yield from real


def _overview() -> str:
    lines = ["# Methods\n", "Every page is generated from the code. In a terminal: `holdfast list`, `holdfast show NAME`.\n"]
    for kind in methods():
        lines += [f"## {KINDS[kind]}\n", *_rows(kind, f"{folder(kind)}/"), ""]
    return "\n".join(lines)


def _index(kind: str) -> str:
    return "\n".join([f"# {KINDS[kind]}\n", *_rows(kind, "")])


def _rows(kind: str, folder: str) -> Iterator[str]:
    yield "| name | what it is | source |\n|---|---|---|"
    for name, method in methods()[kind].items():
        place = f"{folder}{file_name(name)}.md"
        yield f"| [`{name}`]({place}) | {_cell(method.summary)} | {method.documentation.where} |"


def _faithfulness() -> str:
    lines = [
        "---\nhide: [toc]\n---\n\n# Faithfulness\n",
        "The source of each method, the reference implementation that was read, the test against it, and the verdict. "
        "**Faithful** follows the paper or its code, with stated deviations; **variant with reason** changes something "
        "that affects results; **own** is this project's.\n",
        "Tests are in `tests`. Those in `parity` compare with outputs of the reference implementation, or with the "
        "library itself; others with a slow loop, a closed form or the required behaviour. Each name links to its "
        "page, with the equation and all deviations.\n",
    ]
    head = "| method | verdict | source | equation | reference read | deviations begin with | test |"
    for kind, by_name in methods().items():
        lines.append(f"## {KINDS[kind]}\n\n<div class=faithfulness markdown>\n\n{head}\n|---|---|---|---|---|---|---|")
        for name, method in by_name.items():
            row = faithfulness().get(name, UNREVIEWED)
            place = f"{folder(kind)}/{file_name(name)}.md"
            said = method.documentation
            cells = [f"[`{name}`]({place})", row["verdict"], said.where, _formula(said.blocks["equation"]), row["reference"]]
            cells += [_begin(said.blocks["differs"]), _tests(row)]
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
        lines.append("\n</div>\n")
    return "\n".join(lines)


def _formula(equation: str) -> str:
    """The first code span of an equation; the text itself if there is none."""
    first = re.search(r"`[^`]*[=(\[][^`]*`", equation)
    return first[0] if first else _begin(equation)


def _begin(text: str) -> str:
    return re.split(r"[.;] |\.$|\.\n|;\n", text, maxsplit=1)[0]


def _formats() -> str:
    lines = ["# Schemas of rows\n", "| `--harmful-format`, `--benign-format` | columns of a row |\n|---|---|"]
    for name in FORMATS:
        said = (FORMATS.load(name).read.__doc__ or "").partition("\n")[0]
        lines.append(f"| `{name}` | {_cell(said)} |")
    return "\n".join(lines)


def _used(kind: str, method: Description) -> str:
    """How the method is called, with what it cannot do without: settings, or an attack that it acts on."""
    cls = kinds()[kind].load(method.name)
    needed = {name: str(value) for name, value in cls.EXAMPLE.items()}
    by_default = {setting.name: setting.default for setting in method.settings}
    if (judge := by_default.get("judge")) in JUDGES and JUDGES.load(judge).EXAMPLE:
        needed["judge"] = "NAME"  # one that a grid or the command sets up
    keys = "defenses" if kind == "online defense" else "attacks"
    needs = getattr(cls(**cls.EXAMPLE), "needs", None)
    usual = "grpo" if kind == "adaptive attacker" else "sft"
    return USED[kind].format(
        name=method.name,
        attack={"answers": "sft", "preferences": "dpo", "rewards": "grpo"}.get(needs, usual),
        more="".join(f" {keys}.{method.name}.{name}={value}" for name, value in needed.items()),
    )


def _tests(row: dict[str, str]) -> str:
    """The files of a review's tests; their names may break after `/` and `_`."""
    names = [re.sub(r"([/_])", r"\1<wbr>", test.removeprefix("tests/")) for test in row["test"].split()]
    return "<br>".join(f"<code>{name}</code>" for name in names) or "none"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _prose(text: str) -> str:
    """A docstring's block as Markdown: indented lines are separate, tables and lists come after a blank line."""
    out: list[str] = []
    before = ""
    for line in (text[:1].upper() + text[1:]).splitlines():
        sign = next((sign for sign in ("- ", "|", "    ") if line.startswith(sign)), "")
        if sign and sign != before and not line.startswith("     "):
            out.append("")
        out.append(f"{line.strip()}  " if sign == "    " else line)
        before = sign
    return "\n".join(out)


def _cell(text: str) -> str:
    """Text for a table cell: on one line, with bars escaped outside code."""
    pieces = " ".join(text.split()).split("`")
    return "`".join(piece if i % 2 else piece.replace("|", "\\|") for i, piece in enumerate(pieces))
