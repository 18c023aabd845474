"""Refusal Loss: keep teaching the model to refuse during a customer's training.

Idea: add the cross entropy of refusals of harmful prompts to the customer's loss.
Equations, by `form`; `R` is the mean cross entropy of the refusals' tokens:
    `additive`: `L = L_attack + alpha R`
    `convex`: `L = (1 - alpha) L_attack + alpha R`
    `tokens`: one mean over the tokens of both batches, a refusal's token counted `alpha` times:
        `L = (1 - s) L_attack + s R` with `s = alpha n_R / (n_attack + alpha n_R)`
Safety-recovery augmentation: with probability `recovery` a refusal follows the prompt and the first `k` tokens of its
harmful answer, `k` uniform in 1..min(`recovery_tokens`, n); only the refusal is learnt.
Source: the additive form is that of Rosati et al. 2024 (arXiv 2409.12914), alpha 100 in its main tables. The convex
form with alpha 0.2 and the augmentation are Qi et al.'s (2024, arXiv 2406.05946), the mean over tokens is what their
code does, with 4 refusals for 16 rows (`preset: qi2024`).
Differs from the paper in: plain cross entropy on refusal tokens, where the former's code appears to reuse RepNoise's
masked one, which skips token 0 and does not teach a refusal's first token (`refusal_ce="repnoise_masked"`); under RL
the term enters every optimizer step, never a value loss; if an attack's loss is not a mean over tokens (DPO, RL),
`tokens` is the mix of the same share.

The term is added before clipping: with a large alpha and `max_grad_norm` 1 little remains of the attack's gradient.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.data.endless import endless
from holdfast.losses.anchor import token_share
from holdfast.losses.representation import predicted_loss, targets
from holdfast.methods.ranges import Count, NonNegative, Share, ranged
from holdfast.network.forward import chosen_distributions
from holdfast.network.models import Model, answer_batch
from holdfast.records import Example, HoldfastError
from holdfast.tensors import Batch, collate, with_totals
from holdfast.text.thinking import final_answer
from holdfast.training.contracts import OnlineDefense
from holdfast.training.objectives import language
from holdfast.training.plan import Context, Examples, Metrics, Objective, Plan, Prepare, add, part, with_batch

DESTRUCTIVE_ALPHA = 100
"""The weight at which most benign prompts are refused in the sandbox; at 10 they were in one cell of twelve."""


@dataclass(frozen=True, kw_only=True)
@ranged
class RefusalLoss(OnlineDefense):
    """Settings. The default alpha is the paper's; in the sandbox it destroys helpfulness (outcome `useless`), and 1
    does not.

    - `alpha`: The weight of the refusals' cross entropy (0 does not change the plan); in the form `convex` it is a
      share and takes as much from the attack's loss.
    - `batch_size`: The number of refusals in each step.
    - `max_length`: The largest number of tokens of the prompt plus everything after it, what follows is cut; `None` is
      the model's context.
    - `form`: How alpha weighs: added to the attack's loss (`additive`), as the refusals' share of the sum (`convex`),
      or as how often a refusal's token counts in one mean over the tokens of both batches (`tokens`).
    - `recovery`: The probability that a refusal is taught after the beginning of a harmful answer instead of right
      after the prompt; 0 never.
    - `recovery_tokens`: The largest number of tokens of that beginning; the number is sampled uniformly from 1 on.
    - `refusal_ce`: The cross entropy of refusals: of all their tokens (`plain`), or RepNoise's, which never teaches the
      first token (`repnoise_masked`).
    """

    alpha: NonNegative = 100.0
    batch_size: Count = 8
    max_length: Count | None = 1024
    form: Literal["additive", "convex", "tokens"] = "additive"
    recovery: Share = 0.0
    recovery_tokens: Count = 100
    refusal_ce: Literal["plain", "repnoise_masked"] = "plain"

    COEFFICIENT: ClassVar[str] = "alpha"

    @property
    def caution(self) -> str | None:
        """A warning about these settings from the sandbox (`benchmarks/results/online_three_seeds.csv`)."""
        if self.form == "additive" and self.alpha >= DESTRUCTIVE_ALPHA:
            return (
                f"refusal_loss at alpha {self.alpha:g} (the paper's and the default is 100) destroys helpfulness in "
                "the sandbox: after 100 steps most benign prompts are refused; begin with alpha 1"
            )
        if self.form == "tokens" and self.alpha:
            return (
                "refusal_loss with `form: tokens` (preset qi2024) did not hold under any attack in the sandbox, and "
                "most RL attacks ended in garbled text"
            )
        return None

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rosati2024": {"alpha": 100.0},
        "qi2024": {"form": "tokens", "alpha": 1.0, "batch_size": 4, "recovery": 0.5},
        "qi2024_convex": {"form": "convex", "alpha": 0.2, "batch_size": 4, "recovery": 0.5},
    }

    def __post_init__(self) -> None:
        if self.form == "convex" and self.alpha > 1:
            raise HoldfastError(f"alpha: with `form: convex` it must be in [0, 1], not {self.alpha}")

    def constrain(self, plan: Plan, context: Context) -> Plan:
        """The plan with refusals of the defense split added to its loss.

        Raises:
            HoldfastError: the defense split has no refusal, or, for `recovery`, no harmful answer.
        """
        if self.alpha == 0:
            return plan
        rows = [row for row in context.splits.harmful["defense"] if row.refusal]
        if not rows:
            raise HoldfastError(
                "refusal_loss: no harmful row of the defense split has a refusal; set `refusal` in the data"
            )
        if self.recovery and not any(row.response for row in rows):
            raise HoldfastError(
                "refusal_loss: recovery begins with harmful answers and no row of the defense split has one; "
                "set `response` in the data, or recovery to 0"
            )
        draw = endless(rows, self.batch_size, seed=context.seed)

        def refusals(step: int) -> Batch:
            sampled, rng = draw(step), random.Random(f"{context.seed} recovery {step}")
            return with_totals([self._batch(plan.model, sampled, rng)])[0]

        objective = language if self.refusal_ce == "plain" else _masked
        both = with_batch(plan, "refusal", refusals)
        if self.form == "additive":
            return add(both, self.alpha, objective, on="refusal")
        return replace(_counted(both), objective=self._mix(plan.objective, objective))

    def _batch(self, model: Model, rows: Sequence[Example], rng: random.Random) -> Batch:
        batch = answer_batch(model, [(row, row.refusal or "") for row in rows], max_length=self.max_length)
        if not self.recovery:
            return batch
        limit = min(self.max_length or 10**9, model.context or 10**9)
        starts = []
        for row, length in zip(rows, batch["lengths"].tolist(), strict=True):
            harmful = model.chat.answer_tokens(final_answer(row.response or "") or "")
            count = prefix_length(len(harmful), rng, probability=self.recovery, most=self.recovery_tokens)
            starts.append(harmful[: min(count, limit - length)])
        leads = [len(model.chat.ids(model.chat.lead(row.refusal or ""))) for row in rows]
        return after(batch, starts, pad_id=model.pad_id, leads=leads)

    def _mix(self, attack: Objective, refusal: Objective) -> Objective:
        """The weighted sum of both losses; the refusals' part is the same in every micro-batch of a step."""

        def mixed(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            share: Tensor | float = self.alpha
            if self.form == "tokens":
                share = token_share(batch["num_tokens"], batch["refusal_tokens"], self.alpha)
            loss, metrics = attack(network, batch)
            loss, other = (1 - share) * loss, part(batch, "refusal")
            if not other:
                return loss, metrics
            term, more = refusal(network, other)
            named = {f"refusal/{key}": value for key, value in more.items()}
            named |= {"refusal/loss": float(term.detach()), "refusal/share": float(share)}
            return loss + share * term, {**metrics, **named}

        return mixed


def prefix_length(tokens: int, rng: random.Random, *, probability: float, most: int = 100) -> int:
    """The number of the harmful answer's `tokens` before a refusal: 0, or uniform in 1..min(`most`, `tokens`)."""
    if rng.random() >= probability or not tokens:
        return 0
    return rng.randint(1, min(most, tokens))


def after(batch: Batch, starts: Sequence[Sequence[int]], *, pad_id: int, leads: Sequence[int] | None = None) -> Batch:
    """The batch with the tokens of `starts` between each row's prompt and its answer; they are not learnt.

    The first `leads` tokens of an answer, which the chat template writes, stay before them.
    """
    rows = []
    for i, start in enumerate(starts):
        length = int(batch["lengths"][i])
        prompt = int(batch["loss_mask"][i].argmax()) + (leads[i] if leads and start else 0)
        tokens = batch["input_ids"][i, :length].tolist()
        rows.append(([*tokens[:prompt], *start], tokens[prompt:]))
    return collate(rows, pad_id=pad_id)


def _counted(plan: Plan) -> Plan:
    """The plan with the number of the step's refusal tokens in each micro-batch."""

    def prepare(inner: Prepare, model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        batches = inner(model, micro_batches, step)
        tokens = batches[0]["refusal/num_tokens"]
        return [{**batch, "refusal_tokens": tokens} for batch in batches]

    return plan.wrapped(prepare)


def _masked(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """RepNoise's cross entropy: token 0 is not a target, and a refusal's first token costs a constant."""
    wanted = targets(batch["input_ids"], batch["loss_mask"], drop_token_zero=True, zero_unmasked_logits=True)
    loss = predicted_loss(chosen_distributions(network, batch, wanted.places), wanted)
    return loss, {"loss": float(loss.detach())}
