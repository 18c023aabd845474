"""What the judges that ask a language model cost: requests, tokens and dollars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.records import Record

JUDGES = "judges"
"""The key of judges' counts in a record's environment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeCost:
    """Sums over the cells that one judge judged, as its counts are (`holdfast.generative.replies.Usage`).

    `answers` were to be judged, of which equal ones are asked about once; `kept` replies are from before, and cost
    nothing; `unjudged` replies were no verdict, or did not come; `uncounted` replies did not state their tokens.
    `price` is in dollars, 0 where no price was set.
    """

    name: str
    model: str
    cells: int
    answers: int
    requests: int
    kept: int
    unjudged: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    price: float


def judge_costs(records: Iterable[Record]) -> list[JudgeCost]:
    """One sum for each judge and the model that it asked, in order of first appearance."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        for name, usage in _usages(record):
            groups.setdefault((name, _model(record, name)), []).append(usage)
    return [_cost(name, model, usages) for (name, model), usages in groups.items()]


def _usages(record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    by_judge = record.environment.get(JUDGES)
    for name, usage in by_judge.items() if isinstance(by_judge, Mapping) else ():
        if isinstance(usage, Mapping):
            yield str(name), usage


def _model(record: Record, name: str) -> str:
    """The model behind an endpoint, without the hash of the address, or the local model's path."""
    judge = record.cell.judges.get(name)
    if judge is None:
        return ""
    model_name = next((value for key, value in judge.fingerprints.items() if key.endswith("_MODEL")), "")
    return model_name.rpartition("@")[0] or str(judge.settings.get("path") or "")


def _cost(name: str, model: str, usages: list[Mapping[str, Any]]) -> JudgeCost:
    def total(*keys: str) -> int:
        return sum(int(_number(usage.get(key))) for usage in usages for key in keys)

    return JudgeCost(
        name=name,
        model=model,
        cells=len(usages),
        answers=total("answers"),
        requests=total("requests"),
        kept=total("kept"),
        unjudged=total("unparsed", "failures"),
        prompt_tokens=total("prompt_tokens"),
        completion_tokens=total("completion_tokens"),
        uncounted=total("uncounted"),
        price=sum(_number(usage.get("price")) for usage in usages),
    )


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15 else 0
