"""What can be seen of a model and of rows without loading either: size, chat template, schema, splits. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from holdfast.data import FORMATS, Source
from holdfast.data.dataset import Data
from holdfast.data.near_columns import close_to, misspelt, remedy
from holdfast.data.read import columns_of, read
from holdfast.data.splits import Splits
from holdfast.experiment.examples import load_splits
from holdfast.files.gguf import gguf_file
from holdfast.files.hub import looks_local
from holdfast.files.required import require_model
from holdfast.records import HoldfastError

BYTES_PER_WEIGHT = 0.72
"""Of a GGUF file in 4 to 5 bits with its vocabulary, for a rough count of its weights."""
LETTERS_PER_TOKEN = 4.0
"""Of English text, for a rough count of tokens."""
HEADER = 2**26
"""Bytes of a GGUF file, from its start, in which its chat template is looked for."""
BY_SCHEMA = "columns"
MEANT = {
    "prompt": ("question", "instruction", "query", "input", "request"),
    "response": ("answer", "output", "completion", "reply"),
}
"""Other names of columns that are usual, by the schema's own."""


@dataclass(frozen=True, kw_only=True)
class SeenModel:
    """A model's name, number of weights, and whether it has a chat template; `None` for what cannot be seen."""

    path: str
    weights: int | None = None
    chat_template: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SeenData:
    """Where rows are read from, and their splits as a run will have them.

    `tokens` is the rough mean length of a prompt and its answer, `answer_tokens` that of an answer.
    """

    harmful: Source
    benign: Source
    splits: Splits
    tokens: float
    answer_tokens: float

    @property
    def prompts(self) -> tuple[int, int]:
        """Distinct harmful and benign prompts of the test split, on which results are reported."""
        return tuple(len({row.key for row in rows["test"]}) for rows in (self.splits.harmful, self.splits.benign))  # type: ignore[return-value]


def look_at_model(path: str) -> SeenModel:
    """What can be seen of a model's folder, GGUF file or cached id.

    Raises:
        HoldfastError: it is not there, or is the sandbox, which has presets.
    """
    if path in ("sandbox", "kitchen"):
        raise HoldfastError(
            f"--model {path}: has presets of its own; copy one with `holdfast show quickstart > grid.yaml`"
        )
    require_model(path)
    file = gguf_file(path)
    if file is not None:
        with file.open("rb") as stream:
            template = b"tokenizer.chat_template" in stream.read(HEADER)
        return SeenModel(path=path, weights=_in_file(file), chat_template=template)
    folder = Path(path) if looks_local(path) else _cached(path)
    if folder is None:
        return SeenModel(path=path)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise HoldfastError(f"{path}: no config.json; this is not a model folder")
    return SeenModel(path=path, weights=_weights(folder), chat_template=_has_template(folder))


def weights_of(path: str, revision: str | None = None) -> int | None:
    """The number of weights of a model, roughly; `None` if it is not on this machine or cannot be seen.

    Nothing is refused and the Hub is not asked: a run checks its models itself.
    """
    try:
        file = gguf_file(path)
    except HoldfastError:
        return None
    if file is not None:
        return _in_file(file)
    folder = Path(path) if looks_local(path) else _cached(path, revision)
    return None if folder is None else _weights(folder)


def _in_file(file: Path) -> int:
    return round(file.stat().st_size / BYTES_PER_WEIGHT)


