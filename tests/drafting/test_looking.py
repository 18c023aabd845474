"""What is seen of a model and of rows before a grid for them is drafted."""

from holdfast.drafting.looking import look_at_model, schema_of
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
