"""The outcome of a cell given its control, both from the run's folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from holdfast.experiment import store
from holdfast.experiment.outcomes import control_of, control_run, settled
from holdfast.files import write_json
from holdfast.records import Cell, HoldfastError, Outcome, Record


def judged(record: Record, run: Path) -> Record:
    """The record with its outcome given its control, if that is in the run's folder."""
    control = control_of(record.cell)
    if control is None or control.key == record.key:
        return settled(record)
    place = store.cell_folder(run, control.key)
    there = None
    with contextlib.suppress(HoldfastError):  # a damaged record is not used as control, and the cell's own is kept
        there = store.read_record(place) if (place / "record.json").exists() else None
    return settled(record, control_run(settled(there)) if there is not None else None)


def judge_again(cell: Cell, run: Path) -> None:
    """Update a cell's outcome if it has changed: its control came later, or an earlier version ran the cell."""
    place = store.cell_folder(run, cell.key)
    if not (place / "record.json").exists():
        return
    record = store.read_record(place)
    if record.outcome is not Outcome.FAILED and (now := judged(record, run)) != record:
        write_json(place / "record.json", now.to_json())
