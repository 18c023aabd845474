"""The index of weights that are spread over several files: every name in it has to be a file of the folder itself."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from holdfast.files import parse_json
from holdfast.records import HoldfastError

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
"""Names that transformers reads; with a file of all weights there is no need of an index."""


def refuse_foreign_shards(name: str, folder: Path) -> None:
    """Refuse an index that leads out of the folder, or to no file of it.

    transformers follows any path. Weights that lie elsewhere can change while the folder, whose content a result
    belongs to, stays as it is. `name` is the user's name of the folder.

    Raises:
        HoldfastError: names the index and the entry.
    """
    index = folder / INDEX
    if (folder / WHOLE).exists() or not index.is_file():
        return
    try:
        content = parse_json(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HoldfastError(f"{name}: {INDEX} cannot be read ({error}); save the model again") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise HoldfastError(
            f"{name}: {INDEX} has no `weight_map` from tensors to the files that hold them; save the model again"
        )
    for tensor, file in weight_map.items():
        _refuse_place(name, folder, tensor, file)


def _refuse_place(name: str, folder: Path, tensor: str, file: Any) -> None:
    if not isinstance(file, str) or not file or "\\" in file or PurePosixPath(file).name != str(PurePosixPath(file)):
        raise HoldfastError(
            f"{name}: {INDEX} has {tensor} in {file!r}, which is no file name in this folder; put the file there"
        )
    if not (folder / file).exists():
        raise HoldfastError(
            f"{name}: {INDEX} has {tensor} in {file!r}, and there is no such file; copy all files of the model"
        )
