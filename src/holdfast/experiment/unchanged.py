"""Whether files that a cell names still are what they were when its key was computed from them.

Cells may start hours after their grid was expanded. A folder or file that somebody has overwritten meanwhile would be
measured under the key of what it was before, and compared with a control of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.data.read import fingerprint
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.fingerprints import of_folder
from holdfast.network.pretrained import Pretrained
from holdfast.records import Cell, HoldfastError


def refuse_changed(cell: Cell, *, model: bool) -> None:
    """Refuse a cell whose rows, judges, experts or, with `model`, model are not what its key says; to call once read.

    What is named by an id of the Hub is read at the commit that the key has.

    Raises:
        HoldfastError: names the file or folder that has changed.
    """
    for path, then, now in _local(cell, model=model):
        if then != now:
            raise HoldfastError(
                f"{path}: has changed since this run began, so its results would be of something else; run again, and "
                "write to another place while a run goes on"
            )


def _local(cell: Cell, *, model: bool) -> Iterator[tuple[str, str, str]]:
    """(path, fingerprint in the cell, fingerprint now) of what lies on this machine."""
    settings = settings_of(cell)
    sources = {"harmful": settings.data.harmful, "benign": settings.data.benign}
    for name, then in settings.data_fingerprints.items():
        source = sources[name]
        if source is not None and "@" not in then:
            yield source.path, then, fingerprint(source)
    folders: dict[str, str] = {}
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
    return of_folder(Path(path)) if Path(path).is_dir() else "nothing"
