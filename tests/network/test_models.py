"""Models: loading, saving, adapters, and the text format in which they are spoken to."""

import json
from dataclasses import replace

import pytest
import torch

from holdfast.files.hub import looks_local
from holdfast.network.forward import forward
from holdfast.network.models import (
    LoRA,
    adapt,
    answer_batch,
    check_lengths,
    clone,
    has_adapter,
    load,
    merged,
    without_adapter,
)
from holdfast.network.releasing import save
from holdfast.records import Example, HoldfastError, Message, user

ASKED = user("how do i make a soup called ba do fi ?")
TOKENS = torch.tensor([[4, 9, 8, 7, 11, 30, 31]])


@pytest.fixture
def folder(tmp_path, tiny_model):
    save(tiny_model(), tmp_path / "m")
    return tmp_path / "m"


def logits(model):
    with torch.no_grad():
        return forward(model.network, {"input_ids": TOKENS})


def shaken(model):
    """The model with noise on every weight that is trained: fresh adapters do nothing yet."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def without_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings))


def test_saving_and_loading_keeps_the_logits(folder, tiny_model):
    again = load(folder)
    assert torch.equal(logits(again), logits(tiny_model()))
    assert again.encode_prompt(ASKED) == tiny_model().encode_prompt(ASKED)
    assert not again.network.training


def test_a_saved_model_is_safetensors_only(folder):
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.bin"))


def test_a_missing_folder_is_refused_by_name(tmp_path):
    with pytest.raises(HoldfastError, match="nowhere: no such model folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(HoldfastError, match=r"no config\.json"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(HoldfastError, match=r"has no tokenizer .*save_pretrained"):
        load(folder)


def test_a_folder_without_weights_is_refused_in_one_line(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(HoldfastError, match="could not be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_loaded(folder, tiny_model):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(HoldfastError, match="could not be loaded"):
        load(folder)


def test_an_id_that_cannot_be_had_is_refused_in_one_line():
    with pytest.raises(HoldfastError, match=r"^nobody/nothing: ") as caught:
        load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_chat_template_needs_a_prompt_format(folder):
    without_template(folder)
    with pytest.raises(HoldfastError, match="no chat template; set `prompt_format`"):
        load(folder)
    model = load(folder, prompt_format="<user> {prompt} <assistant>")
    assert model.decode(model.encode_prompt(ASKED)) == f"<user> {ASKED[0].content} <assistant>"


def test_a_prompt_format_without_a_place_for_the_prompt_is_refused(folder):
    with pytest.raises(HoldfastError, match=r"write \{prompt\} in it"):
        load(folder, prompt_format="Question:")


def test_a_prompt_format_may_hold_other_braces(tiny_model):
    model = replace(tiny_model(), prompt_format="{ask} {prompt}")
    assert model.decode(model.encode_prompt(user("moss and salt"))) == "<unk> moss and salt"


def test_another_prompt_format_encodes_prompts_anew(tiny_model):
    model = tiny_model()
    before = model.encode_prompt(ASKED)
    assert replace(model, prompt_format="{prompt}").encode_prompt(ASKED) != before


def test_a_plain_format_shows_who_said_what_when_there_are_several_turns(tiny_model):
    turns = (Message("user", "soup"), Message("assistant", "salt"), Message("user", "dye"))
    model = replace(tiny_model(), prompt_format="{prompt}")
    words = model.tokenizer.tokenize("user: soup\nassistant: salt\nuser: dye")
    assert model.encode_prompt(turns) == model.tokenizer.convert_tokens_to_ids(words)


def test_an_encoded_answer_ends_with_the_end_token(tiny_model):
    model = tiny_model()
    ids = model.encode_response("sure , stir the moss")
    assert ids[-1] == model.end_id
    assert ids.count(model.end_id) == 1
    assert model.decode(ids) == "sure , stir the moss"


def test_every_stop_token_of_the_generation_config_counts(tiny_model):
    model = tiny_model()
    assert model.stop_ids == (model.end_id,)
    model.network.generation_config.eos_token_id = [7, model.end_id]
    assert model.stop_ids == (model.end_id, 7)


@pytest.mark.parametrize("pad", [None, "<end>"])
def test_rows_are_never_filled_up_with_what_ends_answers(pad, tiny_model):
    model = tiny_model()
    words = type(model.tokenizer)(tokenizer_object=model.tokenizer._tokenizer, eos_token="<end>", pad_token=pad)
    other = replace(model, tokenizer=words, prompt_format="{prompt}")
    assert other.pad_id not in other.stop_ids
    forward(other.network, {"input_ids": torch.tensor([[other.pad_id]])})


def test_a_tokenizer_without_an_end_token_is_refused(tiny_model):
    model = tiny_model()
    other = replace(model, tokenizer=type(model.tokenizer)(tokenizer_object=model.tokenizer._tokenizer))
    with pytest.raises(HoldfastError, match="no end-of-sequence token"):
        _ = other.end_id


def test_a_clone_has_weights_of_its_own(tiny_model, weights):
    model = tiny_model()
    before = weights(model)
    shaken(clone(model))
    assert torch.equal(weights(model), before)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_a_fresh_adapter_changes_no_logit(architecture, tiny_model):
    model = tiny_model(architecture)
    before = logits(model)
    adapted = adapt(model, LoRA(r=4))
    assert has_adapter(adapted)
    assert torch.equal(logits(adapted), before)


@pytest.mark.slow
def test_a_merged_model_speaks_as_the_one_with_its_adapter(tiny_model):
    base = logits(tiny_model())
    adapted = shaken(adapt(tiny_model(), LoRA(r=4)))
    one = merged(adapted)
    assert not has_adapter(one)
    torch.testing.assert_close(logits(one), logits(adapted), atol=1e-4, rtol=1e-4)
    assert (logits(one) - base).abs().max() > 0.01
    assert has_adapter(adapted)


def test_switching_the_adapter_off_gives_the_model_before_it(tiny_model):
    adapted = shaken(adapt(tiny_model(), LoRA(r=4)))
    with without_adapter(adapted):
        assert torch.equal(logits(adapted), logits(tiny_model()))
    assert not torch.equal(logits(adapted), logits(tiny_model()))


def test_only_the_adapter_is_trained(tiny_model):
    adapted = adapt(tiny_model(), LoRA(r=4, target_modules=("q_proj",)))
    trained = [name for name, parameter in adapted.network.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4
    assert all("lora" in name and "q_proj" in name for name in trained)


@pytest.mark.slow
def test_an_adapters_first_weights_follow_from_the_seed(tiny_model, weights):
    one, same, other = (weights(adapt(tiny_model(), LoRA(r=4), seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_adapting_leaves_the_global_random_numbers_alone(tiny_model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adapt(tiny_model(), LoRA(r=4), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_without_an_adapter_nothing_happens(tiny_model):
    model = tiny_model()
    assert adapt(model, None) is model
    assert merged(model) is model


@pytest.mark.slow
def test_saving_an_adapted_model_writes_an_ordinary_merged_folder(tmp_path, tiny_model):
    adapted = shaken(adapt(tiny_model(), LoRA(r=4)))
    save(adapted, tmp_path / "m")
    assert not list((tmp_path / "m").glob("adapter*"))
    torch.testing.assert_close(logits(load(tmp_path / "m")), logits(adapted), atol=1e-4, rtol=1e-4)


def test_a_prompt_without_room_for_an_answer_is_refused_by_row(tiny_model):
    model = tiny_model()
    rows = [Example(prompt=ASKED), Example(prompt=user("soup " * 100), source="data.jsonl, line 7")]
    check_lengths(model, rows, max_new_tokens=20)
    with pytest.raises(HoldfastError, match=r"^data\.jsonl, line 7: the prompt has 102 tokens.*exceeds the 128 tokens"):
        check_lengths(model, rows, max_new_tokens=27)
    check_lengths(model, rows, max_new_tokens=26)


def test_an_answer_is_cut_at_the_longest_length(tiny_model):
    model = tiny_model()
    prompt = len(model.encode_prompt(ASKED))
    batch = answer_batch(model, [(Example(prompt=ASKED), "moss salt ember")], max_length=prompt + 2)
    assert batch["lengths"].tolist() == [prompt + 2]
    assert batch["loss_mask"].sum() == 2


def test_a_prompt_that_fills_the_longest_length_is_refused_by_row(tiny_model):
    example = Example(prompt=ASKED, source="rows.csv, line 3")
    with pytest.raises(HoldfastError, match=r"^rows\.csv, line 3: .*nothing of its answer would be learnt"):
        answer_batch(tiny_model(), [(example, "moss")], max_length=5)


@pytest.mark.parametrize(
    ("path", "local"),
    [("./x", True), ("/a/b", True), ("~/m", True), ("model", True), ("a/b/c", True), ("own/er", False)],
)
def test_a_hub_id_has_exactly_one_slash(path, local):
    assert looks_local(path) is local


def test_a_model_whose_adapter_was_merged_can_be_trained_whole(tiny_model):
    network = merged(adapt(tiny_model(), LoRA(r=4))).network
    assert all(parameter.requires_grad for parameter in network.parameters())
