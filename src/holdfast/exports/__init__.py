"""Forms that other tools read: what runs found, as files of theirs. A new form needs one file and one row here.

A form is a function `write(contents, out, options) -> Written`. Every form tells n, interval and judge of each figure,
and every cell: one that showed nothing (untested, failed) is told as such, and never by a low figure of harm.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.methods.tables import near
from holdfast.records import HoldfastError

if TYPE_CHECKING:
    from holdfast.exports.options import Written


class Form(NamedTuple):
    """`module` has the function `write`; `summary` is one line for people."""

    module: str
    summary: str


FORMS: Mapping[str, Form] = {
    "every_eval_ever": Form(
        "holdfast.exports.every_eval_ever", "Every Eval Ever's JSON (schema 0.3.0), a file for each defense"
    ),
    "inspect": Form(
        "holdfast.exports.inspect_logs",
        "inspect's `.eval` logs, a file for each cell; with `--completions` its answers",
    ),
    "hub": Form("holdfast.exports.hub", "the Hub's `.eval_results/*.yaml` for the repository of each hardened model"),
    "model_card": Form(
        "holdfast.exports.model_card", "a fragment of a model card with its `model-index`, and the limits in words"
    ),
}


def names() -> dict[str, str]:
    """The forms with a line on each."""
    return {name: form.summary for name, form in FORMS.items()}


def export(
    runs: Sequence[Path],
    form: str,
    out: Path,
    *,
    defense: str | None = None,
    completions: bool = False,
    dataset: str | None = None,
    organization: str = "not stated",
) -> Written:
    """Write what runs found below the folder `out`, in the form of that name; see `holdfast.exports.options`.

    Raises:
        HoldfastError: there is no such form, its library is not installed, a run cannot be read, no cell has the
            `defense`, or `out` cannot be written.
    """
    from holdfast.exports.contents import read_contents
    from holdfast.exports.options import Options, Written
    from holdfast.report.page import plural

    if form not in FORMS:
        raise HoldfastError(f"--to: there is no form {form!r}{near(form, FORMS)}; there are {', '.join(FORMS)}")
    if out.exists() and not out.is_dir():
        raise HoldfastError(f"{out}: is not a folder; an export is a folder of files")
    contents = read_contents(runs, defense)
    options = Options(completions=completions, dataset=dataset, organization=organization)
    written: Written = importlib.import_module(FORMS[form].module).write(contents, out, options)
    unfinished = (
        (f"without figures, since unfinished: {plural(contents.unfinished, 'cell')}",) if contents.unfinished else ()
    )
    return Written(files=written.files, notes=(*written.notes, *unfinished, *contents.trouble))
