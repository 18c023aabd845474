"""The model that perplexity is measured with."""

import copy

import pytest

from holdfast.config import parse_grid
from holdfast.evaluation.perplexity import readings
from holdfast.experiment.grid import cells
from holdfast.experiment.unchanged import refuse_changed
from holdfast.experiment.world import reference_of
from holdfast.network.releasing import save
from holdfast.records import Completion, Example, HoldfastError, user

ANSWER = Completion(example=Example(prompt=user("how ?")), text="fold the moss", num_tokens=4)


def cell_of(evaluation):
    return cells(parse_grid({"name": "g", "models": ["sandbox"], "attacks": ["sft"], "evaluation": evaluation}, "g"))[0]


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model without a chat template, as GPT-2 is."""
    model = tiny_model("gpt2", small=True)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = None
    for part in (model.network, tokenizer):
        part.save_pretrained(tmp_path / "gpt")
    return tmp_path / "gpt"


def test_a_model_without_a_chat_template_reads_texts_alone_and_is_known_by_its_content(folder):
    metrics = {"metrics": {"perplexity": {"path": str(folder)}}}
    cell = cell_of(metrics)
    (read,) = readings(reference_of(cell)(), [ANSWER], given="nothing")
    assert read.tokens == 3
    refuse_changed(cell, model=False)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert cell_of(metrics).key != cell.key
    with pytest.raises(HoldfastError, match="has changed since this run began"):
        refuse_changed(cell, model=False)


def test_a_cell_that_asks_for_no_metric_has_the_key_that_it_had():
    plain, named = cell_of({}), cell_of({"metrics": {"worst_of": [], "pairs": False}})
    assert named.key == plain.key
    assert "metrics" not in plain.evaluation
    assert reference_of(plain) is None


def test_the_base_model_is_the_one_of_the_run(folder, tiny_model, tmp_path):
    cell = cell_of({"metrics": {"perplexity": {"path": "base", "given": "prompt"}}})
    with pytest.raises(HoldfastError, match="known only in the sandbox"):
        reference_of(cell)()
    save(tiny_model(small=True), tmp_path / "base")
    reference = reference_of(cell, {"base": tmp_path / "base"})
    assert reference() is reference()
    assert readings(reference(), [ANSWER], given="prompt")[0].tokens == 3
