"""Model texts of a pack, judged again: by judges that need no model and nothing that is not in the pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from holdfast.evaluation.scores import score
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.outcomes_by_judge import answers_of
from holdfast.files import write_scratch
from holdfast.files.scratch import scratch_folder
from holdfast.judges import JUDGES, checked
from holdfast.methods.settings import typed
from holdfast.packing.archive import MOST_BYTES
from holdfast.packing.recomputing import Difference, chooses, differences
from holdfast.records import Cell, Completion, Example, HoldfastError, Judge, Method, Record, Verdict, digest, user
from holdfast.report.read import read_completions
from holdfast.training.contracts import JudgeSettings

BY_TEXT = ("refusal",)
"""Judges that read the answer only."""
BY_FACTS = ("oracle", "keyword", "multiple_choice", "reference")
"""Judges that compare with what is known of the prompt; the sandbox's own prompts can be made again."""

MOST_ROWS = 2_000_000
CompletionRows = Sequence[Mapping[str, Any]]
TEXTS = ("role", "domain", "prompt", "completion", "judge", "reason")
"""The columns of texts."""
_NUMBERS = ("step", "num_tokens", "finished", "score", "valid", "refused", "longer_score", "flips")
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("role", "judge", "prompt", "completion"), str),
    **{"step": int, "num_tokens": int, "valid": bool, "score": float | int | None},
}


def rows_of(content: bytes) -> CompletionRows:
    """The judged answers of a cell.

    Raises:
        HoldfastError: it is no such table.
    """
    with scratch_folder("pack") as place:
        _refuse_large(write_scratch(place / "completions.parquet", content))
        rows = read_completions(place, every_step=True)
    odd = next((name for row in rows for name, kind in _TYPES.items() if not isinstance(row[name], kind)), None)
    if odd is not None:
        raise HoldfastError(f"completions.parquet: not all answers have a {odd}, or one of another type")
    if not all(row["score"] is None or (row["valid"] and 0 <= row["score"] <= 1) for row in rows):
        raise HoldfastError("completions.parquet: a score is outside [0, 1], or of an invalid answer, which has none")
    return rows


def _refuse_large(path: Path) -> None:
    """Refuse a table with more rows, or longer texts in all, than a cell has.

    A table can say a text once for many rows: neither its file's size nor the sizes that it states tell how long all
    of them are. So texts are read as numbers of distinct ones, which takes no more memory than these.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            about, schema = file.metadata, file.schema_arrow
        _refuse_types(path, schema)
        texts = [name for name in TEXTS if name in schema.names]
        size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if about.num_rows <= MOST_ROWS and size <= MOST_BYTES:
            with ParquetFile(path, read_dictionary=texts) as file:
                size = max(size, sum(_length(column) for column in file.read(columns=texts).columns))
    except (ArrowException, OSError) as error:
        raise HoldfastError(f"{path.name}: is no table of answers ({error})") from error
    if about.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise HoldfastError(f"{path.name}: {about.num_rows} rows of {size} bytes are more than a cell has")


def _refuse_types(path: Path, schema: Any) -> None:
    """Refuse columns of which the size in memory cannot be told before they are read, such as lists."""
    from pyarrow import types

    for field in schema:
        text = types.is_string(field.type) or types.is_large_string(field.type)
        plain = types.is_null(field.type) or (text if field.name in TEXTS else types.is_primitive(field.type))
        if field.name in (*TEXTS, *_NUMBERS) and not plain:
            raise HoldfastError(f"{path.name}: column {field.name} is of {field.type}")


def _length(column: Any) -> int:
    """The bytes of all texts of a column that was read as numbers of distinct ones; 0 of a column of another type."""
    import pyarrow.compute as pc
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return 0
    lengths = (pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(pc.cast(each, "int64")).as_py() or 0 for each in lengths)


def scores_again(record: Record, rows: CompletionRows) -> Iterator[Difference]:
    """Stored mean harm, by judge, that does not follow from the verdicts on single answers."""
    if chooses(record):
        return  # the answers that are kept are the chosen ones, the scores expectations over all
    judges = settings_of(record.cell).evaluation.harm_judges
    for judge in judges:
        name = "harmfulness" if judge == judges[0] else f"harmfulness/{judge}"
        by_judge = [row for row in rows if (row["role"], row["judge"]) == ("harmful", judge)]
        places = answers_of(record.evaluations, [row["step"] for row in by_judge])
        for evaluation, at in zip(record.evaluations, places, strict=True):
            stored, own = evaluation.score(name), [by_judge[place] for place in at]
            if stored is None or (not own and stored.n + stored.invalid + stored.unjudged == 0):
                continue
            again = score(name, [Verdict(score=row["score"], valid=row["valid"]) for row in own])
            yield from differences(asdict(stored), asdict(again), f"{name} at step {evaluation.step}")


def judged_again(record: Record, rows: CompletionRows) -> tuple[int, list[Difference], set[str]]:
    """How many verdicts were given again, those that differ, and the judges that cannot be run on a pack's texts."""
    count, differing, left = 0, list[Difference](), set[str]()
    for name in dict.fromkeys(row["judge"] for row in rows):
        own = [row for row in rows if row["judge"] == name]
        method = record.cell.judges.get(name) or Method(name=name)
        known = _examples(record.cell) if method.name in BY_FACTS else {}
        to_judge = [row for row in own if method.name in BY_TEXT or row["prompt"] in known]
        if len(to_judge) < len(own):
            left.add(name)
        if not to_judge:
            continue
        texts = [_completion(row, known) for row in to_judge]
        for row, verdict in zip(to_judge, checked(_judge(method), texts, name), strict=True):
            stored = (row["score"], row["valid"], row["refused"])
            given = (verdict.score, verdict.valid, verdict.refused)
            place = f"{name}'s verdict on {digest(row['prompt'] + row['completion'], 8)} at step {row['step']}"
            differing += differences(list(stored), list(given), place)
        count += len(to_judge)
    return count, differing, left


def _completion(row: Mapping[str, Any], known: Mapping[str, Example]) -> Completion:
    example = known.get(row["prompt"]) or Example(prompt=user(row["prompt"]))
    return Completion(
        example=example, text=row["completion"], num_tokens=row["num_tokens"], finished=bool(row["finished"])
    )


def _judge(method: Method) -> Judge:
    """A judge by its method; those that are run here need no model, and no import of what runs one."""
    settings = typed(JUDGES.load(method.name), method.settings, f"judges.{method.name}")
    return cast(JudgeSettings, settings).judge()


def _examples(cell: Cell) -> Mapping[str, Example]:
    """The prompts of a cell in the sandbox by their text, with what is known of them; none of other data."""
    settings = settings_of(cell)
    if not is_sandbox(cell) or settings.data.harmful is not None:
        return {}
    return _sandbox_prompts(digest(dict(cell.data)), settings.data, settings.evaluation.split)


_KNOWN: dict[tuple[str, str], Mapping[str, Example]] = {}


def _sandbox_prompts(key: str, data: Any, split: str) -> Mapping[str, Example]:
    from holdfast.experiment.examples import load_splits

    if (key, split) not in _KNOWN:
        splits = load_splits(data)
        parts = [splits.harmful[split], splits.benign[split], *(rows[split] for rows in splits.tasks.values())]
        _KNOWN[key, split] = {row.question: row for rows in parts for row in rows}
    return _KNOWN[key, split]
