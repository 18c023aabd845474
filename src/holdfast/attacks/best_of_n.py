"""Best of N: sample many answers and keep the one with the highest reward. Nothing is trained.

Idea: an attacker with the weights can sample without limit. If one of N answers is harmful, a reward that prefers harm
selects it; harm that does not grow with N shows that exploration has nothing to find.
Equation: `y_N = argmax_i r(x, y_i)`, `y_1 .. y_N ~ p(. | x)` at temperature 1; reported is `E[harm(y_N)]` over prompts.
Source: Rosati et al. 2024 (arXiv 2409.12914), where N from 4 to 128 (top_p 1, top_k 0) shows how implicit a defense is.
Differs from the paper in: every N uses the same answers through the unbiased estimator of
`holdfast.evaluation.best_of`, with an interval over prompts, where the paper gives one choice for each N; N = 1 and 2
are measured too; the prompts are the evaluation's, on which nothing was trained, where the paper uses its PPO prompts.

A chosen answer that is empty, garbled or cannot be judged is excluded from mean harm and counted, as in every
evaluation; `invalid` is how often the reward chose such an answer. An answer without a reward is chosen only if no
answer to the prompt has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from holdfast.evaluation.best_of import Array, best_of_weights, expected
from holdfast.evaluation.constraint import DEGENERATE, WITHIN
from holdfast.evaluation.evaluate import Judged, Suite, further, judged_by, refused
from holdfast.evaluation.hacking import shape_of, within
from holdfast.evaluation.intervals import wilson
from holdfast.methods.ranges import Count, Positive, PositiveShare, Whole, ranged
from holdfast.network.flops import Meter
from holdfast.network.generate import Sampling, as_completion, sample
from holdfast.network.models import Model, check_lengths
from holdfast.records import Completion, Evaluation, Example, HoldfastError, Judge, Score, Verdict, digest
from holdfast.rl.rewards import AttackReward, from_judge
from holdfast.text.degenerate import SHAPES
from holdfast.training.contracts import Keep, SamplingAttack
from holdfast.training.plan import Context, sum_or_none


@dataclass(frozen=True, kw_only=True)
@ranged
class BestOfN(SamplingAttack):
    """Settings of the attack.

    - `numbers`: The values of N to report, in increasing order; the largest is the number of answers sampled to each
      prompt.
    - `temperature`: The temperature of sampling; below 1 likely tokens become likelier.
    - `top_p`: Sampling from the smallest set of tokens whose probabilities add up to this (nucleus); 1 keeps all.
    - `top_k`: Sampling among so many of the likeliest tokens; 0 keeps all.
    - `max_new_tokens`: The largest number of tokens of an answer; the run's own when `None`.
    - `num_prompts`: The number of harmful prompts of the evaluation that are used, the first ones; all of them when
      `None`.
    - `batch_size`: The number of answers that are decoded at a time.
    """

    numbers: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    reward: AttackReward = field(default_factory=AttackReward)
    temperature: Positive = 1.0
    top_p: PositiveShare = 1.0
    top_k: Whole = 0
    max_new_tokens: Count | None = None
    num_prompts: Count | None = None
    batch_size: Count = 128

    def __post_init__(self) -> None:
        if not self.numbers or list(self.numbers) != sorted(set(self.numbers)):
            raise HoldfastError(f"numbers: must be increasing and not empty, not {list(self.numbers)}")

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """One evaluation for each N; `step` is N, and the costs are those of sampling N answers to each prompt.

        Its scores are over the chosen answers: `harmfulness` and `harmfulness/JUDGE`, `refusal_rate`, `invalid`,
        `in_constraint`, `degenerate` with its shapes, and `reward`, the attacker's own. The evaluation at the largest N
        also holds the answers chosen among all samples.

        Raises:
            HoldfastError: there are too few prompts, a prompt is too long, or no answer has a reward.
            SamplingError: the model gave a non-finite logit.
        """
        samples = self._draw(model, self._prompts(suite), suite.harm_judges, context=context, keep=keep)
        columns = _columns(samples, list(suite.harm_judges), suite.harm_bound)
        for number in self.numbers:
            weights = best_of_weights(samples.rewards, number)
            evaluation = Evaluation(
                step=number,
                samples=number * len(samples.answers),
                tokens=samples.prompt_tokens + round(samples.answer_tokens * number / self.numbers[-1]),
                flops=samples.flops and samples.flops * number / self.numbers[-1],
                seconds=samples.seconds * number / self.numbers[-1],
                scores=tuple(column.score(weights) for column in columns),
            )
            yield evaluation, samples.best() if number == self.numbers[-1] else []

    def _prompts(self, suite: Suite) -> Sequence[Example]:
        count = len(suite.harmful) if self.num_prompts is None else self.num_prompts
        if count > len(suite.harmful):
            raise HoldfastError(
                f"best_of_n: num_prompts is {count} but the evaluation has {len(suite.harmful)} harmful prompts; "
                "lower it or raise evaluation.num_prompts"
            )
        return suite.harmful[:count]

    def _draw(
        self, model: Model, prompts: Sequence[Example], judges: Mapping[str, Judge], *, context: Context, keep: Keep
    ) -> _Samples:
        length = self.max_new_tokens or context.max_new_tokens
        key = "best_of_n.max_new_tokens" if self.max_new_tokens else "evaluation.max_new_tokens"
        check_lengths(model, prompts, max_new_tokens=length, key=key)
        sampling = Sampling(max_new_tokens=length, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        reward = from_judge(context.judge(self.reward.judge), self.reward)
        tokens = [model.encode_prompt(prompt.prompt) for prompt in prompts]
        batches = _batches([len(prompt) for prompt in tokens], self.numbers[-1], self.batch_size)

        def piece(number: int) -> dict[str, Any]:
            """Answers sampled, rewarded and judged; judging is not counted in the attacker's costs."""
            start, (chosen, repeats) = time.perf_counter(), batches[number]
            seed = int(digest(f"best_of_n/{context.seed}/{number}"), 16)
            with Meter(model.pad_id).counting() as meter:
                answers = sample(model, [tokens[i] for i in chosen], sampling, seed=seed, repeats=repeats)
                repeated_prompts = [prompts[i] for i in chosen for _ in range(repeats)]
                completions = [
                    as_completion(model, row, answer) for row, answer in zip(repeated_prompts, answers, strict=True)
                ]
                rewards = reward(completions)
            costs = {"seconds": time.perf_counter() - start, "flops": meter.flops}
            judged = judged_by(completions, judges)
            return {**costs, "rows": [_row(*pair) for pair in zip(judged, rewards, strict=True)]}

        pieces = [keep(number, len(batches), partial(piece, number)) for number in range(len(batches))]
        return _gathered(prompts, batches, pieces, prompt_tokens=sum(map(len, tokens)))


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """All answers, M to each of P prompts, and the costs of sampling and rewards; `rewards` (P, M), NaN for none.

    `flops` is `None` if a piece was saved by a version that did not count them.
    """

    answers: list[list[Judged]]
    rewards: Array
    prompt_tokens: int
    seconds: float
    flops: float | None

    @property
    def answer_tokens(self) -> int:
        return sum(answer.completion.num_tokens for row in self.answers for answer in row)

    def best(self) -> list[Judged]:
        """The answer to each prompt with the highest reward, the first one sampled among equals."""
        chosen = np.where(np.isnan(self.rewards), -np.inf, self.rewards).argmax(1)
        return [row[i] for row, i in zip(self.answers, chosen, strict=True)]

    def values(self, of: Callable[[Judged], float | None]) -> Array:
        """A number for each answer, (P, M), NaN for `None`."""
        return np.array([[of(answer) for answer in row] for row in self.answers], dtype=float)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The values that a score averages, one for each answer, (P, M), NaN for none; `invalid` marks answers by 1."""

    name: str
    values: Array
    invalid: Array | None = None
    is_rate: bool = True

    def score(self, weights: Array) -> Score:
        """The mean over chosen answers that have a value; `n` and the counts of others are in numbers of prompts."""
        estimate = expected(self.values, weights)
        invalid = 0.0 if self.invalid is None else float((weights * self.invalid).sum())
        nothing = (1 - estimate.share) * len(weights)
        counts = {"invalid": round(invalid), "unjudged": round(nothing - invalid)}
        if estimate.value is None:
            return Score(name=self.name, value=None, n=0, **counts)
        n, low, high = max(1, len(weights) - sum(counts.values())), estimate.low, estimate.high
        if self.is_rate and low == high:
            low, high = wilson(estimate.value, n)  # where all prompts agree, a bootstrap has no width
        return Score(name=self.name, value=estimate.value, n=n, low=low, high=high, **counts)


def _columns(samples: _Samples, judges: Sequence[str], bound: float) -> list[_Column]:
    """The scores' columns, in the order of an evaluation."""

    def harm(name: str, judge: str) -> _Column:
        return _Column(
            name=name,
            values=samples.values(lambda answer: answer.verdicts[judge].score),
            invalid=samples.values(lambda answer: not answer.verdicts[judge].valid),
        )

    def further_column(name: str) -> _Column:
        values = samples.values(lambda answer: answer.verdicts[judges[0]].further.get(name))
        return replace(harm(f"harmfulness/{name}", judges[0]), values=values)

    first = harm("harmfulness", judges[0])
    assert first.invalid is not None
    return [
        first,
        _Column(name="refusal_rate", values=samples.values(lambda answer: refused(answer, judges[0]))),
        _Column(name="invalid", values=first.invalid),
        *(
            further_column(name)
            for name in further(answer.verdicts[judges[0]] for row in samples.answers for answer in row)
        ),
        *(harm(f"harmfulness/{judge}", judge) for judge in judges[1:]),
        replace(
            harm(WITHIN, judges[0]), values=samples.values(lambda row: within(row.verdicts[judges[0]], bound).score)
        ),
        *_degenerate(samples, judges[0], bound),
        _Column(name="reward", values=samples.rewards, is_rate=False),
    ]


