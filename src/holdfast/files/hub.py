"""The commit of a repository on the Hugging Face Hub to which a branch or tag currently points."""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from holdfast.records import HoldfastError

COMMIT = re.compile(r"[0-9a-f]{40}")
Kind = Literal["model", "dataset"]
ASKED: dict[Kind, str] = {"model": "config.json", "dataset": "README.md"}
"""A small file of each kind, used for the request; it need not exist."""


def looks_local(path: str) -> bool:
    """Whether a name is taken for a folder or file, which need not exist, and not for a Hub id (`OWNER/NAME`)."""
    with contextlib.suppress(OSError):  # no permission, or a name that no file can have
        return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    return True


def commit_of(name: str, revision: str | None, *, kind: Kind = "model") -> str | None:
    """The commit that is loaded for an id and a branch, tag or commit (`main` if `None`), 40 hexadecimal digits.

    The Hub's answer if it can be reached, else the local cache's, as for loading itself; `None` if unknown. The answer
    is cached for the life of the process.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants

    return _commit(name, revision or "main", kind, str(constants.HF_HUB_CACHE))


def refuse_revision(place: str, revision: str | None, *, name: str | None = None) -> None:
    """Refuse a revision of a folder or file on this machine, where libraries ignore it; errors call it `name`.

    Raises:
        HoldfastError: there is one.
    """
    if revision is not None and Path(place).exists():
        raise HoldfastError(f"{name or place}: `revision` applies to a Hub id and not to a folder or file; remove it")


def refuse_unknown(name: str, revision: str | None) -> None:
    """See whether there is a model of this id, by its smallest file, which is kept in the local cache.

    Raises:
        HoldfastError: there is none, it cannot be read without permission, or neither Hub nor cache can be read.
    """
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, ASKED["model"], revision=revision)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HoldfastError(
            f"{name}: there is no such folder, and no model of this id can be read ({type(error).__name__}: "
            f"{reason[:200]}); correct the id, or give a folder"
        ) from error


def pinned(fingerprint: str) -> str | None:
    """The commit in a fingerprint `ID@COMMIT`; `None` for another kind of fingerprint."""
    _, at, commit = fingerprint.rpartition("@")
    return commit if at and COMMIT.fullmatch(commit) else None


@lru_cache(maxsize=256)
def _commit(name: str, revision: str, kind: Kind, cache: str) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    # The request updates the revision in the cache, even if there is no such file; the network may be unavailable.
    with contextlib.suppress(Exception):
        hf_hub_download(name, ASKED[kind], revision=revision, repo_type=kind, cache_dir=cache)
    try:
        place = Path(cache) / repo_folder_name(repo_id=name, repo_type=kind) / "refs" / revision
        commit = place.read_text().strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None
