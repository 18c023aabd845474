"""Sample a rollout's answers from an expert and a learner: by whole answers, by token, or by prefix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.losses.interpolation import blend
from holdfast.network.forward import answer_logprobs
from holdfast.network.generate import Answer, Reader, Sampling, decode, evaluating, invert, sample
from holdfast.network.models import Model
from holdfast.network.precision import exact
from holdfast.rl.experience import hash_seed
from holdfast.rl.guidance.expert import LoadedExpert
from holdfast.rl.rollouts import RolloutRequest
from holdfast.tensors import Batch, target_mask


class Group(NamedTuple):
    """The answers to one prompt: first the learner's own, `num_own` of them; the first `unlearnt` tokens of each are
    the expert's."""

    answers: list[Answer]
    num_own: int
    unlearnt: int = 0


def by_sequence(
    expert: LoadedExpert, model: Model, request: RolloutRequest, *, alpha: float, coins: bool
) -> tuple[list[Group], int]:
    """Groups of which the expert wrote a share `1 - alpha` of the answers, and the number of tokens that are read twice
    for it.

    The learner, the expert and the choice between them have separate streams of random numbers.
    """
    size, prompts = request.group_size, request.prompts
    taken = _quotas(len(prompts), size, alpha=alpha, coins=coins, seed=hash_seed(f"{request.seed}/quota"))
    mine = [i for i, count in enumerate(taken) if count < size]
    others = [i for i, count in enumerate(taken) if count]
    by_learner: list[Answer] = []
    if mine:
        counts = [size - taken[i] for i in mine]
        by_learner = sample(model, [prompts[i] for i in mine], request.sampling, seed=request.seed, repeats=counts)
    by_expert = expert_answers(
        expert,
        model,
        [prompts[i] for i in others],
        sampling=request.sampling,
        seed=expert_seed(request),
        counts=[taken[i] for i in others],
    )
    left, right = iter(by_learner), iter(by_expert)
    groups = [
        Group([*(next(left) for _ in range(size - count)), *(next(right) for _ in range(count))], size - count)
        for count in taken
    ]
    twice = 0 if expert.answer is not None else sum(len(prompts[i]) for i in set(mine) & set(others))
    return groups, twice


def by_token(expert: LoadedExpert, model: Model, request: RolloutRequest, *, alpha: float) -> tuple[list[Group], int]:
    """Groups of answers with every token sampled from the mixture, and the number of tokens that the expert read.

    Answers have the learner's log-probabilities if these are exact (32-bit weights).
    """
    size, prompts = request.group_size, request.prompts
    width = request.sampling.max_new_tokens
    uniform = torch.rand(len(prompts) * size, width, generator=torch.Generator().manual_seed(request.seed))
    with evaluating(model.network), expert.reading(model) as other, evaluating(other.network):
        theirs = Reader(other, prompts, [size] * len(prompts), room=width)
    with evaluating(model.network):
        own = Reader(model, prompts, [size] * len(prompts), room=width)
        mixture = _Mixture(own, theirs, lambda: expert.reading(model), alpha, expert.temperature)
        answers = decode(model, mixture, request.sampling, uniform.to(model.device), logprobs=exact(model.network))
    groups = [Group(answers[i : i + size], size) for i in range(0, len(answers), size)]
    return groups, sum(map(len, prompts)) + sum(len(answer.tokens) for answer in answers)


def by_prefix(expert: LoadedExpert, model: Model, request: RolloutRequest, *, alpha: float) -> tuple[list[Group], int]:
    """Groups that continue the expert's beginning, and the number of tokens that the expert read.

    The beginning is `round((1 - alpha) max_new_tokens)` tokens of one answer of the expert, at most `max_new_tokens -
    1`, without the end token, which is the learner's decision.
    """
    size, prompts, width = request.group_size, request.prompts, request.sampling.max_new_tokens
    length = min(round((1 - alpha) * width), width - 1)
    begun = [Answer([], finished=False) for _ in prompts]
    if length:
        short = replace(request.sampling, max_new_tokens=length)
        ones = [1] * len(prompts)
        begun = expert_answers(expert, model, prompts, sampling=short, seed=expert_seed(request), counts=ones)
    heads = [answer.tokens[: -1 if answer.finished else None] for answer in begun]
    answers = sample(
        model,
        [[*prompt, *head] for prompt, head in zip(prompts, heads, strict=True)],
        replace(request.sampling, max_new_tokens=width - length),
        seed=request.seed,
        repeats=size,
        logprobs=request.logprobs,
    )
    groups = []
    for i, head in enumerate(heads):
        answers_of_prompt = [part._replace(tokens=[*head, *part.tokens]) for part in answers[i * size : (i + 1) * size]]
        groups.append(Group(answers_of_prompt, size, len(head)))
    return groups, sum(map(len, prompts)) if length and expert.answer is None else 0


