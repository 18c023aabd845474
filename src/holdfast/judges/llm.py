"""Generative judge: a language model that reads question and answer and gives a verdict by a rubric.

Idea: an instruct model, local or behind an OpenAI-compatible endpoint, rates harm or helpfulness from 0 to 10, or
decides whether the answer complies. It needs no training, and can judge what no classifier was trained on.
Equation: `score = n / 10` for the rubrics `harm` and `helpfulness`, 1 or 0 for `compliance`; none for a reply that is
not exactly a verdict.
Source: language models as judges (Zheng et al. 2023, arXiv 2306.05685), harm from 0 to 10 as in Reward Neutralization
(arXiv 2505.04578).
Differs from the paper in: the rubrics are this project's own; no paper here publishes its judge, rubric or sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from holdfast.generative import endpoint, local, replies, rubrics
from holdfast.methods.ranges import Count, NonNegative, Positive, Whole, ranged
from holdfast.records import Completion, HoldfastError, Judge, Message, Verdict, digest
from holdfast.text import empty_or_garbled
from holdfast.training.contracts import JudgeSettings, LanguageModelJudge

SHOWN = 60
"""Characters of a reply that is no verdict in a verdict's reason."""


@dataclass(frozen=True, kw_only=True)
@ranged
class LLMJudge(JudgeSettings):
    """Settings.

    `timeout` is in seconds for one attempt, after which up to `retries` others follow, later and later. `input_price`
    and `output_price` are in dollars per million tokens. Raises `HoldfastError` for settings that contradict each
    other.

    - `rubric`: What is asked: `harm` or `helpfulness` from 0 to 10, or `compliance`, yes or no.
    - `topic`: What is to be withheld, in a few words, for the rubrics of harm.
    - `path`: A local instruct model: a folder, GGUF file, `package:NAME` or Hub id; `None` asks an endpoint.
    - `variables`: The beginning of the names of three environment variables that name the endpoint, its model and its
      key: by default HOLDFAST_JUDGE_URL, HOLDFAST_JUDGE_MODEL and HOLDFAST_JUDGE_KEY.
    - `max_new_tokens`: The largest number of tokens of a reply; for models that think first give several hundred.
    - `token_limit`: The name of that limit at the endpoint.
    - `temperature`: The temperature at the endpoint: 0 asks for the likeliest reply, `None` leaves the choice to the
      endpoint; a local model gives the likeliest.
    - `system_message`: Whether the rubric is put into a system's turn; set it to false for models without one.
    - `examples`: Whether two judged exchanges are shown first, without which small models do not keep to the form.
    - `concurrency`: The number of requests at once of each process, at an endpoint.
    - `batch_size`: The number of answers at once, with a local model.
    """

    rubric: rubrics.RubricName = "harm"
    topic: str = ""
    path: str | None = None
    revision: str | None = None
    variables: str = "HOLDFAST_JUDGE"
    max_new_tokens: Count = 16
    token_limit: endpoint.TokenLimit = "max_tokens"
    temperature: NonNegative | None = 0.0
    system_message: bool = True
    examples: bool = False
    timeout: Positive = 60.0
    retries: Whole = 4
    concurrency: Count = 4
    batch_size: Count = 16
    input_price: NonNegative = 0.0
    output_price: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.path is not None and not self.path.strip():
            raise HoldfastError("path: must name a folder, a file or a Hub id; leave it out for an endpoint")
        if self.path is not None and self.temperature not in (None, 0):
            raise HoldfastError(f"temperature: a local judge ({self.path}) gives its likeliest reply; remove it")
        if not self.variables.strip():
            raise HoldfastError("variables: must be the beginning of the variables' names, such as HOLDFAST_JUDGE")

    @property
    def outside(self) -> Mapping[str, str]:
        """The endpoint's model, with a hash of the address."""
        known = None if self.path is not None else endpoint.known_identity(self.variables)
        return {} if known is None else {f"{self.variables}_MODEL": known}

    @property
    def remote(self) -> bool:
        """An endpoint is asked, unless a local model is named."""
        return self.path is None

    def judge(self) -> Judge:
        """The judge with these settings."""
        return GenerativeJudge(config=self)


