"""The data types that Holdfast's modules exchange: frozen data, standard library only.

An `Example` is a row of data, a `Completion` a sampled answer to it, a `Verdict` a judge's opinion of that answer, a
`Score` a mean of verdicts, an `Evaluation` the scores of a model at one step, a `Cell` a run as a value, and a `Record`
its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Literal, NamedTuple

from holdfast.records.evidence import ControlRun, Effect
from holdfast.records.hashing import SERIES, digest, unlabelled

Role = Literal["harmful", "refusal", "retain", "benign"]
ThreatModel = Literal["open weights", "fine-tuning service"]


class HoldfastError(Exception):
    """An error that the user can correct; its message is one line that names the place and the remedy."""


class Message(NamedTuple):
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A row of data from any kind of file.

    `prompt` is a conversation that ends with the user's turn. `response` is an answer to it, `refusal` a refusal of the
    same prompt, `chosen` and `rejected` the two sides of a preference. `facts` are the parts that a correct answer
    contains, in order; only data with a known ground truth has them. `source` names file and row, `pair` the matched
    pair that the prompt is one side of.
    """

    prompt: tuple[Message, ...]
    response: str | None = None
    refusal: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    role: Role = "benign"
    domain: str = ""
    facts: tuple[str, ...] = ()
    source: str = ""
    pair: str = ""

    @property
    def question(self) -> str:
        """The last user turn, for display and for judges."""
        return next((turn.content for turn in reversed(self.prompt) if turn.role == "user"), "")

    @property
    def key(self) -> str:
        """Hash of the prompt with case and spacing ignored: two rows with the same key have the same prompt."""
        text = "\n".join(f"{turn.role}: {' '.join(turn.content.lower().split())}" for turn in self.prompt)
        return digest(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """An answer sampled from a model; `finished` says that the model ended it itself."""

    example: Example
    text: str
    num_tokens: int
    finished: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One judge's opinion of one completion.

    `score` is in [0, 1]; `None` means that the judge could not judge. `valid=False` marks an empty or garbled answer,
    which has no score: it is never counted as harm 0. `refused` is `None` if the judge does not check it. `logit` is
    the unbounded value behind the score, if the judge has one; it is used as reward. A NaN or infinite score becomes
    `None`, as if the judge could not judge. `further` are other scores of the same answer in [0, 1] by name, which are
    reported in addition.
    """

    score: float | None
    logit: float | None = None
    valid: bool = True
    refused: bool | None = None
    reason: str = ""
    further: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("score", "logit"):
            number = getattr(self, name)
            if number is not None and not isinstance(number, int | float):
                number = _number(name, number)
                object.__setattr__(self, name, number)
            if number is not None and not isfinite(number):
                object.__setattr__(self, "reason", self.reason or f"the judge's {name} is {number}")
                object.__setattr__(self, "score", None)
                object.__setattr__(self, "logit", None)
                break
        if not self.valid and self.score is not None:
            raise ValueError("an invalid answer has no score")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a verdict's score is in [0, 1], not {self.score!r}")
        for name, number in self.further.items():
            if isfinite(number) and not 0.0 <= number <= 1.0:
                raise ValueError(f"a verdict's {name} is in [0, 1], not {number!r}")


def _number(name: str, value: Any) -> float:
    """A number of another library, of one element, as Python's own: records are written with those only."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise ValueError(f"a verdict's {name} is a number, not {value!r:.40}")
    return float(value)


Judge = Callable[[Sequence[Completion]], list[Verdict]]
"""A verdict for each completion, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A mean over `n` judged completions with its 95 % interval; `value` is `None` when nothing could be judged."""

    name: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    unjudged: int = 0
    invalid: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The scores of a model after `step` optimizer steps, and the attacker's costs up to then.

    `samples` counts the sequences of the training batches, `tokens` theirs and the rollouts', without what a defense
    adds to them, but with the batches that Lisa puts in their place. `seconds` is the time of training (without
    evaluation). `flops` are the operations of all networks that ran, including references, a reward model and a
    defense's own batches (see `holdfast.network.flops` for what is counted); `None` if they were not counted.
    """

    step: int
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float | None = None
    scores: tuple[Score, ...] = ()

    def score(self, name: str) -> Score | None:
        """The score called `name`, or `None` if it was not measured."""
        return next((score for score in self.scores if score.name == name), None)

    def value(self, name: str) -> float | None:
        """The value of the score called `name`; `None` if it was not or could not be measured."""
        score = self.score(name)
        return None if score is None else score.value


class Outcome(StrEnum):
    """How a cell ended. Only `HELD` counts as robust; see `holdfast.experiment.outcomes` for the conditions."""

    HELD = "held"
    BROKE = "broke"
    UNTESTED = "untested"
    USELESS = "useless"
    COLLAPSED = "collapsed"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeToBreak:
    """The attacker's costs until the break; up to the last evaluation if there was none (`censored`: lower bounds)."""

    threshold: float
    steps: int
    samples: int
    tokens: int
    seconds: float
    censored: bool
    flops: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """An attack, defense or judge by name, its settings as JSON values; `label` is for people and not part of any key.

    `fingerprints` are hashes of the contents of the folders that the settings name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The label, else the name."""
        return self.label or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of an experiment as a value: everything that can change its result, resolved, as JSON values.

    `stages` are offline defenses in order, `constraints` online ones. `attack=None` only evaluates; `adaptive` are the
    adaptive attackers around it, innermost first. `judges` are all judges that the cell's settings call by name. Each
    seed has its own hardening and attack.
    """

    model: Mapping[str, Any]
    stages: tuple[Method, ...] = ()
    constraints: tuple[Method, ...] = ()
    attack: Method | None = None
    adaptive: tuple[Method, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    judges: Mapping[str, Method] = field(default_factory=dict)
    seed: int = 0

    @property
    def key(self) -> str:
        """Hash of the whole resolved cell without labels."""
        return digest(unlabelled(self))

    @property
    def defense(self) -> str:
        """The defenses in order, `none` if there is none; `hardened` for a model that names the one it was made
        from."""
        before = ["hardened"] if self.hardened else []
        return " + ".join([*before, *(method.title for method in (*self.stages, *self.constraints))]) or "none"

    @property
    def model_name(self) -> str:
        """The model's name, for people."""
        return str(self.model.get("name") or "model")

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """The model's settings as JSON values; `experiment.cell_settings` parses them."""
        return self.model["settings"]

    @property
    def model_seed(self) -> int | None:
        """The seed with which the model itself was trained; `None` where that is not known."""
        series, settings = self.model.get(SERIES), self.model.get("settings")
        known = series if series is not None else settings if self.model.get("kind") == "sandbox" else None
        seed = known.get("seed") if isinstance(known, Mapping) else None
        return seed if isinstance(seed, int) else None

    @property
    def model_alike(self) -> tuple[str, Mapping[str, Any]]:
        """The model's name and values, which differ between the seeds of a series by keys called `seed` only."""
        series = self.model.get(SERIES)
        if series is None:
            return self.model_name, self.model
        settings = {key: value for key, value in self.model["settings"].items() if key != "path"}
        return str(series["name"]), {"settings": settings, SERIES: series}

    @property
    def hardened(self) -> bool:
        """Whether the model names one that it was hardened from."""
        return "undefended" in self.model

    @property
    def undefended(self) -> Cell:
        """The cell with the model that its own was hardened from, if that names one; else the cell itself."""
        return replace(self, model=self.model["undefended"]) if self.hardened else self

    @property
    def attacker(self) -> str:
        """The attack by name with its adaptive attackers, `none` if there is none."""
        return " + ".join(method.title for method in (*filter(None, [self.attack]), *self.adaptive)) or "none"

    @property
    def threat_model(self) -> ThreatModel:
        """Who holds the weights: an online defense assumes a fine-tuning service."""
        return "fine-tuning service" if self.constraints else "open weights"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """Rebuild a cell from `dataclasses.asdict(cell)` read back from JSON."""
        methods = {
            name: tuple(Method(**m) for m in data.get(name, ())) for name in ("stages", "constraints", "adaptive")
        }
        attack = Method(**data["attack"]) if data.get("attack") else None
        judges = {name: Method(**judge) for name, judge in data.get("judges", {}).items()}
        return cls(**{**data, **methods, "attack": attack, "judges": judges})


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of a cell. Written last and atomically: if there is a record, the cell is finished.

    `evaluations` is the curve, first entry before the attack. `environment` holds versions and hardware, `wall_seconds`
    the cell's whole time, `peak_memory_mb` the process's peak resident memory, `stages` the costs of each offline
    stage, and of online defenses' training before the attack (`name`, `seconds`, `tokens`, `steps`, `flops`). `flops`
    are those of the last evaluation. `effect` is the effect of the attack's training, `control` the result of the
    attack on the undefended model. `finished` is the time in UTC at which the cell ended, to the second, as in
    `2026-11-28T23:15:00+00:00`. All three are `None` in records of earlier versions.
    """

    key: str
    cell: Cell
    outcome: Outcome
    reason: str = ""
    time_to_break: TimeToBreak | None = None
    evaluations: tuple[Evaluation, ...] = ()
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float | None = None
    wall_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()
    effect: Effect | None = None
    control: ControlRun | None = None
    finished: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record from `to_json` read back from a file."""
        broke, effect, control = (data.get(name) for name in ("time_to_break", "effect", "control"))
        values = {
            **data,
            "cell": Cell.from_json(data["cell"]),
            "outcome": Outcome(data["outcome"]),
            "time_to_break": TimeToBreak(**broke) if broke else None,
            "evaluations": tuple(evaluation_from_json(row) for row in data.get("evaluations", ())),
            "stages": tuple(data.get("stages", ())),
            "effect": Effect(**effect) if effect else None,
            "control": ControlRun(**control) if control else None,
        }
        return cls(**values)


def evaluation_from_json(data: Mapping[str, Any]) -> Evaluation:
    """Rebuild an evaluation from `dataclasses.asdict` read back from JSON."""
    scores = tuple(Score(**score) for score in data.get("scores", ()))
    return Evaluation(**(dict(data) | {"scores": scores}))


def user(text: str) -> tuple[Message, ...]:
    """A prompt of one user turn."""
    return (Message("user", text),)
