"""Sequence classifiers and reward models: load one, and score answers in batches sorted by length.

The format of question and answer is the model's *input format* (`holdfast.network.judge_inputs`). A model trained by
Holdfast has its own in its configuration, so that it is used as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.files import is_folder
from holdfast.files.hub import refuse_revision
from holdfast.network.judge_inputs import Answer, Reading, check_input_format, default_format
from holdfast.network.loading import load_weights, refuse_mismatch, usable_device
from holdfast.records import Completion, HoldfastError, Verdict
from holdfast.text import empty_or_garbled

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm")
INPUT_FORMAT = "holdfast_input_format"
"""The key of the input format in a model's configuration."""


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
        revision: revision of a Hub id.
        device: the device, by default a GPU if there is one.
        input_format: by default the model's own if Holdfast trained it, else its chat template if it has one, else
            `pair`.
        max_length: in tokens, at most what tokenizer and model allow.

    Raises:
        HoldfastError: the model cannot be loaded, is not a trained classifier, has no tokenizer, or cannot distinguish
            question and answer in that format.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(path, revision=revision)
    network, info = load_weights(AutoModelForSequenceClassification, path, unloadable=unloadable, revision=revision)
    refuse_mismatch(f"judge {path}", network, info)
    set_padding(network, tokenizer)
    format_name = input_format or str(getattr(network.config, INPUT_FORMAT, "") or default_format(tokenizer))
    check_input_format(format_name, tokenizer, path, config=network.config)
    where = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Scorer(network.eval().to(where), tokenizer, format_name, longest(network, tokenizer, max_length))


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a classifier, or of a backbone for one, with a padding token.

    Raises:
        HoldfastError: there is none, where `transformers` would create an empty one and read noise, or a folder is
            given a `revision`.
    """
    from transformers import AutoTokenizer

    refuse_revision(path, revision, name=f"judge {path}")
    folder = Path(path)
    if is_folder(folder) and not any(any(folder.glob(name)) for name in VOCABULARIES):
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
    if "trust_remote_code" in str(problem):
        return HoldfastError(f"judge {path}: cannot be loaded without running its own code, which is never run")
    hint = "it must be a folder or Hub id of a sequence classifier with safetensors weights"
    return HoldfastError(f"judge {path}: cannot be loaded ({reason}); {hint}")


def set_padding(network: Any, tokenizer: Any) -> None:
    """Set a model's padding token to its tokenizer's: causal models read the last token before it."""
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id


def longest(network: Any, tokenizer: Any, max_length: int | None) -> int:
    """The longest input in tokens: `max_length`, at most the limit of tokenizer and model."""
    positions = _positions(network) or tokenizer.model_max_length
    return min(max_length or positions, tokenizer.model_max_length, positions)


def _positions(network: Any) -> int | None:
    """The number of positions that a model has embeddings of, if its configuration says.

    RoBERTa and its relatives count from behind the padding's position, so that of 514 positions 512 are for tokens.
    """
    stated: int | None = getattr(network.config, "max_position_embeddings", None)
    if stated is None:
        return None
    tables = (part for name, part in network.named_modules() if name.rpartition(".")[2] == "position_embeddings")
    first = next((p for table in tables if (p := getattr(table, "padding_idx", None)) is not None), None)
    return stated if first is None else stated - first - 1


def encode(answers: Sequence[Answer], tokenizer: Any, *, input_format: str, max_length: int) -> dict[str, Tensor]:
    """The inputs of a classifier, one row per answer, padded to the longest: named tensors (B, S).

    Inputs longer than `max_length` tokens lose the middle of their question; if the answer alone is longer, only its
    first piece is read.
    """
    reading = Reading(tokenizer, input_format, max_length)
    return reading.padded([pieces[0] for pieces in reading.pieces(answers)])


def logits(
    answers: Sequence[Answer],
    scorer: Scorer,
    *,
    batch_size: int,
    of_pieces: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The classifier's logits of each answer, (N, labels), float32 on the CPU, in the given order.

    An answer that is too long for the model is read in pieces; `of_pieces` reduces their rows (P, labels) to one
    (labels,), by default their mean.
    """
    import torch

    reading = Reading(scorer.tokenizer, scorer.input_format, scorer.max_length)
    pieces = [(i, row) for i, rows in enumerate(reading.pieces(answers)) for row in rows]
    by_length = sorted(range(len(pieces)), key=lambda i: len(pieces[i][1]["input_ids"]))
    piece_logits = torch.zeros(len(pieces), scorer.network.config.num_labels)
    with torch.inference_mode():
        for start in range(0, len(pieces), batch_size):
            places = by_length[start : start + batch_size]
            inputs = reading.padded([pieces[i][1] for i in places])
            inputs = {name: value.to(scorer.network.device) for name, value in inputs.items()}
            piece_logits[places] = scorer.network(**inputs).logits.float().cpu()
    if len(pieces) == len(answers):
        return piece_logits
    owners = torch.tensor([i for i, _ in pieces])
    join = of_pieces or (lambda rows: rows.mean(0))
    return torch.stack([join(piece_logits[owners == i]) for i in range(len(answers))])


def verdicts(
    completions: Sequence[Completion], judge: Callable[[Sequence[Answer]], Sequence[Verdict]]
) -> list[Verdict]:
    """A verdict for each completion: invalid for empty or garbled ones, `judge`'s for the others.

    An answer that a prompt got several times is judged once: in batches of unlike widths its scores would differ in
    their last digits, which advantages divided by a standard deviation would turn into a gradient.
    """
    graded = [_invalid(completion.text) for completion in completions]
    answers: dict[tuple[int, str], Answer] = {}
    for completion, verdict in zip(completions, graded, strict=True):
        if verdict is None:
            answers.setdefault(_same(completion), (completion.example, completion.text))
    judged = dict(zip(answers, judge(list(answers.values())), strict=True)) if answers else {}
    pairs = zip(graded, completions, strict=True)
    return [judged[_same(done)] if verdict is None else verdict for verdict, done in pairs]


def _same(completion: Completion) -> tuple[int, str]:
    """What two completions have in common if they are the same answer to the same row."""
    return id(completion.example), completion.text


def _invalid(text: str) -> Verdict | None:
    reason = empty_or_garbled(text)
    return Verdict(score=None, valid=False, reason=reason) if reason else None