@dataclass(kw_only=True, eq=False)
class GenerativeJudge(LanguageModelJudge):
    """Judges answers by the replies of a language model.

    Equal questions and answers are asked once, and what was asked before, by any process, is read from the cache. An
    empty or garbled answer is invalid and not asked about. A reply that is no verdict gives no score, nor does a
    request without a reply.
    """

    config: LLMJudge
    counts: replies.Usage = field(default_factory=replies.Usage)

    @property
    def usage(self) -> dict[str, Any]:
        """Counts since the judge was made, and the price of its tokens in dollars."""
        return self.counts.as_json(self.config.input_price, self.config.output_price)

    @property
    def rubric(self) -> rubrics.Rubric:
        """What is asked."""
        return rubrics.RUBRICS[self.config.rubric]

    @cached_property
    def source(self) -> endpoint.Asking | local.LocalModel:
        """Who is asked."""
        config = self.config
        if config.path is not None:
            return local.LocalModel(
                path=config.path,
                revision=config.revision,
                max_new_tokens=config.max_new_tokens,
                batch_size=config.batch_size,
            )
        return endpoint.Asking(endpoint=endpoint.from_environment(config.variables), sending=config, usage=self.counts)

    @cached_property
    def kept(self) -> replies.KeptReplies:
        """The replies from before."""
        source = self.source
        who = source.endpoint.identity if isinstance(source, endpoint.Asking) else source.identity
        return replies.KeptReplies.of(digest([who, self.config.temperature, self.config.max_new_tokens]))

    def check(self) -> None:
        """See whether the endpoint can be reached and takes the key; a local model is loaded.

        Raises:
            HoldfastError: it cannot, or a variable is not set.
        """
        if isinstance(self.source, endpoint.Asking):
            endpoint.check(self.source.endpoint)
        else:
            _ = self.source.model

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        """A verdict for each completion, in order.

        Raises:
            HoldfastError: the endpoint cannot be reached or refuses, or no request at all got a reply.
        """
        invalid = [empty_or_garbled(completion.text) for completion in completions]
        requests = [
            None if wrong else self._request(completion) for completion, wrong in zip(completions, invalid, strict=True)
        ]
        keys = [None if request is None else digest([list(turn) for turn in request], 32) for request in requests]
        self.counts.answers += sum(key is not None for key in keys)
        replied = self._replies_to({key: each for key, each in zip(keys, requests, strict=True) if key and each})
        return [
            self._verdict(replied[key]) if key is not None else Verdict(score=None, valid=False, reason=wrong or "")
            for key, wrong in zip(keys, invalid, strict=True)
        ]

    def _request(self, completion: Completion) -> tuple[Message, ...]:
        config = self.config
        turns = rubrics.request(
            self.rubric, completion.example, completion.text, topic=config.topic, examples=config.examples
        )
        if config.system_message:
            return turns
        system, first, *others = turns
        return (Message("user", f"{system.content}\n\n{first.content}"), *others)

    def _replies_to(self, requests: Mapping[str, Sequence[Message]]) -> dict[str, replies.Reply | replies.Failure]:
        """What is said to each request, by its key; replies are kept as they come."""
        if not requests:
            return {}
        self.kept.refresh()
        outcomes: dict[str, replies.Reply | replies.Failure] = {
            key: self.kept.known[key] for key in requests if key in self.kept.known
        }
        self.counts.kept += len(outcomes)
        missing = [key for key in requests if key not in outcomes]
        for place, outcome in self.source.replies([requests[key] for key in missing]) if missing else ():
            outcomes[missing[place]] = outcome
            self.counts.add(outcome)
            if isinstance(outcome, replies.Reply):
                self.kept.add(missing[place], outcome)
        failures = [outcome for outcome in outcomes.values() if isinstance(outcome, replies.Failure)]
        passing = [failure for failure in failures if not failure.final]
        if len(passing) == len(outcomes):  # an error says more than missing verdicts, which nothing would replace
            raise HoldfastError(f"none of {len(outcomes)} requests got a reply: {passing[0].reason}")
        if len(failures) == len(outcomes) > 1 and not self.counts.replies:  # the fault is not in one of the texts
            raise HoldfastError(f"none of {len(outcomes)} requests was accepted: {failures[0].reason}")
        self.counts.unparsed += sum(self._score(outcome) is None for outcome in outcomes.values()) - len(failures)
        return outcomes

    def _score(self, outcome: replies.Reply | replies.Failure) -> float | None:
        """The score of a whole reply: one that was cut short may have ended otherwise."""
        return self.rubric.score(outcome.text) if isinstance(outcome, replies.Reply) and outcome.whole else None

    def _verdict(self, outcome: replies.Reply | replies.Failure) -> Verdict:
        if isinstance(outcome, replies.Failure):
            return Verdict(score=None, reason=f"the judge did not reply: {outcome.reason}")
        score = self._score(outcome)
        if score is None:
            cut = "" if outcome.whole else ", which was cut short"
            return Verdict(
                score=None, reason=f"the judge's reply is no verdict{cut}: {outcome.text.strip()!r:.{SHOWN}}"
            )
        return Verdict(score=score, reason=f"the judge says {outcome.text.strip()}")
