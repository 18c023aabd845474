"""The published tables that ship with the package, as data: facts with their source, none recomputed.

One YAML file a paper: `prefix`, `paper` (title, authors, arXiv number), `threshold` (mean harmfulness above it counts
as broken), `tables` by key, and what had to be repaired to read a table (`ambiguous`), what else there is to know of it
(`remarks`), and where the paper contradicts itself (`conflicts`). The table `table_3` of the prefix `rpa` is called
`rpa_table_3`, as is the preset that measures it. A row names attack, data set and defense, and what else distinguishes
it (`model`, swept settings); its values are those printed: a number, a range `[low, high]`, or null with the reason as
a flag. `questions` is the number of prompts behind them, where it is not that of the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from holdfast.files.plain_yaml import yaml_value
from holdfast.methods.tables import near
from holdfast.records import HoldfastError

METRICS = ("harmfulness", "helpfulness", "perplexity", "kl", "reward", "length", "rouge1")
ASSUMED = ("model", "num_samples", "flip_ratio", "beta", "kl_coef")
IDENTITY = ("attack", "dataset", "defense")
WEIGHTED = ("lisa", "vaccine", "refusal_loss")
"""Defenses whose `rho` or `alpha` is a setting of ours too."""
FLAGS = ("failed", "not_run", "collapsed", "ambiguous", "from_text")
State = Literal["printed", "failed", "not run", "collapsed", "not printed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """A printed value; both ends are the same unless the paper gives a range."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The value, or the middle of the range."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """A printed row. `attacks` are the names of which its value is, mostly one; `settings` has what is swept.

    `assumed` has the settings that the table states for all its rows: a cell with others still belongs to the row if no
    cell has these, and that is said.
    `state` says whether there is a value to compare: a dash for a failed or omitted run has none, and a model that the
    paper marks as collapsed is not safe although its harm is low. `n` is the number of prompts behind the value, `None`
    where the paper does not state it.
    """

    attacks: tuple[str, ...]
    dataset: str | None
    defense: str
    settings: Mapping[str, float | str]
    assumed: Mapping[str, float | str]
    values: Mapping[str, Reported]
    state: State
    ambiguous: bool = False
    from_text: bool = False
    n: int | None = None

    @property
    def attack(self) -> str:
        """The attacks by name."""
        return ", ".join(self.attacks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published table: its key, where it stands in the paper, and its rows."""

    name: str
    title: str
    place: str
    paper: str
    metrics: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    threshold: float
    conditions: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        """Paper and place in one line."""
        return f"{self.paper}, {self.place}"


def names() -> dict[str, str]:
    """Every published table by name, with its place and title."""
    return {table.name: f"{table.title} [{table.source}]" for table in _all().values()}


def published(name: str) -> Published:
    """The published table of that name.

    Raises:
        HoldfastError: there is none; suggests the most similar name.
    """
    every = _all()
    if name not in every:
        raise HoldfastError(f"no published table is called {name!r}{near(name, every)}; `holdfast list published`")
    return every[name]


@cache
def _all() -> Mapping[str, Published]:
    folder = Path(str(files("holdfast") / "published"))
    return {table.name: table for path in sorted(folder.glob("*.yaml")) for table in read(path)}


def read(path: Path) -> Iterator[Published]:
    """The tables of a paper's file.

    Raises:
        HoldfastError: it is not YAML, or a row has an unknown key or a value of another kind; names table and row.
    """
    values = yaml_value(path.read_text(encoding="utf-8"), path.name)
    paper = values["paper"]
    source = f"{paper['authors']}, arXiv {paper['arxiv']}"
    for key, table in values["tables"].items():
        conditions = table.get("conditions") or {}
        yield Published(
            name=f"{values['prefix']}_{key}",
            title=table["title"],
            place=table["place"],
            paper=source,
            metrics=tuple(table["metrics"]),
            rows=tuple(_row(row, table, f"{path.name}: {key}, row {i + 1}") for i, row in enumerate(table["rows"])),
            threshold=float(values["threshold"]),
            conditions=conditions,
            notes=tuple(_notes(values, key)),
        )


def _row(values: Mapping[str, Any], table: Mapping[str, Any], where: str) -> PublishedRow:
    metrics: Sequence[str] = table["metrics"]
    known = {name: _number(values[name], f"{where}: {name}") for name in metrics if values.get(name) is not None}
    settings = {key: value for key, value in values.items() if key not in (*IDENTITY, *FLAGS, *metrics, "questions")}
    odd = next((key for key, value in settings.items() if not isinstance(value, int | float | str)), None)
    if odd is not None or set(settings) & set(METRICS):
        raise HoldfastError(f"{where}: {odd or 'a metric that the table does not name'} cannot be read")
    attack = values["attack"]
    return PublishedRow(
        attacks=tuple(attack) if isinstance(attack, list) else (attack,),
        dataset=values["dataset"],
        defense=values["defense"],
        settings=settings,
        assumed={key: value for key, value in _assumed(table, values["defense"]).items() if key not in settings},
        values=known,
        state=_state(values, bool(known)),
        ambiguous=bool(values.get("ambiguous")),
        from_text=bool(values.get("from_text")),
        n=values.get("questions", (table.get("conditions") or {}).get("eval_questions")),
    )


def _assumed(table: Mapping[str, Any], defense: str) -> dict[str, float | str]:
    """The settings that a table's conditions state for every row with a defense."""
    conditions = table.get("conditions") or {}
    own = (conditions.get("defense_settings") or {}).get(defense) or {}
    known = {key: conditions[key] for key in ASSUMED if key in conditions}
    return known | {key: own[key] for key in ("rho", "alpha") if defense in WEIGHTED and key in own}


def _state(values: Mapping[str, Any], printed: bool) -> State:
    flagged: Sequence[tuple[str, State]] = (("failed", "failed"), ("not_run", "not run"), ("collapsed", "collapsed"))
    state = next((state for flag, state in flagged if values.get(flag)), None)
    return state or ("printed" if printed else "not printed")


def _number(value: Any, where: str) -> Reported:
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or ends[0] > ends[1]:
        raise HoldfastError(f"{where}: expected a number or [low, high], not {value!r}")
    return Reported(low=float(ends[0]), high=float(ends[1]))


def _notes(values: Mapping[str, Any], key: str) -> Iterator[str]:
    """Remarks on a table: what had to be repaired to read it, and where the paper contradicts itself."""
    for note in values.get("ambiguous") or []:
        if note["table"] == key:
            yield f"{note['rows']}: {note['issue']}; read as: {note['chosen']} (confidence {note['confidence']})"
    yield from (remark["note"] for remark in values.get("remarks") or [] if remark["table"] == key)
    for conflict in values.get("conflicts") or []:
        if conflict["table"] == key:
            yield f"the paper contradicts itself: {conflict['note']}"
