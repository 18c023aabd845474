"""What a method can reach of an architecture is looked at before the first cell starts, not when its own turn comes."""

import json
import re

import pytest
import torch

import tiny
from holdfast.config import parse_grid
from holdfast.experiment import beforehand, run
from holdfast.experiment.grid import cells
from holdfast.network.models import Model
from holdfast.network.reach import check_lens, check_outputs, survey
from holdfast.network.releasing import save
from holdfast.records import HoldfastError
from holdfast.sandbox import grammar
from holdfast.sandbox.build import tokenizer

SHORT = {"num_prompts": 4, "max_new_tokens": 8, "harm_judges": ["refusal"], "help_judge": "reference"}
DROPOUT = {"adapter": {"lora_dropout": 0.1}}
RIGHT = {"adapter": {"lora_dropout": 0.0}}
TARGETS = {"adapter": {"target_modules": ["c_attn"]}}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Folders of tiny models by architecture, and the `data` of a grid."""
    place, words, data = tmp_path_factory.mktemp("shelf"), tokenizer(), {}
    for role, families in (("harmful", grammar.RESTRICTED), ("benign", grammar.BENIGN)):
        rows = [
            {"prompt": row.question, "response": row.response, "refusal": row.refusal, "role": role}
            for row in grammar.examples("attack", families, 40, seed=0)
        ]
        (place / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data[role] = {"path": str(place / f"{role}.jsonl")}

    def folder(name):
        if not (place / name).exists():
            save(Model(network=tiny.network(name, vocab_size=len(words)), tokenizer=words, name=name), place / name)
        return str(place / name)

    return folder, data


@pytest.fixture
def grid(shelf):
    folder, data = shelf

    def build(*architectures, defenses=("none",), attacks=({"sft": {}},)):
        models = [{"path": folder(name)} for name in architectures]
        grid_values = {
            "models": models,
            "defenses": list(defenses),
            "attacks": list(attacks),
            "seeds": [0],
            "data": data,
        }
        return parse_grid({**grid_values, "evaluation": SHORT, "control": False}, "test")

    return build


def problems(grid):
    try:
        beforehand.refuse_unready(cells(grid))
    except beforehand.Problems as error:
        return list(error.lines)
    return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "method", "says"),
    [
        ("mamba", "repnoise", "MambaForCausalLM: no MLP in layer 0 found"),
        ("mamba", "rmu", "no tensor of layer 1 has a name that ends in any of"),
        ("llama4_text", "repnoise", r"Llama4ForCausalLM: Llama4TextMoe returns \(16, 32\) for 2 texts of 8 tokens"),
        ("mixtral", "circuit_breakers", "lora_dropout is 0.05, .*; set adapter.lora_dropout to 0"),
        ("mixtral", "vaccine_alignment", "lora_dropout is 0.1, .*; set adapter.lora_dropout to 0"),
        ("mixtral", {"circuit_breakers": TARGETS}, r"this model has no target_modules \(c_attn\); it has"),
    ],
)
def test_a_defense_that_cannot_reach_an_architecture_is_refused_by_key_and_model(grid, architecture, method, says):
    lines = problems(grid("gpt_neox", architecture, defenses=["none", method]))
    name = method if isinstance(method, str) else next(iter(method))
    (line,) = (line for line in lines if f"/{architecture}: " in line)
    assert line.startswith(f"defenses.{name}: ")
    assert re.search(says, line), line


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_next"])
def test_an_attack_by_an_adapter_that_cannot_sit_there_is_refused_by_key_and_model(grid, architecture):
    (line,) = problems(grid(architecture, attacks=[{"sft": DROPOUT}, {"dpo": RIGHT}]))
    assert line.startswith("attacks.sft: ")
    assert f"/{architecture}: lora_dropout is 0.1" in line


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_next", "gpt_oss"])
def test_what_reaches_a_mixture_is_let_through(grid, architecture):
    adapted = [{name: RIGHT} for name in ("circuit_breakers", "vaccine_alignment")]
    assert problems(grid(architecture, defenses=[*adapted, "rmu", "repnoise", "vaccine"])) == []


@pytest.mark.slow
def test_nothing_runs_where_the_second_model_of_a_grid_is_out_of_reach(grid, tmp_path):
    with pytest.raises(HoldfastError, match=r"^defenses\.repnoise: .*/mamba: MambaForCausalLM: no MLP in layer 0"):
        run(grid("mixtral", "mamba", defenses=["repnoise"]), tmp_path / "run", workers=0)
    assert [path for path in (tmp_path / "run").glob("*/*") if path.parent.name != "status"] == []


@pytest.mark.slow
def test_vaccine_is_refused_where_its_plan_is_made_and_not_at_its_first_step(monkeypatch, grid):
    monkeypatch.setattr("holdfast.network.anatomy.MIXERS", ("nowhere",))
    lines = problems(grid("mixtral", defenses=["vaccine", {"vaccine_alignment": RIGHT}]))
    assert [line.partition(":")[0] for line in lines] == ["defenses.vaccine", "defenses.vaccine_alignment"]
    assert all("no layer has an attention (looked for nowhere)" in line for line in lines)


def test_a_network_without_weights_is_told_by_what_one_of_its_configuration_showed():
    bare = tiny.network("llama4_text", num_hidden_layers=3)
    empty = tiny.network("llama4_text", num_hidden_layers=3).to("meta")
    assert survey(empty) is None
    check_outputs(empty, list(empty.model.layers))
    with torch.no_grad():
        assert survey(bare) == survey(empty)
    check_lens(empty)
    with pytest.raises(HoldfastError, match="Llama4TextMoe returns"):
        check_outputs(empty, [layer.feed_forward for layer in empty.model.layers])
