"""Read a `Source` into `Example`s, and fingerprint it.

Places in errors count from 1: "line 3" of a .jsonl or .json-lines file is the third line,
"row 3" of a .csv file the third row of the sheet (the header is row 1), and "row 3" of a .json list, a .parquet
file or a data set the third record.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, cast

from holdfast.data import FORMATS, Source, harmful_side, pair_refusals
from holdfast.data.file_formats import (
    Places,
    begins_a_list,
    decoded,
    first_line,
    from_csv,
    from_lines,
    from_list,
    from_parquet,
    numbered,
    refuse_duplicate_columns,
)
from holdfast.data.raw_rows import RawRow, examples_of, type_name
from holdfast.files import require_file
from holdfast.files.hub import COMMIT, commit_of
from holdfast.records import Example, HoldfastError, Role

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
NO_ROWS = {
    "*.safetensors": "a model",
    "*.gguf": "a model",
    "*model*.bin": "a model",
    "tokenizer_config.json": "a model",
    "cells/*/record.json": "a run",
    "curves.jsonl": "a cell of a run",
}
"""What a folder is that holds a file of such a name."""
ABOUT = ("dataset_infos.json", "dataset_info.json")
"""Files beside rows that describe them."""
WHOLE = 64 * 2**20
END = 2**20


def read(source: Source) -> list[Example]:
    """All rows of a source as examples, checked cell by cell.

    Harmful rows get their harmful answer and refusal in separate fields (`harmful_side`); one without a refusal gets
    that of another row with the same prompt (`pair_refusals`), else `source.refusal`. Raises `HoldfastError` naming
    file, row and column, or what to do if a file or Hub id cannot be read.
    """
    try:
        to_examples, known = FORMATS.load(source.format)
    except HoldfastError as error:
        raise HoldfastError(f"{source.path}: {error}") from None
    added = FORMATS[source.format].package
    strange = next((name for name in source.columns if name not in known), None)
    if strange is not None:
        raise HoldfastError(
            f"{source.path}: `columns` maps {strange!r}; the format {source.format!r} has {', '.join(known)}"
        )
    where = f"format {source.format!r}{added and f' of the package {added}'}"
    rows = [row for raw in islice(_rows(source), source.limit) for row in examples_of(to_examples, raw, where)]
    if not rows:
        raise HoldfastError(f"{source.path} has no rows")
    if source.role is not None:
        rows = [replace(example, role=cast(Role, source.role)) for example in rows]
    keep = source.format == "columns"
    paired = pair_refusals([harmful_side(example, keep=keep) for example in rows])
    return paired if source.refusal is None else [_with_refusal(example, source.refusal) for example in paired]


def columns_of(source: Source, *, rows: int = 50) -> list[str]:
    """The names of the columns in the first `rows` rows, in order. Raises as `read`."""
    names = dict.fromkeys(str(name) for raw in islice(_rows(source), rows) for name in raw.cells)
    if not names:
        raise HoldfastError(f"{source.path} has no rows")
    return list(names)


def fingerprint(source: Source) -> str:
    """SHA-256 of a local file's bytes, or of every file's name and bytes in a folder; "id@commit" for a Hub id.

    Of a file over 64 MiB only its size, first and last MiB are hashed. A folder's hidden files are skipped, and the
    cache files (`cache-*.arrow`) of one that `datasets` saved: no row is read from either. A Hub id whose commit is
    unknown gives "id@revision", which does not pin its content.
    """
    path = _local(source)
    if path is None:
        commit = commit_of(source.path, source.revision, kind="dataset")
        return f"{source.path}@{commit or source.revision or 'main'}"
    if path.is_file():
        return _hash_of(path)
    folder_hash, saved = hashlib.sha256(), _is_saved(path)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        skipped = any(part.startswith(".") for part in name.parts) or (saved and fnmatch(name.name, "cache-*.arrow"))
        if file.is_file() and not skipped:
            folder_hash.update(f"{name.as_posix()}\0{_hash_of(file)}\n".encode())
    return folder_hash.hexdigest()


def _rows(source: Source) -> Iterator[RawRow]:
    for place, cells in _records(source):
        where = f"{source.path}, {place}"
        if not isinstance(cells, dict):
            raise HoldfastError(f"{where}: expected an object with the columns as keys, found {type_name(cells)}")
        yield RawRow(cells=cells, place=where, columns=source.columns)


def _records(source: Source) -> Places:
    path = _local(source)
    if path is None or path.is_dir():
        return _from_dataset(source, path)
    misplaced = [name for name in ("split", "revision", "name") if getattr(source, name) is not None]
    if misplaced:
        raise HoldfastError(f"{source.path}: `{misplaced[0]}` does not apply to a single file; remove it")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return from_csv(source.path, path)
    if suffix == ".parquet":
        return from_parquet(source.path, path)
    if suffix == ".json" and begins_a_list(source.path, path):
        return from_list(source.path, path)
    if suffix in (".json", ".jsonl"):
        return from_lines(source.path, path)
    raise HoldfastError(f"{source.path}: unknown type of file; its name should end in {', '.join(SUFFIXES)}")


def _local(source: Source) -> Path | None:
    """The file or folder, or `None` for a Hub id."""
    path = Path(os.path.expanduser(source.path))
    try:
        there = path.exists()
    except OSError as problem:
        raise HoldfastError(f"{source.path[:200]}: {problem.strerror}; check the path") from problem
    if there:
        _refuse_special(path, source.path)
        return path
    if path.suffix.lower() in SUFFIXES or not HUB_ID.fullmatch(source.path):
        raise HoldfastError(f"{source.path}: no such file or folder (looked in {Path.cwd()}); check the path")
    return None


def _refuse_special(path: Path, name: str) -> None:
    """Refuse pipes and devices, also in a folder: reading one may never end. Of folders also those without rows."""
    if not path.is_dir():
        require_file(path, name)
        return
    _refuse_no_rows(path, name)
    for inner in path.rglob("*"):
        if not inner.is_dir():
            require_file(inner)


def _refuse_no_rows(folder: Path, name: str) -> None:
    """Refuse a folder of a model or of runs, whose files `datasets` would try to read as one table."""
    kind = next((kind for mark, kind in NO_ROWS.items() if any(folder.glob(mark))), None)
    if kind is not None:
        raise HoldfastError(f"{name}: is the folder of {kind}, not of rows; name a file or folder of rows instead")


def _from_dataset(source: Source, folder: Path | None) -> Places:
    dataset = _saved(source, folder) if folder is not None and _is_saved(folder) else _loaded(source, folder)
    if isinstance(dataset, dict):
        if source.split is None and len(dataset) > 1:
            raise HoldfastError(f"{source.path}: choose a split, one of {', '.join(dataset)}")
        chosen = next(iter(dataset)) if source.split is None else source.split
        if chosen not in dataset:
            raise HoldfastError(f"{source.path}: no split {chosen!r}; there are {', '.join(dataset)}")
        dataset = dataset[chosen]
    if folder is None:
        _refuse_other_commit(source, dataset)
    refuse_duplicate_columns(source.path, dataset.features.arrow_schema)
    return numbered(decoded(source.path, iter(dataset.with_format(None))))


def _is_saved(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


def _saved(source: Source, folder: Path) -> Any:
    import datasets

    misplaced = [name for name in ("revision", "name") if getattr(source, name) is not None]
    if misplaced:
        raise HoldfastError(f"{source.path}: `{misplaced[0]}` does not apply to a saved folder; remove it")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except IndexError as problem:  # `datasets` cannot load a data set that it saved without rows
        raise HoldfastError(f"{source.path} has no rows") from problem
    except (OSError, ValueError, KeyError) as problem:
        raise HoldfastError(f"{source.path}: not a readable saved data set ({first_line(problem)})") from problem
    if source.split is not None and not isinstance(dataset, dict):
        raise HoldfastError(f"{source.path}: this folder holds one data set without splits; remove `split`")
    return dataset


def _loaded(source: Source, folder: Path | None) -> Any:
    """A Hub id or a folder of data files loaded by `datasets`, without running code from there."""
    import datasets

    if folder is not None and source.revision is not None:
        raise HoldfastError(f"{source.path}: `revision` does not apply to a folder; remove it")
    options = {"split": source.split, "revision": source.revision}
    if folder is not None:
        # The cache is told by modification times, which two contents may share: here each content has its own.
        options["cache_dir"] = str(Path(datasets.config.HF_DATASETS_CACHE) / f"rows-{fingerprint(source)[:16]}")
    try:
        place = source.path if folder is None else os.path.expanduser(source.path)
        dataset = datasets.load_dataset(place, source.name, **options)
        files = None if folder is None else datasets.load_dataset_builder(place, source.name).config.data_files
    except Exception as problem:  # the Hub, the network and the builders raise different types
        hint = "check id, name, split and revision, log in if it is gated, or give an existing path"
        cause = problem.__cause__ if isinstance(problem.__cause__, Exception) else problem
        raise HoldfastError(f"{source.path}: cannot be loaded ({first_line(cause)}); {hint}") from problem
    if folder is not None and files is not None:
        _refuse_left_out(source.path, folder, [str(file) for some in files.values() for file in some])
    return dataset


def _refuse_left_out(name: str, folder: Path, files: Sequence[str]) -> None:
    """Refuse a folder of which `datasets` would silently read some `files` only.

    It reads those of the most frequent kind, and if one has the name of a split in its own, such as `test`, only files
    with such names. A README.md with `configs` states what is to be read, and may leave files out.
    """
    about = folder / "README.md"
    if about.is_file() and re.search(r"^configs:", about.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        return
    known = {Path(file).resolve() for file in files}
    rows = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.name not in ABOUT)
    visible = (path for path in rows if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    left_out = next((path for path in visible if path.is_file() and path.resolve() not in known), None)
    if left_out is not None:
        raise HoldfastError(
            f"{name}: of its files `datasets` would read {Path(files[0]).name} and not {left_out.relative_to(folder)} "
            "(it takes one kind of file, and names of splits such as `test` before others); name one file, or move the "
            "others elsewhere"
        )


def _refuse_other_commit(source: Source, dataset: Any) -> None:
    """Refuse rows of a Hub id that are those of another commit than the one asked for.

    Where the Hub cannot be reached, `datasets` gives what it has cached last, whatever the revision; the folder of its
    files is called by the commit.
    """
    wanted = commit_of(source.path, source.revision, kind="dataset")
    there = {Path(file["filename"]).parent.name for file in dataset.cache_files}
    other = next((name for name in there if COMMIT.fullmatch(name) and name != wanted), None)
    if wanted is not None and other is not None:
        raise HoldfastError(
            f"{source.path}: cannot be read from the Hub, and the cache has the rows of commit {other[:12]} instead of "
            f"{wanted[:12]}; load that once while connected, or set `revision: {other}`"
        )


def _with_refusal(example: Example, refusal: str) -> Example:
    return replace(example, refusal=refusal) if example.role == "harmful" and example.refusal is None else example


def _hash_of(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        ends = hashlib.sha256(f"{size}\n".encode() + stream.read(END))
        stream.seek(-END, 2)
        ends.update(stream.read(END))
    return ends.hexdigest()
