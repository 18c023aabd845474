"""The verdicts of a gate as plain JSON values: the same runs and gate give the same file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.gate.bounds import Judged, Verdict
from holdfast.gate.deciding import Decision, LineVerdict, decide, overall
from holdfast.gate.evidence import Evidence, read
from holdfast.gate.gate_file import MEASURES, Gate, load_gate, preset
from holdfast.gate.origin import Origin, origin_of
from holdfast.report.page import plural


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A gate's verdicts on some runs, and which gate it was."""

    gate: Gate
    origin: Origin
    evidence: Evidence
    decisions: tuple[Decision, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict in all."""
        return overall(self.decisions)

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know beside the verdicts."""
        younger = self.origin.younger_than(self.evidence.since)
        unfinished = f"left out of the figures: {plural(self.evidence.unfinished, 'unfinished cell')} of the runs"
        return [*([younger] if younger else []), *([unfinished] if self.evidence.unfinished else []),
                *self.evidence.trouble]  # fmt: skip


def answer(gate: str, runs: Sequence[Path], defense: str | None = None) -> Answer:
    """The verdicts of a gate, of a file or a packaged one, on the defenses of some run folders.

    Raises:
        HoldfastError: the gate or a folder cannot be read, or no cell has the defense.
    """
    settings, path = load_gate(gate)
    origin = origin_of(path, packaged=preset(gate) is not None)
    evidence = read(runs)
    decisions = tuple(decide(settings, evidence, defense))
    return Answer(gate=settings, origin=origin, evidence=evidence, decisions=decisions)


def as_json(answer: Answer) -> dict[str, Any]:
    """The content of `verdict.json`; an end without a bound is `null`."""
    return {
        "verdict": answer.verdict,
        "gate": {**_origin(answer.origin), "name": answer.gate.name, "seeds": answer.gate.seeds},
        "runs": list(answer.evidence.runs),
        "oldest_record": _time(answer.evidence.since),
        "cells": len(answer.evidence.records),
        "unfinished": answer.evidence.unfinished,
        "warnings": answer.warnings,
        "holdfast": __version__,
        "defenses": [_decision(decision) for decision in answer.decisions],
    }


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "file": origin.path,
        "sha256": origin.sha256,
        "packaged": origin.packaged,
        "modified": None if origin.packaged else _time(origin.modified),
        "committed": _time(origin.committed),
        "first_committed": _time(origin.first_committed),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    subject = decision.subject
    return {
        "model": subject.model,
        "defense": subject.defense,
        "threat_model": subject.threat_model,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "lines": [_line(line) for line in decision.lines],
    }


def _line(verdict: LineVerdict) -> dict[str, Any]:
    line = verdict.line
    known = MEASURES.get(line.measure)
    bound: Mapping[str, float] = {} if known is None else {known.bound: line.bound}
    return {
        "group": line.group,
        "measure": line.measure,
        "attacks": list(line.wanted) or ("any" if known is not None and known.attacks else None),
        "copy": line.copy,
        **bound,
        "verdict": verdict.verdict,
        "counts": verdict.counts,
        "reason": verdict.reason,
        "found": [_judgement(each) for each in verdict.judgements],
    }


def _judgement(judged: Judged) -> dict[str, Any]:
    finding = judged.finding
    ends = (None, None, None) if finding.interval is None else tuple(finding.interval)
    value, low, high = (end if end is None or math.isfinite(end) else None for end in ends)
    return {
        "what": finding.what,
        "value": value,
        "low": low,
        "high": high,
        "n": finding.n,
        "of": finding.of,
        "gaps": list(finding.gaps),
        "verdict": judged.verdict,
    }


def _time(time: Any) -> str | None:
    return None if time is None else time.isoformat()