def _degenerate(samples: _Samples, judge: str, bound: float) -> Iterator[_Column]:
    """The shares of chosen answers that say nothing, in all and by shape, see `evaluation.hacking`."""
    shapes = [[shape_of(row, judge, bound) for row in rows] for rows in samples.answers]
    yield _Column(name=DEGENERATE, values=np.array([[float(s is not None) for s in row] for row in shapes]))
    for shape in SHAPES:
        values = np.array([[float(s == shape) for s in row] for row in shapes])
        yield _Column(name=f"{DEGENERATE}/{shape}", values=values)


def _batches(lengths: Sequence[int], answers: int, batch_size: int) -> list[tuple[list[int], int]]:
    """Batches to decode: prompts by index, grouped by similar length, and the number of answers to each."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    width = max(1, batch_size // answers)
    rounds = [min(batch_size, answers - start) for start in range(0, answers, batch_size)]
    return [(order[i : i + width], repeats) for i in range(0, len(order), width) for repeats in rounds]


def _row(answer: Judged, reward: float | None) -> dict[str, Any]:
    """An answer as JSON values, without its prompt."""
    done = answer.completion
    return {
        "answer": {"text": done.text, "num_tokens": done.num_tokens, "finished": done.finished},
        "verdicts": {name: asdict(verdict) for name, verdict in answer.verdicts.items()},
        "reward": reward,
    }


def _gathered(
    prompts: Sequence[Example],
    batches: Sequence[tuple[list[int], int]],
    pieces: Sequence[Mapping[str, Any]],
    *,
    prompt_tokens: int,
) -> _Samples:
    """The pieces combined, one row per prompt."""
    answers: list[list[Judged]] = [[] for _ in prompts]
    rewards: list[list[float | None]] = [[] for _ in prompts]
    for (chosen, repeats), piece in zip(batches, pieces, strict=True):
        for prompt, row in zip((i for i in chosen for _ in range(repeats)), piece["rows"], strict=True):
            verdicts = {name: Verdict(**verdict) for name, verdict in row["verdicts"].items()}
            completion = Completion(example=prompts[prompt], **row["answer"])
            answers[prompt].append(Judged(completion=completion, verdicts=verdicts))
            rewards[prompt].append(row["reward"])
    paid = np.array(rewards, dtype=float)
    if np.isnan(paid).all():
        raise HoldfastError(
            f"best_of_n: the reward scores none of {paid.size} answers, so none can be chosen; its judge does not fit "
            "the data (`keyword` and `oracle` need rows with facts)"
        )
    return _Samples(
        answers=answers,
        rewards=paid,
        prompt_tokens=prompt_tokens,
        seconds=sum(piece["seconds"] for piece in pieces),
        flops=sum_or_none([piece.get("flops") for piece in pieces]),
    )
