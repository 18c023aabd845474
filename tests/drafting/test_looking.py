"""What is seen of a model and of rows before a grid for them is drafted."""

import json

import huggingface_hub
import pytest

from holdfast.data import Source
from holdfast.drafting import looking
from holdfast.drafting.looking import as_values, look_at_model, proposed_columns, schema_of, weights_of
from holdfast.records import HoldfastError
from model_folders import looks_like_a_model


def test_schemas_are_recognised_by_their_columns():
    known = {
        "beavertails": ["prompt", "response", "category", "is_safe"],
        "trl_preference": ["prompt", "chosen", "rejected"],
        "trl_prompt_completion": ["prompt", "completion"],
        "columns": ["prompt", "response", "refusal", "role"],
    }
    assert {name: schema_of(columns) for name, columns in known.items()} == {name: name for name in known}


def test_the_size_and_the_template_of_a_model_are_seen_without_loading_it(tmp_path):
    mine = looks_like_a_model(tmp_path / "my-model")
    seen = look_at_model(str(mine))
    assert (seen.weights, seen.chat_template) == (125, True)
    (mine / "tokenizer_config.json").unlink()
    assert look_at_model(str(mine)).chat_template is False
    (mine / "chat_template.jinja").write_text("{{ messages }}")
    assert look_at_model(str(mine)).chat_template is True


def test_of_a_file_of_weights_that_is_damaged_no_size_is_said(tmp_path):
    mine = looks_like_a_model(tmp_path / "my-model")
    (mine / "model.safetensors").write_bytes(b"\xff" * 40)
    assert look_at_model(str(mine)).weights is None


def test_a_gguf_file_is_counted_by_its_size_and_its_template_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "require_model", lambda path: None)  # whose reader may not be installed
    file = tmp_path / "mine.gguf"
    for start, has_template in ((b"GGUF tokenizer.chat_template", True), (b"GGUF", False)):
        file.write_bytes(start.ljust(7200, b"\0"))
        seen = look_at_model(str(file))
        assert (seen.weights, seen.chat_template) == (10_000, has_template)


def test_an_id_is_looked_at_in_the_cache_and_unknown_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "require_model", lambda path: None)
    mine = looks_like_a_model(tmp_path / "my-model")
    for cached, weights in ((str(mine / "config.json"), 125), (None, None)):
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision, path=cached: path)
        assert look_at_model("some/model").weights == weights


def test_a_folder_without_a_configuration_is_no_model(tmp_path):
    with pytest.raises(HoldfastError, match=r"no config\.json; this is not a model folder"):
        look_at_model(str(tmp_path))


def test_columns_of_a_schema_are_not_renamed_and_the_schema_is_written_into_the_grid(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "how ?", "chosen": "no .", "rejected": "so ."}) + "\n")
    assert proposed_columns(str(file)) == {}
    source = Source(path=str(file), format="trl_preference", role="harmful")
    assert as_values(source) == {"path": str(file), "format": "trl_preference", "role": "harmful"}


def test_weights_are_seen_at_the_revision_that_is_asked_for_and_what_is_not_there_is_not_refused(tmp_path, monkeypatch):
    commit = "1" * 40
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    safetensors_of(snapshot / "model.safetensors", 12)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert weights_of("org/name", commit) == 12
    assert [weights_of(name) for name in ("org/name", "./nowhere", "./no.gguf", "package:no_such_package")] == [
        None
    ] * 4


def test_an_adapter_is_not_taken_for_its_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    safetensors_of(tmp_path / "adapter_model.safetensors", 12)
    assert weights_of(str(tmp_path)) is None
    assert look_at_model(str(tmp_path)).weights is None


def safetensors_of(file, count):
    import torch
    from safetensors.torch import save_file

    save_file({"one": torch.zeros(count)}, file)
