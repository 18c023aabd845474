"""A page for each cell beside the report: settings, curves, reason, costs, versions, and its answers to search.

They are files of their own, whatever the size of the run: the answers of eight small cells are a megabyte and those of
two hundred are sixty, and a link to a cell looks the same in every report. A page that would not change is not written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from holdfast import __version__, files
from holdfast.records import HoldfastError, Outcome, Record, digest

if TYPE_CHECKING:
    from holdfast.report.contents import ReportContents
    from holdfast.report.curve_drawings import CurveDrawing
    from holdfast.report.read import Finished

BEGINS = b'<!DOCTYPE html>\n<html lang="en" data-page="holdfast-cell">'
"""The beginning of every page of a cell: nothing else in the folder is written over or removed."""
RAW = ("record.json", "config.yaml", "curves.jsonl", "completions.parquet", "log.txt")
"""The files of a cell that its page links."""
_EVALUATED = ("harmfulness", "helpfulness", "refusal_rate", "reward", "kl", "entropy")
_TRAINED = ("reward", "loss", "kl", "sequence_kl", "entropy")
_TITLES = {"kl": "KL from the start", "sequence_kl": "KL of whole answers", "refusal_rate": "refusal rate"}
_POINTS = 100
"""The largest number of points of a training curve."""
_LOG_LINES = 20


def folder_of(out: Path) -> Path:
    """The folder of the pages of the cells of the report at `out`."""
    return out.with_name(f"{out.stem}_cells")


def require_folder(out: Path) -> None:
    """Refuse a folder of pages that is a link or a file, and pages there that are not a report's.

    Raises HoldfastError naming the place.
    """
    folder = folder_of(out)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise HoldfastError(
            f"{folder}: the pages of the cells go there, and it is {'a link' if folder.is_symlink() else 'no folder'}; "
            "give the page another name or move it"
        )
    for page in folder.glob("*.html"):
        if not _is_own(page):
            raise HoldfastError(
                f"{page}: the report would overwrite this file, which is not a report's; "
                "give the page another name or move it"
            )


def write_cell_pages(
    contents: ReportContents, rows: Sequence[Mapping[str, Any]], out: Path, *, title: str
) -> dict[str, str]:
    """Write the page of each cell into `<out stem>_cells/`, remove those of cells that are no longer in the report,
    and return the relative address of each by the cell's key.

    `rows` are the cells as `cells.cell_row` gives them, in the order of `contents`. Raises HoldfastError for a place
    that cannot be written.
    """
    from holdfast.report import page, text

    folder = folder_of(out)
    names = [_file_name(cell.record.key) for cell in contents.cells]
    pages = {cell.record.key: name for cell, name in zip(contents.cells, names, strict=True)}
    for place, (cell, row) in enumerate(zip(contents.cells, rows, strict=True)):
        around = {
            "report": quote(f"../{out.name}"),
            "title": title,
            "control_page": pages.get(cell.record.control.key) if cell.record.control else None,
            "previous": names[place - 1] if place else None,
            "next": names[place + 1] if place + 1 < len(names) else None,
            "raw": _raw_files(cell.folder, folder),
            "row": row,
        }
        path, state = folder / names[place], _state(cell, around, len(names))
        if _is_own(path, state):
            continue
        shown = {**around, "state": state, **_content(cell, contents.trouble, len(names))}
        files.write(path, page.render(shown, text.visible, template="cell.html.j2").encode())
    for stale in set(folder.glob("*.html")) - {folder / name for name in names}:
        if _is_own(stale):
            stale.unlink()
    return {key: quote(f"{folder.name}/{name}") for key, name in pages.items()}


def _file_name(key: str) -> str:
    return f"{key if re.fullmatch(r'[0-9A-Za-z_-]{1,64}', key) else digest(key)}.html"


def _is_own(path: Path, state: str = "") -> bool:
    """Whether a page of a cell is there, and of this state if one is given."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(400)
    return start.startswith(BEGINS) and state.encode() in start


def _state(cell: Finished, around: Mapping[str, Any], cells: int) -> str:
    """A hash of everything that a page is made from; of large files size and time."""
    stats = [
        (name, place.stat().st_mtime_ns, place.stat().st_size)
        for name in RAW
        if (place := cell.folder / name).is_file()
    ]
    return digest(json.dumps([__version__, _looks(), stats, cells, around], default=str), 32)


