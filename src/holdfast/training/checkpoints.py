"""Checkpoints inside a run: sealed when whole, checked before a run goes on from one, set aside when damaged.

The last file written into a checkpoint says what the run had cost so far and lists every other file with its size and
hash. Files are on the disk before that list is, so a checkpoint that has none was cut short while being saved.
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
"""The newest, and one to go back to."""

TENSORS = "holdfast_tensors.safetensors"
"""The plan's own tensors."""

_log = logging.getLogger("holdfast")


def seal(checkpoint: Path, costs: Mapping[str, float], state: Mapping[str, float]) -> None:
    """Declare a checkpoint whole, and only then remove those older than the one before it."""
    sync_all(checkpoint)
    # Where several processes train, the others may still be writing the state of their random numbers.
    own = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and not path.name.startswith("rng_state_")]
    files = {path.name: [path.stat().st_size, sha256(path)] for path in own}
    kept = {"costs": dict(costs), "state": dict(state), "files": files}
    write(checkpoint / COSTS, json.dumps({**kept, "digest": digest(kept)}).encode())
    sync(checkpoint.parent)
    for older in _newest_first(checkpoint.parent)[KEPT:]:
        # Renamed first: one that is cut short while being deleted must not look whole.
        shutil.rmtree(older.rename(older.with_name(f"old-{older.name}")))


def save_tensors(checkpoint: Path, tensors: Mapping[str, Tensor], name: str = TENSORS) -> None:
    """Put tensors into a checkpoint that the trainer's own leaves out; no file where there are none."""
    if tensors:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, checkpoint / name)


def load_tensors(checkpoint: Path, device: torch.device, name: str = TENSORS) -> dict[str, Tensor]:
    """What `save_tensors` put there, on the device; empty where that was nothing."""
    path = checkpoint / name
    return {key: tensor.to(device) for key, tensor in load_file(path).items()} if path.exists() else {}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder. Those cut short are removed, damaged ones set aside with a line."""
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
            "%s: %s; set aside as %s, the run goes on from the checkpoint before or from its start",
            checkpoint,
            trouble,
            aside.name,
        )
    return None


def read_costs(checkpoint: Path) -> dict[str, Any]:
    """`costs` and `state` of a checkpoint, and `files` of one that is not of an earlier version.

    Raises:
        ValueError: the file is none of ours.
    """
    try:
        kept = parse_json((checkpoint / COSTS).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(kept, dict) or not all(_numbers(kept.get(part)) for part in ("costs", "state")):
        raise ValueError("costs and state are no numbers by name")
    if "digest" in kept and digest({name: value for name, value in kept.items() if name != "digest"}) != kept["digest"]:
        raise ValueError("it is not what was written")
    return kept


def _newest_first(folder: Path) -> list[Path]:
    folders = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and _step(path) is not None]
    return sorted(folders, key=lambda path: _step(path) or 0, reverse=True)


def _step(path: Path) -> int | None:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 19 else None


def _damage(checkpoint: Path) -> Iterator[str]:
    """What is wrong with a checkpoint, nothing where it is as it was written."""
    try:
        kept = read_costs(checkpoint)
    except ValueError as error:
        yield f"{COSTS} is damaged ({error})"
        return
    for name, (size, hashed) in kept.get("files", {}).items():
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
