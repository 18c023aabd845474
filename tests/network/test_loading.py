"""Folders as people have them: whatever is missing, surplus, renamed or coded is refused by name, in one line."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
)

from holdfast.judges.classifier import ClassifierJudge
from holdfast.network.forward import forward
from holdfast.network.loading import refuse_encoder
from holdfast.network.models import LoRA, adapt, load, merged
from holdfast.network.releasing import save
from holdfast.records import Completion, Example, HoldfastError, user
from holdfast.rl.guidance.expert import Expert, load_expert

TOKENS = {"input_ids": torch.tensor([[4, 9, 8, 7, 11, 30, 31]])}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model):
    """One saved folder an architecture, never written to."""
    made = {}

    def folder(architecture="llama"):
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(architecture) / "m"
            save(tiny_model(architecture), made[architecture])
        return made[architecture]

    return folder


@pytest.fixture
def copied(folders, tmp_path):
    """`copied(architecture, **settings)`: a copy of the folder with other settings in its config.json."""

    def copy(architecture="llama", **settings):
        target = tmp_path / "copy"
        shutil.copytree(folders(architecture), target)
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**config, **settings}))
        return target

    return copy


def refused(folder, match):
    with pytest.raises(HoldfastError, match=match) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def rename(folder, change):
    file = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_what_was_saved_is_loaded_whole(architecture, folders, tiny_model):
    again, model = load(folders(architecture)), tiny_model(architecture)
    with torch.no_grad():
        assert torch.equal(forward(again.network, TOKENS), forward(model.network, TOKENS))


def test_layers_that_the_file_does_not_have_are_not_made_up(copied):
    refused(copied(num_hidden_layers=3), r"the files have no model\.layers\.2\.input_layernorm\.weight, .* and 6 more")


def test_layers_that_the_configuration_does_not_have_are_not_dropped(copied):
    refused(copied(num_hidden_layers=1), r"model\.layers\.1\.input_layernorm\.weight.* would be ignored")


def test_tensors_of_another_shape_are_refused_by_name(copied):
    refused(
        copied(intermediate_size=300),
        r"model\.layers\.0\.mlp\.down_proj\.weight is \[128, 256\] instead of \[128, 300\]",
    )


def test_renamed_tensors_are_refused(copied):
    folder = copied()
    rename(folder, lambda name: name.replace("q_proj", "query"))
    refused(folder, r"have no model\.layers\.0\.self_attn\.q_proj\.weight.* and .*query\.weight.* would be ignored")


def test_weights_that_an_index_takes_from_outside_the_folder_are_not_loaded(folders, copied):
    folder = copied()
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    names = list(load_file(weights))
    weights.unlink()
    for file, match in (
        (f"../{folder.name}/m.safetensors", "no file name in this folder"),
        (str(folders() / "model.safetensors"), "no file name in this folder"),
        (7, "no file name in this folder"),
        ("gone.safetensors", "there is no such file"),
    ):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
        refused(folder, match)
    index.write_text("{")
    refused(folder, r"model\.safetensors\.index\.json cannot be read \(.+\); save the model again")
    for content in ({}, {"weight_map": {}}, {"weight_map": names}):
        index.write_text(json.dumps(content))
        refused(folder, "no `weight_map`")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "shard.safetensors")}))
    shutil.copy(folders() / "model.safetensors", folder / "shard.safetensors")
    load(folder)


def test_a_head_that_is_not_there_is_not_made_up(copied):
    refused(copied("gemma", tie_word_embeddings=False), r"the files have no lm_head\.weight")


def test_a_head_of_its_own_is_kept_where_the_configuration_says_it_is_tied(copied, tiny_model):
    again = load(copied(tie_word_embeddings=True))
    assert torch.equal(again.network.lm_head.weight, tiny_model().network.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_a_classifier_is_no_language_model(architecture, copied, tiny_model):
    folder, model = copied(architecture), tiny_model(architecture)
    AutoModelForSequenceClassification.from_config(model.network.config).save_pretrained(folder)
    refused(folder, r"score\.weight would be ignored")


def test_an_encoder_is_refused(tmp_path, tiny_model):
    config = BertConfig(
        vocab_size=140, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tiny_model().tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "BertLMHeadModel is an encoder")


def test_half_of_an_encoder_and_decoder_is_refused(tmp_path, tiny_model):
    config = BartConfig(
        vocab_size=140,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_model().tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "not those of a BartForCausalLM")


def test_weights_quantised_by_an_unknown_method_are_not_read_as_numbers(copied):
    refused(copied(quantization_config={"quant_method": "nonsense", "bits": 4}), r"are quantised \(nonsense\)")


def test_a_quantised_folder_whose_library_is_not_there_is_refused(copied):
    refused(copied(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}), "could not be loaded")


def test_an_adapter_beside_weights_is_not_loaded_over_them_in_silence(copied):
    folder = copied()
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "holds an adapter")


def test_a_judge_whose_layers_are_missing_is_refused(copied, tiny_model):
    folder = copied()
    config = tiny_model().network.config
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    judge = ClassifierJudge(path=str(folder), harmful_label=0).judge()
    answer = Completion(example=Example(prompt=user("soup ?")), text="moss", num_tokens=1)
    assert judge([answer])[0].score is not None
    changed = json.loads((folder / "config.json").read_text())
    for layers, match in ((3, "have no model.layers.2"), (1, "would be ignored")):
        (folder / "config.json").write_text(json.dumps({**changed, "num_hidden_layers": layers}))
        with pytest.raises(HoldfastError, match=match):
            ClassifierJudge(path=str(folder), harmful_label=0).judge()([answer])


@pytest.mark.slow
def test_an_adapter_without_some_of_its_tensors_is_no_expert(tmp_path, tiny_model, make_context):
    model, file = tiny_model(), tmp_path / "adapter_model.safetensors"
    adapt(model, LoRA(r=2)).network.save_pretrained(tmp_path)
    expert = Expert(kind="adapter", name=str(tmp_path))
    assert load_expert(expert, tiny_model(), make_context()).model is not None
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1." not in name}, file, {"format": "pt"})
    with pytest.raises(HoldfastError, match=r"do not match its adapter_config\.json"):
        load_expert(expert, tiny_model(), make_context())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("part", ["lm_head", "embed_tokens"])
def test_an_adapter_on_a_tied_head_is_refused(part, tiny_model):
    with pytest.raises(HoldfastError, match=f"{part} shares its weights with another module"):
        adapt(tiny_model("gemma"), LoRA(r=2, target_modules=(part,)))


@pytest.mark.parametrize("part", ["lm_head", "embed_tokens"])
def test_an_adapter_on_a_head_of_its_own_speaks_merged_as_adapted(part, tiny_model):
    adapted = adapt(tiny_model(), LoRA(r=2, target_modules=(part,)))
    with torch.no_grad():
        for parameter in adapted.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        one, other = (forward(model.network, TOKENS) for model in (adapted, merged(adapted)))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one, forward(tiny_model().network, TOKENS), atol=1e-2)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_experts_adapter_on_a_tied_head_is_refused(tmp_path, tiny_model, make_context):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")
    get_peft_model(tiny_model("gemma").network, config).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(HoldfastError, match="lm_head shares its weights"):
        load_expert(Expert(kind="adapter", name=str(tmp_path)), replace(tiny_model("gemma"), name="g"), make_context())


def test_a_forward_pass_that_fails_is_told_on_one_line(tiny_model, monkeypatch):
    network = tiny_model(small=True).network

    def broken(*_, **__):
        raise RuntimeError("sizes of\ntensors")

    monkeypatch.setattr(network, "forward", broken)
    with pytest.raises(HoldfastError, match=r"^mine: a forward pass over four tokens failed: .*sizes of tensors"):
        refuse_encoder("mine", network)
