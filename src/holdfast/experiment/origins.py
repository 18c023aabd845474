"""The model from which a hardened one was made: written into its folder, and read when the folder is attacked.

It is used only if it is on this machine and unchanged; nothing is downloaded because of this file.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.tasks import sandbox_models
from holdfast.files import require_file, write_text
from holdfast.files.fingerprints import MARKS, of_folder, of_model
from holdfast.files.gguf import PACKAGE, SUFFIX
from holdfast.files.hub import pinned
from holdfast.files.plain_yaml import yaml_value
from holdfast.methods.settings import plain, typed
from holdfast.records import Cell, HoldfastError
from holdfast.sandbox.build import Sandbox

FILE = "holdfast.yaml"
"""The file next to a hardened model's weights; not part of its fingerprint, since loading does not depend on it."""
HEAD = "# Holdfast made this model from another one, which is attacked as its control where it is still there.\n"
CARD = "---\ntags: [holdfast, hardened]\n"
"""The beginning of a hardened model's card."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model that another one was hardened from: a folder or id as given, or one of the `sandbox`.

    `fingerprint` is that of its folder, or `ID@REVISION`.
    """

    name: str
    fingerprint: str
    path: str | None = None
    revision: str | None = None
    sandbox: Sandbox | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"

    @property
    def place(self) -> str:
        """Its path or id."""
        return self.path or str(_sandbox_folder(self.sandbox or Sandbox(), self.name))

    @property
    def there(self) -> bool:
        """Whether it is on this machine and unchanged."""
        folder = Path(self.place)
        if any((folder / mark).is_file() for mark in MARKS):
            return of_folder(folder) == self.fingerprint
        if self.place.startswith(PACKAGE) or self.place.lower().endswith(SUFFIX):
            with contextlib.suppress(HoldfastError):
                return of_model(self.place) == self.fingerprint
            return False
        known = self.path is not None and not folder.exists() and _is_cached(self.path, self.revision)
        return known and self.fingerprint == f"{self.path}@{self.revision or 'main'}"


def write(folder: Path, cell: Cell) -> None:
    """Write into a hardened model's folder what it was made from: the cell's model, or that model's own origin."""
    settings, name = settings_of(cell.undefended), cell.undefended.model_name
    model = settings.model
    if isinstance(model, Sandbox):
        origin = Origin(name=name, fingerprint=of_folder(_sandbox_folder(model, name)), sandbox=model)
    else:
        fingerprint = settings.model_fingerprint
        revision = pinned(fingerprint) or model.revision  # the commit that was hardened, since a branch may change
        origin = Origin(name=name, fingerprint=fingerprint, path=model.path, revision=revision)
    values = {key: value for key, value in plain(origin).items() if value is not None}
    write_text(folder / FILE, f"{HEAD}{json.dumps({'hardened_from': values}, indent=1)}\n")


def origin_of(folder: str | Path) -> Origin | None:
    """The origin that a folder states; `None` if it states none that can be read."""
    path = Path(folder) / FILE
    try:
        if not path.is_file():
            return None
        require_file(path)
        values = yaml_value(path.read_text(encoding="utf-8"), str(path))
        return typed(Origin, values["hardened_from"], str(path))
    except (HoldfastError, OSError, KeyError, TypeError, ValueError):
        return None


def is_hardened(folder: str | Path) -> bool:
    """Whether Holdfast hardened a model's folder, by its card or its stated origin."""
    if (Path(folder) / FILE).is_file():
        return True
    card = Path(folder) / "README.md"
    try:
        return card.is_file() and card.read_text(encoding="utf-8").startswith(CARD)
    except (OSError, ValueError):
        return False


def _sandbox_folder(sandbox: Sandbox, name: str) -> Path:
    from holdfast.experiment.places import cache_folder

    cell = Cell(model={"kind": "sandbox", "name": name, "settings": plain(sandbox)})
    return sandbox_models(cell, cache_folder())["undefended"]


def _is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import constants, try_to_load_from_cache

    place = str(constants.HF_HUB_CACHE)
    try:
        return isinstance(try_to_load_from_cache(name, "config.json", cache_dir=place, revision=revision), str)
    except (OSError, ValueError):  # not a valid repository name
        return False
