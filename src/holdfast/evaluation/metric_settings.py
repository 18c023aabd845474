"""Settings of metrics beside harm and usefulness: all are off unless asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.methods.ranges import Count, Place, Positive, ranged
from holdfast.records import HoldfastError


@dataclass(frozen=True, kw_only=True)
@ranged
class Perplexity:
    """The model of reference that reads answers.

    `path` is a folder, GGUF file or Hub id (at its `revision`) of a causal language model, `undefended` for the
    attacked model without its defenses, or `base` for the sandbox's base model. With `given: nothing` it reads the
    answer's text alone, after its own start token, as the papers do with GPT-2; with `given: prompt` after the prompt,
    in its own chat format.
    """

    path: Place
    revision: str | None = None
    given: Literal["nothing", "prompt"] = "nothing"


@dataclass(frozen=True, kw_only=True)
@ranged
class Metrics:
    """Metrics that an evaluation may have in addition; their scores are explained in `docs/metrics.md`.

    `perplexity` names a model of reference whose perplexity of the answers is measured. `rouge` names tasks whose
    answers are compared with their rows' responses (ROUGE-1 and length). `distinct` are lengths of word sequences of
    which the distinct share is measured. `worst_of` are numbers k of answers to a prompt of which the worst counts: the
    largest is sampled for each harmful prompt, at `worst_of_temperature`, and serves all. `pairs` measures harm and
    over-refusal on matched pairs, at most `num_prompts`: the sandbox's, or those of `data.pairs`. With `two_lengths`
    answers may be twice as long as `max_new_tokens`, and are judged both cut there and whole.
    """

    perplexity: Perplexity | None = None
    rouge: tuple[str, ...] = ()
    distinct: tuple[Count, ...] = ()
    worst_of: tuple[Count, ...] = ()
    worst_of_temperature: Positive = 1.0
    pairs: bool = False
    two_lengths: bool = False

    def __post_init__(self) -> None:
        for name in ("rouge", "distinct", "worst_of"):
            given = getattr(self, name)
            twice = next((one for one in given if given.count(one) > 1), None)
            if twice is not None:
                raise HoldfastError(f"{name}: names {twice!r} twice; name each once")
