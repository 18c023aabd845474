"""What a judge is trained from: a pretrained model with a fresh head, or the sandbox's small network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from holdfast.judge_training.settings import SANDBOX, Classifier, RewardModel
from holdfast.network import scoring
from holdfast.network.gguf import model_folder
from holdfast.network.loading import load_weights, refuse_mismatch
from holdfast.network.models import Model
from holdfast.records import Example, HoldfastError
from holdfast.sandbox.build import Sandbox, untrained


def backbone(settings: RewardModel | Classifier) -> Model:
    """A sequence classifier with a fresh head, in float32: the sandbox's small network, or any pretrained model.

    Raises:
        HoldfastError: the model cannot be had, or its tokenizer cannot serve the input format.
    """
    from transformers import AutoModelForSequenceClassification

    labels: dict[str, Any] = {
        "num_labels": len(settings.labels),
        "id2label": dict(enumerate(settings.labels)),
        "label2id": {label: i for i, label in enumerate(settings.labels)},
    }
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        if settings.backbone == SANDBOX:
            model = untrained(Sandbox(seed=settings.seed))
            config = copy.deepcopy(model.network.config)
            config.update(labels)
            tokenizer, network = model.tokenizer, AutoModelForSequenceClassification.from_config(config)
        else:
            place = model_folder(settings.backbone)
            tokenizer = scoring.load_tokenizer(place, revision=settings.revision)
            network = _pretrained(settings, place, labels)
    scoring.check_input_format(settings.input_format, tokenizer, settings.backbone, config=network.config)
    scoring.set_padding(network, tokenizer)
    setattr(network.config, scoring.INPUT_FORMAT, settings.input_format)
    tokenizer.model_max_length = scoring.longest(network, tokenizer, settings.max_length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Model(network=network.to(device), tokenizer=tokenizer, prompt_format="{prompt}", name=settings.backbone)


def _pretrained(settings: RewardModel | Classifier, place: str, labels: dict[str, Any]) -> Any:
    from transformers import AutoModelForSequenceClassification

    network, info = load_weights(
        AutoModelForSequenceClassification,
        place,
        unloadable=scoring.unloadable,
        revision=settings.revision,
        dtype=torch.float32,
        **labels,
    )
    # The head is new, and that of whatever the backbone was before goes; the rest must be its own.
    below = f"{network.base_model_prefix}."
    spare = [key for key in info["unexpected_keys"] if not key.startswith(below)]
    heads = {key for key, *_ in info["mismatched_keys"] if not key.startswith(below)}
    kept = {**info, "mismatched_keys": {row for row in info["mismatched_keys"] if row[0] not in heads}}
    refuse_mismatch(settings.backbone, network, kept, made=lambda key: not key.startswith(below), spare=spare)
    return network


def refuse_foreign_words(settings: RewardModel | Classifier, model: Model, rows: Sequence[Example]) -> None:
    """The sandbox's network reads the sandbox's words only: anything else would be noise to it."""
    if settings.backbone != SANDBOX:
        return
    known = model.tokenizer.get_vocab()
    for row in rows:
        answers = (row.response, row.chosen, row.rejected)
        words = " ".join(text for text in (row.question, *answers) if text).split()
        strange = next((word for word in words if word not in known), None)
        if strange is not None:
            raise HoldfastError(
                f"{row.source}: the backbone `sandbox` knows the invented language only, not {strange!r}; name a "
                "pretrained model by folder or id"
            )
