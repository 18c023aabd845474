"""A model by folder, GGUF file, Python package or Hugging Face id, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.methods.ranges import Place, Seed, ranged
from holdfast.network.precision import Dtype
from holdfast.network.templates import DATE


@dataclass(frozen=True, kw_only=True)
@ranged
class Series:
    """Models that differ only by the `seed` of their training: a report takes those of one `name` and `key` as one."""

    name: str
    key: str = ""
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model by local folder, GGUF file or Hugging Face id; `package:NAME` is the GGUF file in an installed package.

    `prompt_format` is needed where there is no chat template.

    A chat template receives `chat_template_kwargs`, such as `enable_thinking: false`, and `date` as today's date.
    `dtype` is the type of weights that are not trained, float32 by default. `release` is the type in which a hardened
    model is saved, and from which the next stage or the attack loads it; by default the type of the model's own folder.
    `undefended` names the model that a hardened one was made from, which is attacked as its control; by default the
    model that its folder names, if it is there and unchanged (see `origins`), else the model itself counts as
    undefended. `series` is for reports only and no part of a cell's key: that this model is one of several that were
    trained alike, with different seeds.
    """

    path: Place
    revision: str | None = None
    dtype: Dtype = "auto"
    release: Dtype = "auto"
    prompt_format: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE
    undefended: str | None = None
    series: Series | None = None
