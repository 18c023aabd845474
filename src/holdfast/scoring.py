"""Sequence classifiers and reward models: load one, and put answers to it in batches sorted by length.

How a model reads a question and an answer is its *input format*: `pair` (the tokenizer's two texts), `answer` (the
answer alone), `chat` (the tokenizer's chat template), or a template with the places `{prompt}` and `{response}`. A
model trained by Holdfast keeps its own in its configuration, so that it is judged with as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.loading import load_weights, one_line, refuse_unlike
from holdfast.records import Completion, Example, HoldfastError, Message, Verdict
from holdfast.templates import DATE, apply, control_tokens, spelling
from holdfast.text import empty_or_garbled

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm")
INPUT_FORMAT = "holdfast_input_format"
"""The key of a model's configuration that keeps its input format."""

Answer = tuple[Example, str]


class Scorer(NamedTuple):
    """A sequence classifier ready to run. `max_length` is in tokens, question and answer together."""

    network: Any
    tokenizer: Any
    input_format: str
    max_length: int


def load_scorer(
    path: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    input_format: str | None = None,
    max_length: int | None = None,
) -> Scorer:
    """A sequence classifier from a folder or Hub id with safetensors weights; no remote code is run.

    Args:
        path: the folder or Hub id.
        revision: of a Hub id.
        device: where to; a GPU if there is one unless given.
        input_format: how it reads; its own if it was trained here, else `pair`, unless given.
        max_length: in tokens, at most what tokenizer and model allow.

    Raises:
        HoldfastError: the model cannot be had, is no trained classifier, or has no tokenizer.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(path, revision=revision)
    network, info = load_weights(AutoModelForSequenceClassification, path, unloadable=unloadable, revision=revision)
    refuse_unlike(f"judge {path}", network, info)
    set_padding(network, tokenizer)
    found = input_format or str(getattr(network.config, INPUT_FORMAT, "pair"))
    check_input_format(found, tokenizer, path)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Scorer(network.eval().to(where), tokenizer, found, longest(network, tokenizer, max_length))


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a classifier, or of what is to become one, with a padding token.

    Raises:
        HoldfastError: there is none; `transformers` would make up an empty one and read noise.
    """
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any(any(folder.glob(name)) for name in VOCABULARIES):
        raise HoldfastError(f"judge {path}: the folder has no tokenizer (such as tokenizer.json); save it there too")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        raise unloadable(path, problem) from problem
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise HoldfastError(
                f"judge {path}: its tokenizer has neither a padding nor an end token; add one and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def unloadable(path: str, problem: Exception) -> HoldfastError:
    """The error of a model that cannot be loaded, on one line."""
    reason = f"{type(problem).__name__}: {next(iter(str(problem).strip().splitlines()), '')}"
    hint = "it must be a folder or Hub id of a sequence classifier with safetensors weights"
    return HoldfastError(f"judge {path}: cannot be loaded ({reason}); {hint}")


def set_padding(network: Any, tokenizer: Any) -> None:
    """Tell a model its tokenizer's padding token: causal ones read the last token before it."""
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id


def longest(network: Any, tokenizer: Any, max_length: int | None) -> int:
    """The longest input in tokens: what is asked for, at most what the tokenizer and the model allow."""
    positions = getattr(network.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return min(max_length or positions, tokenizer.model_max_length, positions)


def check_input_format(input_format: str, tokenizer: Any, path: str) -> None:
    """Refuse an input format that is none, or that the tokenizer cannot serve."""
    if input_format == "chat" and not getattr(tokenizer, "chat_template", None):
        raise HoldfastError(
            f"judge {path}: its tokenizer has no chat template; set input_format to `pair` or to a template such as "
            r"'Question: {prompt}\nAnswer: {response}'"
        )
    if input_format not in ("pair", "answer", "chat") and "{response}" not in input_format:
        raise HoldfastError(
            f"input_format {input_format!r} is none of `pair`, `answer`, `chat`, and no template: write {{response}} "
            "in it, and {prompt} where the question goes"
        )


def encode(answers: Sequence[Answer], tokenizer: Any, *, input_format: str, max_length: int) -> dict[str, Tensor]:
    """What a classifier reads, padded to the longest and cut at `max_length` tokens: named tensors (B, S).

    A control token that somebody wrote into a question or an answer is read as text, a blank after its first character.
    """
    options = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    told = _as_plain(tokenizer)
    answers = [
        (replace(example, prompt=tuple(Message(role, told(said)) for role, said in example.prompt)), told(text))
        for example, text in answers
    ]
    if input_format == "pair":
        questions, texts = [example.question for example, _ in answers], [text for _, text in answers]
        return dict(tokenizer(questions, texts, **options))
    texts = [_as_text(example, text, tokenizer, input_format) for example, text in answers]
    return dict(tokenizer(texts, add_special_tokens=input_format != "chat", **options))


def _as_plain(tokenizer: Any) -> Callable[[str], str]:
    """What breaks up a control token of the tokenizer wherever a text holds one."""
    tokens = control_tokens(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))
    written = spelling(tokenizer, tokens)

    def told(text: str) -> str:
        while written.search(text):  # what is left of one may be another
            text = written.sub(lambda found: f"{found[0][0]} {found[0][1:]}" if len(found[0]) > 1 else " ", text)
        return text

    return told


def _as_text(example: Example, answer: str, tokenizer: Any, input_format: str) -> str:
    if input_format == "answer":
        return answer
    if input_format == "chat":
        turns = [*example.prompt, Message("assistant", answer)]
        try:
            return str(apply(tokenizer, turns, {"tokenize": False}, date=DATE))
        except Exception as error:
            raise HoldfastError(
                f"{example.source or 'a row'}: the judge's chat template refuses it ({one_line(error)}); "
                "change the row, or set another input_format"
            ) from error
    before, _, after = input_format.partition("{response}")
    return before.replace("{prompt}", example.question) + answer + after.replace("{prompt}", example.question)


def logits(answers: Sequence[Answer], scorer: Scorer, *, batch_size: int) -> Tensor:
    """What the classifier says of each answer, (N, labels), float32 on the CPU, in the order given."""
    import torch

    by_length = sorted(range(len(answers)), key=lambda i: len(answers[i][0].question) + len(answers[i][1]))
    found = torch.zeros(len(answers), scorer.network.config.num_labels)
    with torch.inference_mode():
        for start in range(0, len(answers), batch_size):
            places = by_length[start : start + batch_size]
            inputs = encode(
                [answers[i] for i in places],
                scorer.tokenizer,
                input_format=scorer.input_format,
                max_length=scorer.max_length,
            )
            inputs = {name: value.to(scorer.network.device) for name, value in inputs.items()}
            found[places] = scorer.network(**inputs).logits.float().cpu()
    return found


def verdicts(
    completions: Sequence[Completion], judge: Callable[[Sequence[Answer]], Sequence[Verdict]]
) -> list[Verdict]:
    """A verdict for each completion: invalid for empty or garbled ones, what `judge` says of the others."""
    found = [_invalid(completion.text) for completion in completions]
    open_ones = [i for i, verdict in enumerate(found) if verdict is None]
    if open_ones:
        judged = judge([(completions[i].example, completions[i].text) for i in open_ones])
        for i, verdict in zip(open_ones, judged, strict=True):
            found[i] = verdict
    return [verdict for verdict in found if verdict is not None]


def _invalid(text: str) -> Verdict | None:
    reason = empty_or_garbled(text)
    return Verdict(score=None, valid=False, reason=reason) if reason else None