@cache
def _looks() -> str:
    """A hash of the templates that pages are made with."""
    from holdfast.report import page

    return digest(
        "".join(page.asset(name) for name in ("cell.html.j2", "cell.js", "cell.css", "controls.css", "page.css")), 32
    )


def _raw_files(folder: Path, pages: Path) -> list[tuple[str, str]]:
    """Name and relative address of each file of a cell that is not empty."""
    there = [name for name in RAW if (folder / name).is_file() and (folder / name).stat().st_size]
    return [(name, quote(Path(os.path.relpath(folder / name, pages)).as_posix())) for name in there]


def _content(cell: Finished, trouble: list[str], cells: int) -> dict[str, Any]:
    from holdfast.report import accounting, page
    from holdfast.report.read import or_none, read_curves
    from holdfast.report.summarise import step_unit

    record = cell.record
    unit = step_unit(record)
    return {
        "record": record,
        "unit": unit,
        "grid": cell.grid,
        "evaluated": _evaluated(record, unit),
        "trained": _trained(or_none(read_curves, cell.folder, trouble) or []),
        "scores": _scores(record),
        "stages": accounting.stages([record]),
        "environment": accounting.environments([record]),
        "config": _config(record),
        "log": _log(cell),
        **_answers(cell, trouble, cells),
        "style": page.asset("page.css") + page.asset("controls.css") + page.asset("cell.css"),
        "script": page.asset("cell.js"),
    }


def _evaluated(record: Record, unit: str) -> list[CurveDrawing]:
    """The scores of the evaluations that have values at two or more steps, in a fixed order."""
    from holdfast.report.curve_drawings import CurvePoint, plotted

    time = record.time_to_break
    broke = float(time.steps) if time and not time.censored else None
    curves = []
    for name in _EVALUATED:
        scored = [(evaluation.step, score) for evaluation in record.evaluations if (score := evaluation.score(name))]
        points = [
            CurvePoint(at=float(step), value=score.value, low=score.low, high=score.high)
            for step, score in scored
            if score.value is not None
        ]
        if points:
            rule = time.threshold if time and name == "harmfulness" else None
            curves.append(plotted(_TITLES.get(name, name), points, unit=unit, rule=rule, broke=broke))
    return curves


def _trained(rows: Sequence[Mapping[str, Any]]) -> list[CurveDrawing]:
    """Metrics of the attacker's training, as means over windows of steps where there are many."""
    from holdfast.report.curve_drawings import CurvePoint, plotted
    from holdfast.report.training_curves import thin

    curves = {name: thin(rows, name, _POINTS) for name in _TRAINED}
    return [
        plotted(_TITLES.get(name, name), [CurvePoint(at=step, value=value) for step, value in pairs])
        for name, pairs in curves.items()
        if pairs
    ]


def _scores(record: Record) -> dict[str, list[Any]]:
    """Every score by name, at each evaluation; `None` where it was not measured."""
    names = dict.fromkeys(score.name for evaluation in record.evaluations for score in evaluation.scores)
    return {name: [evaluation.score(name) for evaluation in record.evaluations] for name in names}


def _config(record: Record) -> str:
    """The resolved cell as YAML, as in its `config.yaml`."""
    import yaml

    return str(yaml.safe_dump(json.loads(json.dumps(asdict(record.cell))), sort_keys=False, allow_unicode=True))


def _log(cell: Finished) -> list[str]:
    """The last lines that a failed or diverged cell's process printed."""
    path = cell.folder / "log.txt"
    if cell.record.outcome not in (Outcome.FAILED, Outcome.DIVERGED) or not path.is_file():
        return []
    return path.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]


def _answers(cell: Finished, trouble: list[str], cells: int) -> dict[str, Any]:
    """The answers as JSON for the page's script, their number, and that of those on the page."""
    from markupsafe import Markup

    from holdfast.experiment.cell_settings import settings_of
    from holdfast.report import answers, text
    from holdfast.report.read import or_none, read_answers

    columns = or_none(read_answers, cell.folder, trouble) or {}
    measured = settings_of(cell.record.cell).evaluation
    judge = measured.harm_judges[0]
    packed = answers.packed(columns, judge=judge, threshold=measured.break_threshold, most=answers.room(cells))
    here = len(packed["answers"]) // 4
    return {
        "answers": Markup(text.script_json(packed)) if here else "",
        "num_answers": here,
        "of_answers": packed["of"],
        "judge": judge,
        "threshold": measured.break_threshold,
    }
