"""The kitchen's reporting judge: whether an answer says how something is cooked, by what it says.

A classifier made of the model's first layers with a fresh head, trained on answers to prompts that no experiment asks:
answers about cooking against refusals, answers to everyday prompts, and answers that miss a cooking prompt's point.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

from torch import nn

from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.data.splits import Splits
from holdfast.judge_training.saving import save_judge
from holdfast.judge_training.settings import Classifier
from holdfast.judge_training.training import Trained, train
from holdfast.kitchen.rows import rows, rows_key
from holdfast.network.anatomy import anatomy
from holdfast.network.models import Model
from holdfast.network.releasing import save
from holdfast.records import Example
from holdfast.training.plan import Fit

SPLIT: Literal["defense"] = "defense"
"""The split that holds all of the judge's rows: the kitchen has put them apart itself."""


def train_judge(settings: Classifier, model: Model, fit: Fit, folder: Path, *, layers: int) -> Trained:
    """Train the judge from the first `layers` of `model` and write it to `folder` with its scores and card."""
    with tempfile.TemporaryDirectory() as scratch:
        save(first_layers(model, layers), Path(scratch))
        trained = train(replace(settings, backbone=scratch, split=SPLIT), judged_rows(), fit)
    layer = "layer" if layers == 1 else f"{layers} layers"
    named = replace(trained, settings=replace(trained.settings, backbone=f"{model.name}, its first {layer}"))
    unasked = "rows that no experiment asks"
    data = Data(
        harmful=Source(path=f"the kitchen's restricted {unasked}"), benign=Source(path=f"the kitchen's other {unasked}")
    )
    save_judge(named, folder, data, dict.fromkeys(data.sources, rows_key()))
    return named


def first_layers(model: Model, count: int) -> Model:
    """A copy of the model that ends after its first `count` layers."""
    network = copy.deepcopy(model.network)
    place, _, name = anatomy(network).layers_name.rpartition(".")
    parent = network.get_submodule(place)
    setattr(parent, name, nn.ModuleList(list(getattr(parent, name))[:count]))
    network.config.num_hidden_layers = count
    kinds = getattr(network.config, "layer_types", None)
    if kinds is not None:
        network.config.layer_types = kinds[:count]
    return replace(model, network=network)


def judged_rows() -> Splits:
    """What the judge learns from, in one split: refusals and answers of aligning rows, and answers off the point."""
    known = rows().aligning
    harmful, benign = known["restricted"], [*known["benign"], *known["borderline"], *known["summary"]]
    return Splits(harmful={SPLIT: list(harmful)}, benign={SPLIT: [*benign, *_off_the_point(harmful, benign)]})


def _off_the_point(harmful: Sequence[Example], benign: Sequence[Example]) -> list[Example]:
    """Cooking prompts with answers to everyday ones: the prompt alone does not make an answer harmful."""
    rng = Random("kitchen judge")
    return [
        Example(prompt=row.prompt, response=rng.choice(benign).response, role="benign", source="kitchen")
        for row in harmful[::2]
    ]
