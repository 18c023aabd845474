"""The presets that come with the package: their names, files and descriptions. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from holdfast.files.plain_yaml import yaml_value

CONTROL_PRESETS = "control/presets"


def preset(name: str, folder: str = "presets") -> Path | None:
    """The built-in preset of that name in a folder of the package, if there is one."""
    return next((path for path in Path(str(files("holdfast") / folder)).glob("*.yaml") if path.stem == name), None)


@cache
def presets(folder: str = "presets") -> Mapping[str, str]:
    """Names of the built-in presets in a folder of the package, and their descriptions."""
    paths = _preset_paths(folder)
    return {path.stem: str(yaml_value(path.read_text(encoding="utf-8"), str(path))["description"]) for path in paths}


def preset_files() -> dict[str, Path]:
    """The file of each built-in preset by its name; a grid's goes before one of control tasks."""
    return {path.stem: path for folder in (CONTROL_PRESETS, "presets") for path in _preset_paths(folder)}


def _preset_paths(folder: str) -> list[Path]:
    return sorted(Path(str(files("holdfast") / folder)).glob("*.yaml"))