def _cached(name: str, revision: str | None = None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent if isinstance(file, str) else None


def _weights(folder: Path) -> int | None:
    """The number of weights in a folder's safetensors files, from their headers; `None` without any, and of an adapter,
    whose model is elsewhere."""
    if (folder / "adapter_config.json").is_file():
        return None
    count = 0
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
            return None  # loading it says what is wrong
    return count or None


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def schema_of(columns: Sequence[str]) -> str:
    """The schema that reads columns of these names: the one most of whose columns are all there, else `columns`.

    Only a name is compared; whether rows keep to the schema is found when they are read.
    """
    there = set(columns)
    fitting = [name for name in FORMATS.built_in if name != BY_SCHEMA and set(FORMATS.load(name).columns) <= there]
    return max(fitting, key=lambda name: len(FORMATS.load(name).columns), default=BY_SCHEMA)


def source_of(path: str, *, schema: str | None, columns: Mapping[str, str], role: str | None) -> Source:
    """Where rows are read from; the schema is recognised by the columns if it is not given.

    Raises:
        HoldfastError: the file cannot be read, or has no column that could be the prompt; names the close ones.
    """
    there = columns_of(Source(path=path))
    named = schema or schema_of(there)
    source = Source(path=path, format=named, columns=dict(columns), role=role)
    if named == BY_SCHEMA and "prompt" not in there and "prompt" not in columns:
        raise HoldfastError(f"{path}: {_no_column('prompt', there)}")
    return source


def _no_column(name: str, there: Sequence[str]) -> str:
    """That a file lacks a column of the schema, which it has, and what to write to read the likeliest in its place."""
    close = close_to(name, there) or [column for column in [_usual(name, there)] if column]
    return f"no column {name!r}; the columns are {', '.join(there)}; {remedy(name, close)}"


def _usual(name: str, there: Sequence[str]) -> str | None:
    """The column whose name is another usual one for the schema's `name`; `None` if there is none."""
    return next((column for column in there if column.casefold() in MEANT.get(name, ())), None)


def proposed_columns(path: str) -> dict[str, str]:
    """The file's own names for columns that a schema calls otherwise, as far as their names tell; to be confirmed."""
    there = columns_of(Source(path=path))
    if schema_of(there) != BY_SCHEMA:
        return {}
    columns = {}
    for name in ("prompt", "response", "refusal", "role"):
        own = None if name in there else (misspelt(name, there) or _usual(name, there))
        if own is not None:
            columns[name] = own
    return columns


def look_at_data(harmful: Source, benign: Source, *, refusal: str) -> SeenData:
    """Read rows as a run will, with the role and the refusal that they lack.

    Raises:
        HoldfastError: a row does not match its schema, a split is left without a prompt, or all rows are the same.
    """
    rows = read(harmful)
    if harmful.role is None and not any(row.role == "harmful" for row in rows):
        harmful = replace(harmful, role="harmful")
        rows = read(harmful)
    if any(row.role == "harmful" and row.refusal is None for row in rows):
        harmful = replace(harmful, refusal=refusal)
    splits = load_splits(Data(harmful=harmful, benign=benign))
    _refuse_unanswered(splits, (harmful, benign))
    every = [row for rows in (splits.harmful, splits.benign) for part in rows.values() for row in part]
    answers = fmean(_tokens(row.response or "") for row in every)
    question_tokens = fmean(_tokens(row.question) for row in every)
    return SeenData(
        harmful=harmful, benign=benign, splits=splits, tokens=question_tokens + answers, answer_tokens=answers
    )


def _refuse_unanswered(splits: Splits, sources: Sequence[Source]) -> None:
    """Refuse rows without an answer: attackers learn from harmful ones, and usefulness is read by benign ones."""
    for kinds, source in zip((splits.harmful, splits.benign), sources, strict=True):
        every = [row for part in kinds.values() for row in part]
        unanswered = [row for row in every if not row.response]
        if unanswered:
            wanted = "the answer that must not be given" if kinds is splits.harmful else "a good answer"
            raise HoldfastError(
                f"{source.path}: {len(unanswered)} of {len(every)} rows have no answer, such as "
                f"{unanswered[0].source}; each needs `response`, {wanted} (or another schema: `holdfast list formats`)"
                f"{_without_answers(source)}"
            )


def _without_answers(source: Source) -> str:
    """What to write if the answers have a column of another name; empty if the file has one for them."""
    there = columns_of(Source(path=source.path))
    known = source.format != BY_SCHEMA or "response" in source.columns or {"response", "rejected", "chosen"} & {*there}
    return "" if known else f"; {_no_column('response', there)}"


def _tokens(text: str) -> float:
    return len(text) / LETTERS_PER_TOKEN


def as_values(source: Source) -> dict[str, Any]:
    """A source as the values of a grid file: what differs from the defaults."""
    values: dict[str, Any] = {"path": source.path}
    if source.format != BY_SCHEMA:
        values["format"] = source.format
    if source.columns:
        values["columns"] = dict(source.columns)
    more = {"role": source.role, "refusal": source.refusal}
    return {**values, **{name: value for name, value in more.items() if value is not None}}
