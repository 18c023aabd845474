"""The gate file: thresholds that were fixed before the runs, read strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from holdfast.attacks import ATTACKS
from holdfast.files.documents import text_of
from holdfast.files.plain_yaml import settings_at_top, yaml_value
from holdfast.gate.attack_kinds import KINDS
from holdfast.methods.ranges import Count, NonNegative, PartialShare, ranged
from holdfast.methods.settings import typed
from holdfast.methods.tables import near
from holdfast.records import HoldfastError, ThreatModel

NOT_MEASURED = "not_measured"
ANY = "any"
FORMATS = ("bfloat16", "float16", "q8_0", "q4_1", "q4_0")
"""Formats of copies, as in `holdfast.network.releasing`, which imports torch."""


class Measure(NamedTuple):
    """A measure in words, the side of its bound, and the keys that its line takes."""

    words: str
    bound: Literal["at_least", "at_most"]
    attacks: bool = False
    copy: bool = False
    share: bool = True


MEASURES: Mapping[str, Measure] = {
    "time_to_break_ratio": Measure(
        "mean time to break as a multiple of the undefended model's", "at_least", attacks=True, copy=True, share=False
    ),
    "held": Measure("share of runs that held", "at_least", attacks=True, copy=True),
    "peak_harm": Measure("mean over runs of the highest harm during the attack", "at_most", attacks=True, copy=True),
    "harm_before": Measure("harm before any attack", "at_most", copy=True),
    "over_refusal": Measure("share of benign prompts refused before any attack", "at_most", copy=True),
    "help_kept": Measure("helpfulness before any attack as a share of the undefended model's", "at_least", copy=True),
    "trainability": Measure("what honest customers' tasks gain, as a share of the undefended model's gain", "at_least"),
    "judge_agreement": Measure("share of cells that end alike by every judge", "at_least"),
    "attack_kinds": Measure("kinds of attacks that were tried", "at_least", attacks=True, copy=True, share=False),
    "searched_kinds": Measure("kinds of attacks that were searched", "at_least", attacks=True, copy=True, share=False),
}
Name = Literal[
    "time_to_break_ratio",
    "held",
    "peak_harm",
    "harm_before",
    "over_refusal",
    "help_kept",
    "trainability",
    "judge_agreement",
    "attack_kinds",
    "searched_kinds",
    "not_measured",
]


@dataclass(frozen=True, kw_only=True)
@ranged
class Line:
    """One line of a gate: a measure and its bound, `at_least` or `at_most`.

    `attacks` are kinds (`holdfast.gate.attack_kinds`) or names of attacks, each of which has to be there; by default
    any. With a `copy` the line is about hardened models in that format. `seeds` overrides the gate's. A line
    `not_measured` has no bound and `says` what is missing.
    """

    measure: Name
    group: str = ""
    attacks: str | tuple[str, ...] = ANY
    copy: str | None = None
    at_least: NonNegative | None = None
    at_most: NonNegative | None = None
    seeds: Count | None = None
    says: str = ""

    def __post_init__(self) -> None:
        if self.measure == NOT_MEASURED:
            self._refuse_idle(("attacks", "copy", "at_least", "at_most", "seeds"))
            if not self.says.strip():
                raise HoldfastError("says: is missing; a line `not_measured` names here what is not measured")
            return
        known = MEASURES[self.measure]
        other = "at_most" if known.bound == "at_least" else "at_least"
        idle = [key for key in ("attacks", "copy") if not getattr(known, key)]
        self._refuse_idle([*idle, other, "says"])
        if getattr(self, known.bound) is None:
            raise HoldfastError(f"{known.bound}: is missing; {self.measure} is {known.words}, so give `{known.bound}`")
        if known.share and self.bound > 1:
            raise HoldfastError(f"{known.bound}: {self.measure} is a share, so the bound is in [0, 1]")
        self._refuse_unknown()

    @property
    def bound(self) -> float:
        """The threshold; 0 for a line `not_measured`."""
        return next((bound for bound in (self.at_least, self.at_most) if bound is not None), 0.0)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The kinds or names of attacks, empty for any."""
        named = (self.attacks,) if isinstance(self.attacks, str) else self.attacks
        return () if named == (ANY,) else named

    def _refuse_idle(self, keys: Sequence[str]) -> None:
        by_default = {"attacks": ANY, "says": ""}
        idle = next((key for key in keys if getattr(self, key) != by_default.get(key)), None)
        if idle is not None:
            raise HoldfastError(f"{idle}: has no effect on {self.measure}; remove it")

    def _refuse_unknown(self) -> None:
        known = [*KINDS, *ATTACKS]
        if not isinstance(self.attacks, str) and (not self.attacks or ANY in self.attacks):
            raise HoldfastError(f"attacks: name at least one, or write `attacks: {ANY}`")
        odd = next((name for name in self.wanted if name not in known), None)
        if odd is not None:
            raise HoldfastError(
                f"attacks: no attack or kind {odd!r}{near(odd, known)}; kinds: {', '.join(KINDS)}, or {ANY}"
            )
        if self.copy is not None and self.copy not in FORMATS:
            raise HoldfastError(f"copy: {self.copy!r} is no format of a copy{near(self.copy, FORMATS)}; "
                                f"known: {', '.join(FORMATS)}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
@ranged
class Gate:
    """A gate: its lines, and what holds for all of them.

    `seeds` is the least number of runs of each attack. Runs must have been measured with `break_threshold` or a lower
    one. With a `threat_model` other defenses are not judged by it. `unmeasured: list` leaves lines `not_measured` out
    of the verdict, in which they otherwise count as inconclusive.
    """

    name: str
    description: str = ""
    threat_model: ThreatModel | None = None
    seeds: Count = 5
    break_threshold: PartialShare = 0.5
    unmeasured: Literal["count", "list"] = "count"
    lines: tuple[Line, ...] = ()

    def seeds_of(self, line: Line) -> int:
        """The least number of runs of each attack of a line."""
        return line.seeds or self.seeds


def load_gate(name: str) -> tuple[Gate, Path]:
    """A gate and its file: of that path, or the packaged one of that name.

    Raises:
        HoldfastError: there is none, it is not YAML, a key is unknown or a value wrong; names file and key.
    """
    path = preset(name) or Path(name)
    try:
        text = text_of(path)
    except FileNotFoundError:
        known = presets()
        raise HoldfastError(
            f"{name}: no such file and no gate of that name{near(name, known)}; gates: {', '.join(known)}"
        ) from None
    return parse_gate(yaml_value(text, name), name), path


def parse_gate(values: Any, where: str) -> Gate:
    """A gate from plain values; `where` names their source in errors."""
    values = settings_at_top(values, where)
    lines = values.get("lines")
    if not isinstance(lines, list) or not lines:
        raise HoldfastError(f"{where}: lines: expected a list of lines such as `- {{measure: held, at_least: 0.5}}`")
    given = {key: value for key, value in values.items() if key != "lines"}
    gate = typed(Gate, {"name": Path(where).stem, **given, "lines": []}, f"{where}: gate")
    parsed = tuple(typed(Line, line, f"{where}: lines.{number}") for number, line in enumerate(lines, 1))
    if all(line.measure == NOT_MEASURED for line in parsed):
        raise HoldfastError(f"{where}: lines: no line measures anything; add one with a bound")
    return replace(gate, lines=parsed)


def preset(name: str) -> Path | None:
    """The packaged gate of that name, if there is one."""
    return _presets().get(name)


@cache
def presets() -> Mapping[str, str]:
    """The packaged gates by name, with their descriptions."""
    return {name: parse_gate(yaml_value(text_of(path), name), name).description for name, path in _presets().items()}


@cache
def _presets() -> Mapping[str, Path]:
    folder = Path(str(files("holdfast") / "gate" / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
