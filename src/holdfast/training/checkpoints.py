"""Checkpoints of a run: sealed when complete, checked before a run is resumed, set aside when damaged.

The last file written into a checkpoint has the costs of the run so far and lists the checkpoint's other files with size
and hash, but for the random states of several processes and what is in folders within it. Files are synced to disk
before that list, so a checkpoint without it was interrupted while being saved.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from holdfast.files import parse_json, require_file, sha256, sync, sync_all, write
from holdfast.records import HoldfastError, digest

COSTS = "holdfast_costs.json"
"""Costs, the plan's state and the list of files."""
KEPT = 2
"""The number of checkpoints kept: the newest, and one as a fallback."""

TENSORS = "holdfast_tensors.safetensors"
"""The plan's own tensors."""

_log = logging.getLogger("holdfast")


def seal(checkpoint: Path, costs: Mapping[str, float], state: Mapping[str, float]) -> None:
    """Mark a checkpoint as complete, and only then remove those older than the previous one."""
    sync_all(checkpoint)
    # With several processes, the others may still be writing their random states.
    checked = [
        path for path in sorted(checkpoint.iterdir()) if path.is_file() and not path.name.startswith("rng_state_")
    ]
    files = {path.name: [path.stat().st_size, sha256(path)] for path in checked}
    write(checkpoint / COSTS, stated(costs, state, files=files))
    sync(checkpoint.parent)
    for older in _newest_first(checkpoint.parent)[KEPT:]:
        # Renamed first: a partially deleted one must not look complete.
        shutil.rmtree(older.rename(older.with_name(f"old-{older.name}")))


def stated(costs: Mapping[str, float], state: Mapping[str, float], **more: Any) -> bytes:
    """Costs of a run so far and its plan's state as a file, with a digest by which `read_costs` knows it again."""
    content = {"costs": dict(costs), "state": dict(state), **more}
    return json.dumps({**content, "digest": digest(content)}).encode()


def save_tensors(checkpoint: Path, tensors: Mapping[str, Tensor], name: str = TENSORS) -> None:
    """Save tensors that the trainer does not into a checkpoint; no file if there are none."""
    if tensors:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, checkpoint / name)


def load_tensors(checkpoint: Path, device: torch.device, name: str = TENSORS) -> dict[str, Tensor]:
    """The tensors of `save_tensors`, on the device; empty if there are none."""
    path = checkpoint / name
    return {key: tensor.to(device) for key, tensor in load_file(path).items()} if path.exists() else {}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder. Incomplete ones are removed, damaged ones set aside."""
    for checkpoint in _newest_first(folder):
        if not (checkpoint / COSTS).exists():
            shutil.rmtree(checkpoint)
            continue
        trouble = next(_damage(checkpoint), None)
        if trouble is None:
            return checkpoint
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        _log.warning(
            "%s: %s; renamed to %s, the run resumes from the previous checkpoint or from its start",
            checkpoint,
            trouble,
            aside.name,
        )
    return None


def read_costs(checkpoint: Path, name: str = COSTS) -> dict[str, Any]:
    """`costs` and `state` of a checkpoint, and `files` if it has a list of them.

    Raises:
        ValueError: the file is not valid.
    """
    try:
        content = parse_json((checkpoint / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict) or not all(_numbers(content.get(part)) for part in ("costs", "state")):
        raise ValueError("costs and state are not numbers by name")
    if (
        "digest" in content
        and digest({name: value for name, value in content.items() if name != "digest"}) != content["digest"]
    ):
        raise ValueError("it is not what was written")
    return content


def _newest_first(folder: Path) -> list[Path]:
    folders = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and _step(path) is not None]
    return sorted(folders, key=lambda path: _step(path) or 0, reverse=True)


def _step(path: Path) -> int | None:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 19 else None


def _damage(checkpoint: Path) -> Iterator[str]:
    """The damages of a checkpoint, none if it is as it was written."""
    try:
        content = read_costs(checkpoint)
    except ValueError as error:
        yield f"{COSTS} is damaged ({error})"
        return
    listed = content.get("files", {})
    if not isinstance(listed, dict) or any(not isinstance(each, list) or len(each) != 2 for each in listed.values()):
        yield f"{COSTS} is damaged (its files are not sizes and hashes by name)"
        return
    for name, (size, hashed) in listed.items():
        path = checkpoint / name
        try:
            require_file(path)
            same = path.stat().st_size == size and sha256(path) == hashed
        except (OSError, HoldfastError):
            yield f"{name} is missing or cannot be read"
            return
        if not same:
            yield f"{name} is damaged"


def _numbers(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, int | float) and not isinstance(item, bool) and not math.isinf(item) for item in value.values()
    )
