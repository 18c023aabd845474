"""A golden case as tests see it: its values and tensors, its model, its rows, its tolerances."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from holdfast.network.models import Model
from holdfast.records import Example, user
from holdfast.tensors import with_totals
from holdfast.training.plan import Plan

FOLDER = Path(os.environ.get("HOLDFAST_GOLDEN") or Path(__file__).parents[1] / "golden")


class Case(NamedTuple):
    """A case file with its tensors, and the name of one of its results."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    result: str

    @property
    def expected(self) -> dict[str, float]:
        return self.values["results"][self.result]

    def tolerance(self, kind: str) -> float:
        """The number after `kind rtol` in the file's own words, "float32: rtol 1e-5, grads rtol 1e-4"."""
        match = re.search(rf"{kind}:? rtol ([0-9.e-]+)", self.values["suggested_tolerance"])
        assert match, self.values["suggested_tolerance"]
        return float(match[1])


Check = Callable[[Case], None]
"""Puts one result of a case to Holdfast and compares."""


def tiny_llama(case: Case, prefix: str = "policy.") -> Model:
    """The case's model, its weights those under `prefix`; its tokenizer's words are tokens' numbers in brackets."""
    config = AutoConfig.from_pretrained(FOLDER / "tiny_llama")
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.load_state_dict(of(case, prefix))
    words = Tokenizer(WordLevel({word(i): i for i in range(config.vocab_size)}, unk_token=word(0)))
    words.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=word(0), eos_token=word(config.eos_token_id))
    return Model(network=network, tokenizer=fast, prompt_format="{prompt}")


def shared_llama(**options: Any) -> Any:
    """The model that several cases begin with, loaded with these options; a network of its own at each call."""
    return copy.deepcopy(_shared_llama(**options))


@cache
def _shared_llama(**options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER / "tiny_llama", dtype=torch.float32, **options)


def eager_llama() -> torch.nn.Module:
    """The same in training mode, with the attention that several files were made with."""
    network: torch.nn.Module = shared_llama(attn_implementation="eager")
    return network.train()


def word(token: int) -> str:
    """A token as text; brackets, since a special token is found inside longer words too."""
    return f"<{token}>"


def examples(case: Case, side: str) -> list[Example]:
    """The rows of `SIDE_ids` as examples: what `SIDE_labels` leaves out is the prompt, the rest the answer."""
    rows = []
    for ids, labels in zip(case.tensors[f"{side}_ids"], case.tensors[f"{side}_labels"], strict=True):
        prompt, answer = (" ".join(map(word, ids[kept].tolist())) for kept in (labels == -100, labels != -100))
        rows.append(Example(prompt=user(prompt), response=answer, refusal=answer, role="harmful"))
    return rows


def of(case: Case, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in case.tensors.items() if name.startswith(prefix)}


def first_step(plan: Plan) -> tuple[float, dict[str, float]]:
    """The whole loss and the metrics of a plan's first step over all of its rows; leaves gradients."""
    batch = with_totals(plan.batches([plan.data], 0))[0]
    total, metrics = plan.backward(plan.objective, plan.model.network, batch, Tensor.backward)
    return float(total), metrics
