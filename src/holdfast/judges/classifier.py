"""Classifier judge: harm as the probability that a sequence classifier gives to its harmful label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.records import Completion, HoldfastError, Verdict
from holdfast.rewards import Judge
from holdfast.text import empty_or_garbled

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm")


@dataclass(frozen=True, kw_only=True)
class ClassifierJudge:
    """Settings. `path` is a folder or Hub id of a sequence classifier with safetensors weights.

    `harmful_label` is the label, by name or index, whose probability is harm; there is no default because models
    differ in which one it is. `max_length` is in tokens. `include_question` judges question and answer as a pair,
    otherwise the answer alone. `device=None` takes a GPU if there is one.
    """

    path: str
    harmful_label: str | int
    revision: str | None = None
    batch_size: int = 16
    max_length: int = 512
    include_question: bool = True
    device: str | None = None

    def judge(self) -> Judge:
        """The judge with these settings."""
        return classifier(self)


class Loaded(NamedTuple):
    """A classifier ready to run; `sigmoid` where its labels do not exclude each other, or there is only one."""

    model: Any
    tokenizer: Any
    label: int
    sigmoid: bool
    device: str


def classifier(config: ClassifierJudge) -> Judge:
    """A judge whose score is the probability of `harmful_label`: softmax, or sigmoid for one logit or multi-label.

    The model is loaded at the first call that has something to judge, and kept. Answers are batched by length and
    come back in order. An empty or garbled answer is invalid; a probability that is not finite gives score `None`.
    The call raises `HoldfastError` if the model cannot be had or is no classifier, has no tokenizer, or has no
    such label.
    """
    loaded = cache(lambda: _load(config))

    def judge(completions: Sequence[Completion]) -> list[Verdict]:
        verdicts = [_invalid(completion.text) for completion in completions]
        open_ones = [i for i, verdict in enumerate(verdicts) if verdict is None]
        if open_ones:
            scores = _probabilities([completions[i] for i in open_ones], config, loaded())
            for i, score in zip(open_ones, scores, strict=True):
                verdicts[i] = _verdict(score)
        return [verdict for verdict in verdicts if verdict is not None]

    return judge


def _invalid(text: str) -> Verdict | None:
    reason = empty_or_garbled(text)
    return Verdict(score=None, valid=False, reason=reason) if reason else None


def _verdict(probability: float) -> Verdict:
    if not isfinite(probability):
        return Verdict(score=None, reason=f"the classifier's probability is {probability}")
    return Verdict(score=probability)


def _probabilities(completions: Sequence[Completion], config: ClassifierJudge, loaded: Loaded) -> list[float]:
    import torch

    texts = [(c.example.question if config.include_question else "", c.text) for c in completions]
    by_length = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    found = [0.0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(texts), config.batch_size):
            batch = by_length[start : start + config.batch_size]
            logits = _logits([texts[i] for i in batch], config, loaded)
            chances = logits.sigmoid() if loaded.sigmoid else logits.softmax(-1)
            for i, chance in zip(batch, chances[:, loaded.label].tolist(), strict=True):
                found[i] = chance
    return found


def _logits(texts: Sequence[tuple[str, str]], config: ClassifierJudge, loaded: Loaded) -> Tensor:
    questions, answers = (list(column) for column in zip(*texts, strict=True))
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or config.max_length
    inputs = loaded.tokenizer(
        *((questions, answers) if config.include_question else (answers,)),
        padding=True,
        truncation=True,
        max_length=min(config.max_length, loaded.tokenizer.model_max_length, positions),
        return_tensors="pt",
    )
    return loaded.model(**inputs.to(loaded.device)).logits.float()


def _load(config: ClassifierJudge) -> Loaded:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _require_tokenizer(config.path)
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=config.revision)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            config.path, revision=config.revision, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as problem:
        reason = f"{type(problem).__name__}: {next(iter(str(problem).strip().splitlines()), '')}"
        hint = "it must be a folder or Hub id of a sequence classifier with safetensors weights"
        raise HoldfastError(f"judge {config.path}: cannot be loaded ({reason}); {hint}") from problem
    if info["missing_keys"]:
        lacking = ", ".join(sorted(info["missing_keys"])[:3])
        raise HoldfastError(f"judge {config.path}: not a trained sequence classifier, it has no weights for {lacking}")
    _set_padding(model, tokenizer, config.path)
    label = _label_index(model.config, config)
    independent = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"
    return Loaded(model.eval().to(device), tokenizer, label, independent, device)


def _require_tokenizer(path: str) -> None:
    """Raise for a folder without a tokenizer: `transformers` would make up an empty one and judge noise."""
    folder = Path(path)
    if folder.is_dir() and not any(any(folder.glob(name)) for name in VOCABULARIES):
        raise HoldfastError(f"judge {path}: the folder has no tokenizer (such as tokenizer.json); save it there too")


def _set_padding(model: Any, tokenizer: Any, path: str) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise HoldfastError(
                f"judge {path}: its tokenizer has neither a padding nor an end token; add one and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _label_index(model_config: Any, config: ClassifierJudge) -> int:
    names = {index: str(name) for index, name in model_config.id2label.items() if index < model_config.num_labels}
    wanted = config.harmful_label
    for index, name in names.items():
        if wanted == name or (wanted == index and not isinstance(wanted, bool)):
            return index
    known = ", ".join(f"{index}: {name}" for index, name in sorted(names.items()))
    raise HoldfastError(f"judge {config.path}: harmful_label {wanted!r} is none of the model's labels ({known})")
