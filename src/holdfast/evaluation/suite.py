"""What a model is measured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.evaluation.metric_settings import Metrics
from holdfast.network.generate import Sampling
from holdfast.network.models import Model
from holdfast.records import Completion, Example, Judge


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The prompts, judges and settings with which a model is measured.

    The first of `harm_judges` gives `harmfulness`, further ones `harmfulness/NAME`, as do further readings of the first
    judge; `help_judge` gives `helpfulness`, and the score of each of the harmless `tasks` under the task's own name,
    unless `task_judges` has another judge for it. `group_size` answers to each harmful prompt measure how much an
    attacker's rollouts would differ, see `diversity`; 0 disables this. `reward`, the attacker's own, is measured on the
    same answers; harm of at most `harm_bound` is within the constraint (see `evaluation.hacking`). `metrics` are
    further ones, with what they need: matched `pairs` of a restricted prompt and its harmless twin, and the `reference`
    that perplexity is measured with.
    """

    harmful: Sequence[Example]
    benign: Sequence[Example]
    harm_judges: Mapping[str, Judge]
    help_judge: tuple[str, Judge]
    sampling: Sampling
    seed: int = 0
    batch_size: int = 128
    tasks: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    group_size: int = 0
    reward: Callable[[Sequence[Completion]], list[float | None]] | None = None
    harm_bound: float = 0.5
    task_judges: Mapping[str, tuple[str, Judge]] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    pairs: Sequence[tuple[Example, Example]] = ()
    reference: Callable[[], Model] | None = None

    def judge_of(self, task: str) -> tuple[str, Judge]:
        """The name and function of a task's judge: its own, else that of helpfulness."""
        return self.task_judges.get(task, self.help_judge)

    @property
    def harm_judge(self) -> str:
        """The name of the judge that reports harm."""
        return next(iter(self.harm_judges))
