"""Which cells of runs belong to which published row, and what they measured.

A cell belongs to a row if its attack and defense are the row's, its rows are of the row's data set (a world of its own
stands for every data set), its model is the aligned or the unaligned one as the row's is, and every setting that the
row names has the row's value: `num_samples` (RL's `num_prompts`), `flip_ratio` (the attack's or its reward model's),
`rho` (Lisa's `proximal_weight`, Vaccine's `perturbation_radius`), `alpha` (of Refusal Loss), `kl_coef`, `beta`. `n` and
`steps` are places on the attack's curve: answers to choose from, and optimizer steps. A label such as `sft
num_samples 2500` or `lisa rho 50` says which value of the paper a cell stands for, where its own setting is scaled to
a smaller world; it goes before the setting.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from math import isclose
from typing import Any

from holdfast.evaluation.intervals import wilson
from holdfast.experiment.cell_settings import is_sandbox, settings_of
from holdfast.experiment.outcomes import unbroken, useless
from holdfast.published.tables import PublishedRow
from holdfast.records import Cell, Evaluation, Method, Outcome, Record
from holdfast.report.summarise.intervals import Estimate, estimate, finite, model_of
from holdfast.report.summarise.labels import flip_of

SCORES = {"perplexity": "perplexity/benign"}
"""The scores of a run that stand for a paper's metrics, where they are not called the same."""
OF_TASK = {"reward": "{task}", "perplexity": "perplexity/{task}", "length": "length/{task}", "rouge1": "rouge1/{task}"}
"""Those of an honest customer's task, whose own score (what its answers are paid) stands for the paper's reward."""
RATES = ("harmfulness",)
PLACES = ("n", "steps")
"""Settings of a row that are places on the attack's curve."""
DATASETS = {"beavertails": "beavertails", "safe_rlhf": "saferlhf", "tldr": "tldr", "harmbench": "harmbench"}
DATASETS |= {"strongreject": "strongreject"}
"""Data sets by name, and what their paths contain, in letters and digits only."""
HONEST = {"tldr": "summary"}
"""Data sets on which nobody is attacked, and the honest customer's `task` that stands for them."""
BEFORE_ALIGNMENT = ("base", "llmsmollm2")
"""Names of models before alignment: a folder called so, and the kitchen's backbone, before it was taught to refuse."""
UNALIGNED = ("llama2-7b",)
"""Models of papers that were never aligned: the sandbox's `base` stands for them, its aligned one for all others."""
WEIGHTS = {("lisa", "rho"): "proximal_weight", ("vaccine", "rho"): "perturbation_radius"}
WEIGHTS |= {("refusal_loss", "alpha"): "alpha"}
WITHOUT_ANSWERS = (Outcome.FAILED, Outcome.DIVERGED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the cells of a row measured: means over seeds by metric, with n and interval, and how the runs ended.

    `broke` counts the runs that were above the threshold at any evaluation, in case they are below it at the end: of a
    model that was never aligned, those that an attack made harmful again; `useless` those whose model answers nothing.
    `deviations` are settings that are not the table's.
    """

    estimates: Mapping[str, Estimate]
    outcomes: Mapping[Outcome, int]
    broke: int
    useless: int = 0
    reasons: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()

    @property
    def runs(self) -> int:
        """How many cells there are."""
        return sum(self.outcomes.values())


def belongs(record: Record, row: PublishedRow) -> bool:
    """Whether a cell measures what a row reports; `none` among attacks is any cell's model before its attack.

    Adaptive attackers are no row's: they change the attack, and some of them the weights before it.
    """
    cell = record.cell
    if cell.adaptive:
        return False
    task = cell.attack.settings.get("task") if cell.attack is not None else None
    if task != HONEST.get(row.dataset or "") and not (task is None and row.attacks == ("none",)):
        return False
    if task is None and row.dataset is not None and dataset_of(cell) not in (None, row.dataset):
        return False
    wanted = {key: value for key, value in row.settings.items() if key not in PLACES}
    wanted |= {key: value for key, value in row.assumed.items() if key == "model"}
    unattacked = row.attacks == ("none",)
    if unattacked:
        wanted = {key: value for key, value in wanted.items() if key == "model"}
    if not unattacked and (cell.attack is None or cell.attack.name not in row.attacks):
        return False
    return defense_of(cell) == row.defense and all(_has(cell, key, value) for key, value in wanted.items())


def defense_of(cell: Cell) -> str:
    """The defense by the names that the published tables use; `none` without one."""
    names = [_defense(method) for method in (*cell.stages, *cell.constraints)]
    return "_then_".join(names) or ("hardened" if cell.hardened else "none")


def _defense(method: Method) -> str:
    noisy = method.name == "tar" and method.settings.get("repnoise_at") is not None
    return "tar_plus_repnoise" if noisy else method.name


def dataset_of(cell: Cell) -> str | None:
    """The published data set that a cell's harmful rows are, by the name in their path; `None` for any other."""
    source = settings_of(cell).data.harmful
    text = _letters(f"{source.path} {source.format}") if source is not None else ""
    return next((name for name, part in DATASETS.items() if part in text), None)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _has(cell: Cell, key: str, value: float | str) -> bool:
    if key == "model":
        return _is_model(cell, str(value))
    own = setting(cell, key)
    return own is not None and isclose(float(own), float(value), rel_tol=1e-9)


def _is_model(cell: Cell, name: str) -> bool:
    if is_sandbox(cell):
        return is_sandbox(cell, part="base" if name in UNALIGNED else "aligned")
    own = _letters(cell.model_name).removesuffix("hf")
    named = own.startswith("llama") or any(_letters(other) in own for other in UNALIGNED)
    return own == _letters(name) if named else (own in BEFORE_ALIGNMENT) == (name in UNALIGNED)


def setting(cell: Cell, key: str) -> float | None:
    """A cell's value of a swept setting (see the module); `None` if it has none."""
    labelled = _by_label(cell, key)
    if labelled is not None:
        return labelled
    attack: Mapping[str, Any] = cell.attack.settings if cell.attack else {}
    if key == "flip_ratio":
        flip = flip_of(cell)
        return flip.ratio if flip is not None and flip.how == "reverse" else None
    value: Any = attack.get(key)
    if key == "num_samples":
        value = attack.get("num_prompts") if "num_prompts" in attack else value
    elif key == "kl_coef":
        value = (attack.get("policy") or {}).get("kl_coef")
    elif key in ("rho", "alpha"):
        own = {name: setting for (name, known), setting in WEIGHTS.items() if known == key}
        value = next((m.settings.get(own[m.name]) for m in cell.constraints if m.name in own), None)
    return value if isinstance(value, int | float) else None


def _by_label(cell: Cell, key: str) -> float | None:
    methods = (*cell.stages, *cell.constraints, *filter(None, [cell.attack]))
    pattern = re.compile(rf"\b{key}[ =]([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")
    for method in methods:
        matched = pattern.search(method.label)
        if matched:
            return float(matched[1])
    return None


def deviations(cell: Cell, row: PublishedRow) -> list[str]:
    """The settings of a cell that deviate from those that the table states for all rows, in words."""
    stated = {key: value for key, value in row.assumed.items() if key != "model"}
    own_values = {key: setting(cell, key) for key in stated}
    return [
        f"{key} is {own:g}, the paper's {float(value):g}"
        for key, value in stated.items()
        if (own := own_values[key]) is not None and not isclose(own, float(value), rel_tol=1e-9)
    ]


def measured(records: Sequence[Record], row: PublishedRow, metrics: Sequence[str], threshold: float) -> Measured:
    """What cells of one setting measured at the row's place: before the attack, at its N or step, or at its end."""
    points = [(record, _place(record, row)) for record in records]
    usable = [
        (record, point) for record, point in points if point is not None and record.outcome not in WITHOUT_ANSWERS
    ]
    models = [model_of(record) for record, _ in usable]
    estimates = {
        metric: estimate([point.score(score_name(metric, row)) for _, point in usable], models)
        for metric in (*metrics, *RATES)
    }
    estimates = {name: _widened(value) if name in RATES else value for name, value in estimates.items()}
    return Measured(
        estimates={name: value for name, value in estimates.items() if value.value is not None},
        outcomes=Counter(record.outcome for record in records),
        broke=sum(_broke(record, row, threshold) for record, _ in usable),
        useless=sum(_useless(record, row) for record in records),
        reasons=tuple(dict.fromkeys(record.reason for record in records if record.reason)),
        deviations=tuple(dict.fromkeys(text for record in records for text in _deviations(record, row))),
    )


def _deviations(record: Record, row: PublishedRow) -> list[str]:
    return [] if row.attacks == ("none",) else deviations(record.cell, row)


def _place(record: Record, row: PublishedRow) -> Evaluation | None:
    if not record.evaluations:
        return None
    if row.attacks == ("none",):
        return record.evaluations[0]
    at = next((row.settings[key] for key in PLACES if key in row.settings), None)
    if at is None:
        return record.evaluations[-1]
    exact = next((point for point in record.evaluations if point.step == at), None)
    # A run that stopped when it was broken has no later evaluations; its last one stands for them.
    ended = record.outcome is Outcome.BROKE and record.evaluations[-1].step < float(at)
    return record.evaluations[-1] if exact is None and ended else exact


def score_name(metric: str, row: PublishedRow) -> str:
    """The name of the run's score for a metric of a row."""
    task = HONEST.get(row.dataset or "")
    return OF_TASK[metric].format(task=task) if task and metric in OF_TASK else SCORES.get(metric, metric)


def _broke(record: Record, row: PublishedRow, threshold: float) -> bool:
    """Whether a run was broken, by its outcome or its harm, at any evaluation up to the row's place.

    The harm that a model has since it was never aligned is not its attack's: there a break is harm that came back.
    """
    if row.attacks == ("none",):
        return False
    last = next((float(row.settings[key]) for key in PLACES if key in row.settings), float("inf"))
    points = [point.value("harmfulness") for point in record.evaluations if point.step <= last]
    harmful = [(finite(harm) or 0.0) > threshold for harm in points]
    if _never_aligned(row):
        return any(dropwhile(bool, harmful))
    return any(harmful) or (record.outcome is Outcome.BROKE and last == float("inf"))


def _useless(record: Record, row: PublishedRow) -> bool:
    """Whether a run's model answers nothing at its end, also one that was harmful at first, since never aligned."""
    if record.outcome is Outcome.BROKE and _never_aligned(row) and record.evaluations:
        return useless(unbroken(record), record.control) is not None
    return record.outcome is Outcome.USELESS


def _never_aligned(row: PublishedRow) -> bool:
    return {**row.assumed, **row.settings}.get("model") in UNALIGNED


def _widened(value: Estimate) -> Estimate:
    """A rate's interval, at least as wide as that of its prompts: seeds that agree to the last digit prove little."""
    if value.value is None or value.n < 1:
        return value
    low, high = wilson(min(1.0, max(0.0, value.value)), max(1, value.n // max(1, value.seeds)))
    low = low if value.low is None else min(low, value.low)
    high = high if value.high is None else max(high, value.high)
    return replace(value, low=low, high=high)
