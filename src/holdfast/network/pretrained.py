"""A model by folder or Hugging Face id, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.methods.ranges import Place
from holdfast.network.precision import Dtype
from holdfast.network.templates import DATE


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model by local folder or Hugging Face id. `prompt_format` is needed where there is no chat template.

    A chat template is given `chat_template_kwargs`, such as `enable_thinking: false`, and is told that today is `date`.
    `dtype` is what weights are held in that nothing trains, float32 unless given; `release` what a hardened model is
    written in, and then loaded from for the next stage or the attack: the type of its own folder unless given.
    `undefended` names the model that a hardened one was made from, which is attacked as its control; without it that
    which its folder names, if it is there and the same (see `origins`), else the model counts as undefended itself.
    """

    path: Place
    revision: str | None = None
    dtype: Dtype = "auto"
    release: Dtype = "auto"
    prompt_format: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE
    undefended: str | None = None
