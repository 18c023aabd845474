"""The initial model of a judge: a pretrained model with a new head, or the sandbox's small network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from holdfast.judge_training.recipes import SANDBOX, Classifier, RewardModel
from holdfast.network import scoring
from holdfast.network.gguf import model_folder
from holdfast.network.loading import load_weights, refuse_mismatch
from holdfast.network.models import Model
from holdfast.records import Example, HoldfastError
from holdfast.sandbox.build import Sandbox, untrained


def backbone(settings: RewardModel | Classifier) -> Model:
    """A sequence classifier with a new head, in float32: the sandbox's small network, or any pretrained model.

    Raises:
        HoldfastError: the model cannot be loaded, or its tokenizer does not fit the input format.
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
    # The head is new and the backbone's old one is dropped; all other tensors must match.
    below = f"{network.base_model_prefix}."
    spare = [key for key in info["unexpected_keys"] if not key.startswith(below)]
    heads = {key for key, *_ in info["mismatched_keys"] if not key.startswith(below)}
    kept = {**info, "mismatched_keys": {row for row in info["mismatched_keys"] if row[0] not in heads}}
    refuse_mismatch(settings.backbone, network, kept, made=lambda key: not key.startswith(below), spare=spare)
    return network


def refuse_foreign_words(settings: RewardModel | Classifier, model: Model, rows: Sequence[Example]) -> None:
    """Refuse rows with other words than the sandbox's for the sandbox's network, which cannot read them."""
    if settings.backbone != SANDBOX:
        return
    known = model.tokenizer.get_vocab()
    for row in rows:
        answers = (row.response, row.chosen, row.rejected)
        words = " ".join(text for text in (row.question, *answers) if text).split()
        strange = next((word for word in words if word not in known), None)
        if strange is not None:
            raise HoldfastError(
                f"{row.source}: the backbone `sandbox` only knows the invented language, not {strange!r}; name a "
                "pretrained model by folder or id"
            )
