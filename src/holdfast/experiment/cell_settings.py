"""The settings of a cell as objects: the only place where its plain values are read by their keys.

A cell holds its model, data and evaluation as JSON values, since its key is their hash. Use `settings_of(cell)` to get
them as objects. Values that an earlier version did not write have their defaults; unknown values of a later version are
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

from holdfast.data.dataset import Data
from holdfast.evaluation.measurement import Measurement
from holdfast.files.hub import pinned
from holdfast.methods.settings import AnySettings, typed
from holdfast.records import Cell, digest

if TYPE_CHECKING:
    from holdfast.network.pretrained import Pretrained
    from holdfast.sandbox.build import Sandbox


@dataclass(frozen=True)
class CellSettings:
    """A cell's settings, each parsed on first use; a report uses no model and so does not import torch. Each raises
    `HoldfastError` if its values are not valid in a grid.
    """

    cell: Cell

    @cached_property
    def data(self) -> Data:
        """The source of the prompts."""
        return _read(Data, self.cell.data, "data")

    @cached_property
    def data_at_commit(self) -> Data:
        """The source of the prompts, with each Hub id at the commit in the cell's key: its branch may have moved on."""
        commits = {key: commit for key, text in self.data_fingerprints.items() if (commit := pinned(text)) is not None}
        sources = {
            key: replace(source, revision=commits[key]) if key in commits else source
            for key, source in self.data.sources.items()
        }
        tasks = {name: sources[f"tasks.{name}"] for name in self.data.tasks}
        harmful, benign, pairs = (sources.get(key) for key in ("harmful", "benign", "pairs"))
        return replace(self.data, harmful=harmful, benign=benign, pairs=pairs, tasks=tasks) if commits else self.data

    @cached_property
    def data_fingerprints(self) -> dict[str, str]:
        """The hash of each file of rows; none for the sandbox's own data."""
        return dict(self.cell.data.get("fingerprints") or {})

    @cached_property
    def evaluation(self) -> Measurement:
        """The evaluation settings."""
        return _read(Measurement, self.cell.evaluation, "evaluation")

    @cached_property
    def evaluation_fingerprints(self) -> dict[str, str]:
        """The hash of each model that the evaluation reads with."""
        return dict(self.cell.evaluation.get("fingerprints") or {})

    @cached_property
    def model(self) -> Sandbox | Pretrained:
        """The sandbox's or the pretrained model; the latter's `undefended` is `Cell.undefended`."""
        from holdfast.network.pretrained import Pretrained
        from holdfast.sandbox.build import Sandbox

        values = self.cell.model["settings"]
        if self.cell.model["kind"] == "sandbox":
            return _read(Sandbox, values, "models.sandbox")
        return _read(Pretrained, values, "models")

    @cached_property
    def model_fingerprint(self) -> str:
        """Fingerprint that distinguishes the model from another one at the same path; empty for the sandbox's."""
        return str(self.cell.model.get("fingerprint", ""))

    @property
    def place(self) -> tuple[str, str | None]:
        """The folder, file or id of a pretrained model, and its revision; imports no torch, as `model` does."""
        values = self.cell.model["settings"]
        return str(values["path"]), values.get("revision")

    @property
    def tells_of_training(self) -> bool:
        """Whether the version that wrote the cell recorded the effect of training, known by `help_threshold`."""
        return "help_threshold" in self.cell.evaluation


def settings_of(cell: Cell) -> CellSettings:
    """The settings of a cell as objects."""
    return CellSettings(cell)


def is_sandbox(cell: Cell, *, part: str | None = None) -> bool:
    """Whether a cell's model is the sandbox's, of this `part` if given; imports nothing heavy."""
    return cell.model["kind"] == "sandbox" and part in (None, cell.model["settings"].get("part", "aligned"))


def sandbox_keys(cell: Cell) -> tuple[str, str]:
    """Hashes of everything that the sandbox's base and aligned models depend on."""
    settings = {key: value for key, value in cell.model["settings"].items() if key != "part"}
    base = {key: value for key, value in settings.items() if "aligned" not in key}
    return digest({"base": base}), digest({"aligned": settings})


def _read(cls: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    own = {name: value for name, value in values.items() if name in known}
    try:
        text = json.dumps(own)
    except (TypeError, ValueError, RecursionError):
        return typed(cls, own, where)  # says what is no JSON value
    return cast(AnySettings, _parsed(cast(Any, cls), text, where))


@lru_cache(maxsize=1024)
def _parsed(cls: Any, text: str, where: str) -> Any:
    """Settings from JSON text. Cells share most of theirs and a report asks often, so equal ones are parsed once."""
    return typed(cls, json.loads(text), where)
