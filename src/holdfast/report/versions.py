"""The sources of a table of cells: versions, seeds, numbers of cells and answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.records import Outcome, Record


def versions_of(records: Sequence[Record], grids: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values: environments with their numbers of cells, seeds, outcomes, settings.

    `evaluations` are the evaluation settings, each once; `written_by` is the version that determined the outcomes,
    which may be later than the one that ran the cells.
    """
    from holdfast import __version__

    return {
        "written_by": f"holdfast {__version__}",
        "grids": list(grids),
        "cells": len(records),
        "outcomes": {str(outcome): n for outcome in Outcome if (n := sum(r.outcome is outcome for r in records))},
        "seeds": sorted({record.cell.seed for record in records}),
        "model_seeds": sorted({seed for record in records if (seed := record.cell.model_seed) is not None}),
        "models": sorted({record.cell.model_name for record in records}),
        "evaluations": _each_once([record.cell.evaluation for record in records]),
        "answers": sum(s.n for r in records for e in r.evaluations if (s := e.score("harmfulness")) is not None),
        "environments": _each_once([record.environment for record in records]),
    }


def _each_once(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Distinct values, each with its number of cells."""
    written = [json.dumps(value, sort_keys=True) for value in values]
    return [{"cells": number, "values": json.loads(text)} for text, number in Counter(written).items()]