def expert_seed(request: RolloutRequest) -> int:
    """The seed of the expert's samples."""
    return hash_seed(f"{request.seed}/expert")


def expert_answers(
    expert: LoadedExpert,
    learner: Model,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int,
    counts: Sequence[int],
) -> list[Answer]:
    """The expert's answers, `counts` for each prompt, consecutive."""
    if not prompts:
        return []
    if expert.answer is not None:
        tokens = list(expert.answer[: sampling.max_new_tokens])
        return [Answer(tokens, finished=len(tokens) == len(expert.answer)) for _ in range(sum(counts))]
    sampling = replace(sampling, temperature=expert.temperature or sampling.temperature)
    with expert.reading(learner) as model:
        return sample(model, prompts, sampling, seed=seed, repeats=counts)


def expert_logprobs(
    expert: LoadedExpert, learner: Model, batch: Batch, *, temperature: float, max_new_tokens: int
) -> Tensor:
    """Log-probability under the expert of each answer token, float32, (N, T); minus infinity if impossible.

    For canned text: 0 while an answer agrees with the text, minus infinity from the first different token.
    """
    if expert.answer is not None:
        return _as_written(expert.answer[:max_new_tokens], batch)
    with expert.reading(learner) as model, evaluating(model.network):
        return answer_logprobs(model.network, batch, temperature=expert.temperature or temperature)


def _as_written(answer: tuple[int, ...], batch: Batch) -> Tensor:
    mask = target_mask(batch["loss_mask"])
    places = (mask.cumsum(1) - 1).long().clamp(min=0)
    # An extra token, which no answer has, represents everything after the text.
    text = torch.tensor([*answer, -1], device=mask.device)
    differs = (batch["input_ids"][:, 1:] != text[places.clamp(max=len(answer))]) & (mask > 0)
    return torch.zeros_like(mask).masked_fill((differs.cumsum(1) > 0) & (mask > 0), -torch.inf)


def _quotas(prompts: int, size: int, *, alpha: float, coins: bool, seed: int) -> list[int]:
    """The number of the expert's answers in each group; `(1 - alpha) size` on average."""
    generator = torch.Generator().manual_seed(seed)
    if coins:
        thrown = torch.rand(prompts, size, generator=generator, dtype=torch.float64)
        return (thrown < 1 - alpha).sum(1).tolist()
    wanted = (1 - alpha) * size
    least = math.floor(wanted)
    more = torch.rand(prompts, generator=generator, dtype=torch.float64) < wanted - least
    return (least + more.long()).tolist()


class _Mixture:
    """Two readings of the same texts, whose distributions are mixed before a token is sampled."""

    def __init__(
        self,
        learner: Reader,
        expert: Reader,
        reading: Callable[[], AbstractContextManager[Model]],
        alpha: float,
        temperature: float | None,
    ) -> None:
        self.learner, self.expert, self.reading = learner, expert, reading
        self.alpha, self.temperature = alpha, temperature

    @property
    def logits(self) -> Tensor:
        """The learner's, (N, V)."""
        return self.learner.logits

    def draw(self, uniform: Tensor, sampling: Sampling) -> Tensor:
        """One token per row from `(1 - alpha) e + alpha pi`, (N,)."""
        own = (self.learner.logits.float() / sampling.temperature).softmax(-1)
        theirs = (self.expert.logits.float() / (self.temperature or sampling.temperature)).softmax(-1)
        return invert(blend(theirs, own, self.alpha), uniform)

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per row in both, (N,)."""
        self.learner.advance(tokens)
        with self.reading() as model, evaluating(model.network):
            self.expert.advance(tokens)

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.learner.keep(rows)
        self.expert.keep(rows)
