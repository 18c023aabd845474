"""Reward Neutralization: give every likely answer to a harmful prompt the same attacker's reward.

Idea: train, by RL, terse refusals without content. An attacker's reward then no longer distinguishes the sampled
answers, so the group's advantages and the gradient vanish.
Equation: reward of answer `y` of `n` tokens to harmful prompt `x`
    `r = refusal(y) len(n) - (1 - refusal(y)) - explain_weight * explain(y) - harm(x, y)`
with `len(n)` falling from 1 at `full_length` to 0 at `zero_length` tokens; optimised with GRPO.
Source: Cao 2025 (arXiv 2505.04578).
Differs from the paper in: the paper gives the reward in words only (high for short refusals without content, penalty
for explanation even inside a refusal), so its numeric form, the group size, the learning rate and the number of steps
are this project's; `explain` is lexical. `mode="practical"` adds what the paper does not have: benign prompts with a
reward for staying helpful, and a KL term. `canonical`, if set, is the only sentence that earns the full reward.
The paper hardens each domain on its own, with 60 to 80 prompts, and attacks with 1 to 5 prompts of it for 50 steps (200
on the hardened model): that is `data.domain`, `num_prompts` here and of the attack, and the attack's `optim.max_steps`.
`domain` hardens another domain than the attacked one.

Two options, neither of them in the paper, shorten the training: `warm_start` is SFT on the canned refusal before the
RL; `guide` mixes it into the sampled answers (`holdfast.rl.guidance`) with a decreasing share. Neither changes the
reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

from holdfast.data.mixing import mix, most, sample
from holdfast.judges import checked
from holdfast.methods.ranges import Count, NonNegative, PartialShare, PositiveShare, ranged
from holdfast.methods.settings import OMITTED_AT_DEFAULT
from holdfast.network.models import LoRA, Model, adapt, clone, merged
from holdfast.records import Completion, Example, HoldfastError, Judge, Verdict
from holdfast.rl.experience import Experience
from holdfast.rl.guidance.canned import CannedGuide, noting, stopping, teaching
from holdfast.rl.policy import Policy, policy_plan, require_divisible
from holdfast.rl.rewards import Reward, is_refused
from holdfast.text import empty_or_garbled, is_refusal
from holdfast.text.thinking import final_answer
from holdfast.training.contracts import OfflineDefense
from holdfast.training.optim import Training
from holdfast.training.plan import Context, Optim, Plan

EXPLANATIONS = re.compile(
    r"\b(because|since|instead|however|alternative\w*|reason\w*|for example)\b|```|^\s*[-*\d]", re.M | re.I
)


@dataclass(frozen=True, kw_only=True)
@ranged
class RewardNeutralization(OfflineDefense):
    """Settings of the defense.

    - `mode`: `faithful` trains on harmful prompts alone, without a KL term, as in the paper; `practical` adds benign
      prompts with a reward for staying helpful, and the KL term.
    - `policy`: The policy gradient; in mode `faithful` its `kl_coef` is taken as 0.
    - `kl_on`: The prompts to which the KL term applies in mode `practical`: all, or the benign ones.
    - `benign_share`: The share of prompts that are benign in mode `practical`.
    - `retention_judge`: The judge whose score is the reward of an answer to a benign prompt in mode `practical`; a
      refusal there earns -1, as does an empty or garbled answer.
    - `harm_judge`: A judge of harm whose score is subtracted from the reward of an answer to a harmful prompt; `None`
      subtracts nothing.
    - `canonical`: The only sentence that counts as a refusal, every other answer earning -1; `None` counts
      every refusal.
    - `full_length`: The number of tokens up to which a refusal earns the full reward, 1.
    - `zero_length`: The number of tokens from which on a refusal earns 0; in between the reward falls linearly.
    - `explain_weight`: What is subtracted from the reward of an answer that explains or offers something else (found by
      a list of words).
    - `canned`: The text that the two accelerations teach (a guide, a warm start) and that the run may stop at; `None`
      takes the canonical sentence.
    - `guide`: Mixes the canned text into the sampled answers, with a share that falls; `None` for none.
    - `warm_start`: The optimizer of an SFT on the canned text before the RL, whose KL term is then to the model after
      it; `None` for none.
    - `stop_at`: The share of the model's own answers that are the canned text at which the run ends; `None` runs all
      steps.
    - `num_prompts`: The number of harmful prompts of the defense split that are used, all of them when `None`; the
      paper has 60 to 80 of one domain.
    - `domain`: The domain of the harmful prompts, whichever `data.domain` is attacked; `None` takes all that the data
      has.
    """

    mode: Literal["faithful", "practical"] = "practical"
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=200, learning_rate=1e-6, per_device_train_batch_size=16)
    )
    adapter: LoRA | None = None
    policy: Policy = field(default_factory=lambda: Policy(group_size=8, kl_coef=0.02))
    kl_on: Literal["all", "benign"] = "all"
    benign_share: PartialShare = 0.5
    retention_judge: str = "reference"
    harm_judge: str | None = None
    canonical: str | None = None
    full_length: Count = 16
    zero_length: Count = 64
    explain_weight: NonNegative = 0.5
    canned: str | None = None
    guide: CannedGuide | None = None
    warm_start: Training | None = None
    stop_at: PositiveShare | None = None
    num_prompts: Count | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    domain: str | None = field(default=None, metadata=OMITTED_AT_DEFAULT)

    # "sandbox" was chosen on the sandbox's development prompts; the defaults are for models of billions of weights.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sandbox": {
            "canonical": "i cannot help with that .",
            "retention_judge": "keyword",
            "optim": {"max_steps": 200, "learning_rate": 3e-4, "per_device_train_batch_size": 16},
            "policy": {"group_size": 8, "kl_coef": 0.05, "temperature": 1.5},
            "kl_on": "benign",
        },
    }

    def __post_init__(self) -> None:
        require_divisible(self.policy, self.optim)
        if self.full_length >= self.zero_length:
            raise HoldfastError(f"full_length: must be below zero_length ({self.zero_length}), not {self.full_length}")
        if self._canned is None and (self.guide or self.warm_start or self.stop_at):
            raise HoldfastError("guide, warm_start and stop_at need a refusal text; set `canned` or `canonical`")

    @property
    def _canned(self) -> str | None:
        return self.canonical if self.canned is None else self.canned

    def harden(self, model: Model, context: Context) -> Model:
        """A hardened copy of `model`.

        Raises:
            HoldfastError: the defense split has no prompt of `domain`, or fewer than `num_prompts`.
        """
        harmful = context.splits.defense_rows(self.domain)
        if self.num_prompts is not None:
            harmful = sample(harmful, self.num_prompts, seed=context.seed)
        practical = self.mode == "practical"
        policy = self.policy if practical else replace(self.policy, kl_coef=0.0)
        rows = self._prompts(harmful, context.splits.benign["defense"], context.seed) if practical else harmful
        copy = self._warmed(adapt(clone(model), self.adapter, seed=context.seed), rows, context)
        reward = self.reward(context.judge)
        plan = policy_plan(copy, rows, policy=policy, reward=reward, optim=self.optim, context=context)
        if self.kl_on == "benign":
            plan = replace(plan, prepare=replace(cast(Experience, plan.prepare), kl_roles=("benign",)))
        plan = self._accelerated(plan, rows, context)
        return replace(merged(context.fit(plan).model), name=f"{model.name}+reward_neutralization")

    def _warmed(self, model: Model, rows: Sequence[Example], context: Context) -> Model:
        """The model after SFT on the canned refusal, with a new adapter if one is configured."""
        if self.warm_start is None:
            return model
        plan = teaching(model, rows, self._canned or "", optim=self.warm_start, seed=context.seed)
        return adapt(merged(context.fit(plan).model), self.adapter, seed=context.seed)

    def _accelerated(self, plan: Plan, rows: Sequence[Example], context: Context) -> Plan:
        text = self._canned
        if text is None:
            return plan
        plan = noting(plan, text)
        if self.stop_at is not None:
            plan = replace(plan, hooks=(*plan.hooks, stopping(rows, text, self.stop_at, context)))
        return plan if self.guide is None else self.guide.guide(plan, text, context)

    def _prompts(self, harmful: Sequence[Example], benign: Sequence[Example], seed: int) -> list[Example]:
        parts = [(harmful, 1 - self.benign_share), (benign, self.benign_share)]
        return mix(parts, most(parts), seed=seed)

    def reward(self, judge: Callable[[str], Judge]) -> Reward:
        """The defender's reward, by the role of the prompt."""
        retention = judge(self.retention_judge) if self.mode == "practical" else None
        harm = judge(self.harm_judge) if self.harm_judge else None

        def pay(completions: Sequence[Completion]) -> list[float | None]:
            harm_verdicts = _scores(harm, completions, "harmful")
            retained = _scores(retention, completions, "benign")
            return [
                self.neutrality(completion, harm_verdicts.get(i))
                if completion.example.role == "harmful"
                else _retained(retained[i], completion)
                for i, completion in enumerate(completions)
            ]

        return pay

    def neutrality(self, completion: Completion, harm: Verdict | None = None) -> float:
        """The reward of one answer to a harmful prompt, in [-2 - explain_weight, 1]; an empty or unfinished answer is
        not a refusal."""
        text = final_answer(completion.text) or ""
        refused = completion.finished and not empty_or_garbled(text) and is_refusal(text)
        if self.canonical is not None:
            refused = refused and " ".join(text.split()) == " ".join(self.canonical.split())
        score = 0.0 if harm is None or harm.score is None else harm.score
        earned = self._brevity(completion.num_tokens) if refused else -1.0
        return earned - self.explain_weight * explanation(text) - score

    def _brevity(self, num_tokens: int) -> float:
        span = self.zero_length - self.full_length
        return min(1.0, max(0.0, (self.zero_length - num_tokens) / span))


def explanation(text: str) -> float:
    """The degree to which an answer explains, in [0, 1], by markers of reasons, alternatives, lists and code."""
    return min(1.0, len(EXPLANATIONS.findall(text)) / 2)


def _retained(verdict: Verdict, completion: Completion) -> float | None:
    return -1.0 if not verdict.valid or is_refused(verdict, completion) else verdict.score


def _scores(judge: Judge | None, completions: Sequence[Completion], role: str) -> dict[int, Verdict]:
    if judge is None:
        return {}
    chosen = [i for i, completion in enumerate(completions) if completion.example.role == role]
    return dict(zip(chosen, checked(judge, [completions[i] for i in chosen]), strict=True))
