"""Check that files that a cell names have not changed since its key was computed.

Cells may start hours after their grid was expanded. A folder or file that was overwritten meanwhile would be measured
under the key of its earlier content, and compared with that content's control.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from holdfast.data.read import fingerprint
from holdfast.experiment.cell_settings import settings_of
from holdfast.files.fingerprints import of_place
from holdfast.network.pretrained import Pretrained
from holdfast.records import Cell, HoldfastError


def refuse_changed(cell: Cell, *, model: bool) -> None:
    """Refuse a cell whose rows, judges, experts, model of reference or, with `model`, model have changed since its key
    was computed; call it after reading them.

    Hub ids of the model, of rows and of judges, and that of reference, are read at the commit in the key.

    Raises:
        HoldfastError: names the file or folder that has changed.
    """
    for path, then, now in _local(cell, model=model):
        if then != now:
            raise HoldfastError(
                f"{path}: has changed since this run began, so its results would not belong to the cell; run again, "
                "and do not write there during a run"
            )


def _local(cell: Cell, *, model: bool) -> Iterator[tuple[str, str, str]]:
    """(path, fingerprint in the cell, fingerprint now) of files on this machine."""
    settings = settings_of(cell)
    sources = settings.data.sources
    for key, then in settings.data_fingerprints.items():
        if key in sources and "@" not in then:
            yield sources[key].path, then, fingerprint(sources[key])
    folders = dict(settings.evaluation_fingerprints)
    for method in (*cell.stages, *cell.constraints, *filter(None, [cell.attack]), *cell.adaptive):
        folders.update(method.fingerprints)
    for judge in cell.judges.values():
        folders.update(judge.fingerprints)
    if model and isinstance(settings.model, Pretrained):
        folders[settings.model.path] = settings.model_fingerprint
    yield from ((path, then, _now(path)) for path, then in _of_folders(folders))


def _of_folders(fingerprints: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((path, then) for path, then in fingerprints.items() if then and "@" not in then)


def _now(path: str) -> str:
    with contextlib.suppress(HoldfastError):  # a GGUF file or package that is gone
        return of_place(path) or "nothing"
    return "nothing"
