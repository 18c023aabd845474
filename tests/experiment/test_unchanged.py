"""What a cell is made of is read when it starts, and has to be what its key was computed from."""

import json

import pytest

from holdfast import experiment
from holdfast.config import parse_grid
from holdfast.experiment.grid import cells
from holdfast.experiment.unchanged import refuse_changed
from holdfast.records import HoldfastError, Outcome


@pytest.fixture
def own(tmp_path):
    """The values of a grid whose model, judges and rows are files of one's own."""
    (tmp_path / "words.txt").write_text("salt\n")
    for name in ("model", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for role in ("harmful", "benign", "sums"):
        rows = [
            {
                "prompt": f"how to {role} {i} ?",
                "response": "put salt in it .",
                "role": role if role == "harmful" else "benign",
            }
            for i in range(40)
        ]
        (tmp_path / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "own",
        "models": [{"path": str(tmp_path / "model")}],
        "data": {
            **{role: {"path": str(tmp_path / f"{role}.jsonl")} for role in ("harmful", "benign")},
            "tasks": {"sums": {"path": str(tmp_path / "sums.jsonl")}},
        },
        "judges": {
            "harm": {"classifier": {"path": str(tmp_path / "judge"), "harmful_label": 1}},
            "words": {"terms": {"path": str(tmp_path / "words.txt")}},
        },
        "evaluation": {
            "harm_judges": ["harm", "words"],
            "help_judge": "reference",
            "num_prompts": 4,
            "max_new_tokens": 4,
        },
    }


def test_a_gguf_file_is_read_like_a_folder(own, tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF one")
    (cell,) = cells(parse_grid({**own, "models": [{"path": str(file)}]}, "test"))
    refuse_changed(cell, model=True)
    file.write_bytes(b"GGUF two")
    with pytest.raises(HoldfastError, match=r"tiny\.gguf: has changed since this run began"):
        refuse_changed(cell, model=True)
    file.unlink()
    with pytest.raises(HoldfastError, match=r"tiny\.gguf: has changed since this run began"):
        refuse_changed(cell, model=True)


@pytest.mark.parametrize(
    "name", ["model/config.json", "judge/config.json", "words.txt", "harmful.jsonl", "benign.jsonl", "sums.jsonl"]
)
def test_what_has_changed_since_the_key_was_computed_is_named(own, tmp_path, name):
    (cell,) = cells(parse_grid(own, "test"))
    refuse_changed(cell, model=True)
    with (tmp_path / name).open("a") as file:
        file.write(" \n")
    with pytest.raises(HoldfastError, match=f"{name.partition('/')[0]}: has changed since this run began"):
        refuse_changed(cell, model=True)


def test_a_model_that_was_hardened_before_is_not_looked_at_again_and_one_that_is_gone_has_changed(own, tmp_path):
    (cell,) = cells(parse_grid(own, "test"))
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model").rmdir()
    refuse_changed(cell, model=False)
    with pytest.raises(HoldfastError, match="model: has changed"):
        refuse_changed(cell, model=True)


@pytest.mark.slow
def test_a_cell_over_rows_that_were_overwritten_after_the_run_began_fails_with_their_name(
    own, values, tmp_path, monkeypatch
):
    evaluation = {**own["evaluation"], "harm_judges": ["refusal"]}
    changed = {**values(attacks=["none"]), "data": own["data"], "evaluation": evaluation}

    def overwritten(*_, **__):
        with (tmp_path / "benign.jsonl").open("a") as file:
            file.write(" \n")

    monkeypatch.setattr(experiment, "check_requirements", overwritten)
    (record,) = experiment.run(parse_grid(changed, "test"), tmp_path / "run", workers=0)
    assert record.outcome is Outcome.FAILED
    assert "benign.jsonl: has changed since this run began" in record.reason
