"""What cells need is looked at before the first of them starts, and looking changes nothing."""

import copy
import json
import random
from dataclasses import replace

import pytest
import torch

from chosen_cells import first_with_each_part
from holdfast.config import load_grid, presets
from holdfast.experiment import beforehand, run
from holdfast.experiment.cell_settings import settings_of
from holdfast.experiment.grid import cells
from holdfast.network.releasing import save
from holdfast.records import HoldfastError, digest
from holdfast.sandbox import grammar

SHORT = {"num_prompts": 4, "max_new_tokens": 8, "harm_judges": ["refusal"], "help_judge": "reference"}
REFUSED = "no harmful row of the defense split has a refusal"


@pytest.fixture
def rows(tmp_path):
    """Writes harmful and benign rows, some columns left out, and returns the `data` of a grid over them."""

    def write(*, without=()):
        data = {}
        for role, families in (("harmful", grammar.RESTRICTED), ("benign", grammar.BENIGN)):
            examples = [
                {"prompt": row.question, "response": row.response, "refusal": row.refusal, "role": role}
                for row in grammar.examples("attack", families, 40, seed=0)
            ]
            file = tmp_path / f"{role}.jsonl"
            kept = [{key: value for key, value in row.items() if key not in without} for row in examples]
            file.write_text("".join(json.dumps(row) + "\n" for row in kept))
            data[role] = {"path": str(file)}
        return data

    return write


@pytest.fixture
def own(values, sft, rows, tiny_model, tmp_path):
    """A grid over a model folder and rows of one's own."""
    from holdfast.config import parse_grid

    def build(*, without=(), **changes):
        save(tiny_model(), tmp_path / "model")
        grid_values = {
            **values(attacks=[sft()], models=[{"path": str(tmp_path / "model")}]),
            "data": rows(without=without),
            "evaluation": SHORT,
            **changes,
        }
        return parse_grid(grid_values, "test")

    return build


def begun(folder):
    """What a run has written apart from its status, which says why it ended."""
    return [path for path in folder.glob("*/*") if path.parent.name != "status"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"defenses": ["none", "refusal_loss"], "without": ["refusal"]}, REFUSED),
        ({"defenses": ["none", "vaccine_alignment"], "without": ["refusal"]}, REFUSED),
        ({"without": ["response"], "judges": {}}, "response"),
        ({"attacks": ["none", [{"sft": {}}, {"subtract_delta": {"base": "./no/such"}}]]}, "no/such"),
        ({"models": [{"path": "./no/such"}]}, "no/such"),
    ],
)
def test_what_a_method_lacks_is_said_before_anything_runs(own, tmp_path, changes, says):
    with pytest.raises(HoldfastError, match=says):
        run(own(**changes), tmp_path / "run", workers=0)
    assert begun(tmp_path / "run") == []


@pytest.mark.slow
def test_a_judge_that_can_judge_none_of_its_rows_is_named(own, tmp_path):
    grid = own(attacks=["none"], without=["response"])
    with pytest.raises(HoldfastError, match=r"judges\.reference: gives no score to .*benign\.jsonl.*response"):
        run(grid, tmp_path / "run", workers=0)


@pytest.mark.slow
def test_a_judge_that_cannot_be_loaded_is_named_as_the_grid_does(own, tmp_path):
    judge = {"classifier": {"path": "./no/such", "harmful_label": "x"}}
    grid = own(judges={"mine": judge}, evaluation={**SHORT, "harm_judges": ["mine"]})
    with pytest.raises(HoldfastError, match=r"judges\.mine: .*no/such"):
        run(grid, tmp_path / "run", workers=0)


def test_a_revision_of_a_folder_is_refused(own, tmp_path):
    with pytest.raises(HoldfastError, match=r"model: `revision` applies to a Hub id"):
        cells(own(models=[{"path": str(tmp_path / "model"), "revision": "main"}]))


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_refused_by_name(own, tiny_model, tmp_path):
    damaged = tiny_model()
    with torch.no_grad():
        damaged.network.lm_head.weight[3, 5] = float("nan")
    grid = own(attacks=["none"])
    save(damaged, tmp_path / "model")
    with pytest.raises(HoldfastError, match=r"model: lm_head\.weight holds values that are NaN"):
        run(grid, tmp_path / "run", workers=0)


@pytest.mark.slow
def test_looking_in_a_process_of_its_own_says_the_same(own, tmp_path):
    all_cells = cells(own(defenses=["refusal_loss"], without=["refusal"]))
    with pytest.raises(HoldfastError, match=REFUSED):
        beforehand.check(all_cells, separate_process=True)
    beforehand.check(cells(own()), separate_process=True)


@pytest.mark.slow
def test_trouble_that_is_nobodys_to_put_right_is_left_to_the_cell(grid, monkeypatch):
    monkeypatch.setattr("holdfast.attacks.sft.SFT.plan", lambda *_: 1 / 0)
    beforehand.refuse_unready(cells(grid()))


@pytest.mark.slow
def test_looking_leaves_randomness_and_settings_as_they_were(grid, neutral):
    all_cells = cells(grid(defenses=["none", neutral, "ewc", "security_vectors"]))
    before = copy.deepcopy(all_cells)
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    beforehand.refuse_unready(all_cells)
    assert (random.random(), torch.rand(1)) == expected
    assert all_cells == before


@pytest.fixture(scope="module")
def known():
    """Examples and models without weights that presets have in common."""
    return {}


FEWER_ROWS = {
    "rpa_table_6": ["data.train=1000", "attacks.ppo.num_prompts=1000"],
    "rpa_table_9": ["data.train=1000"],
}
"""Overrides of presets with many rows, whose prompts would be encoded for seconds."""
ENOUGH_ROWS = 250
"""What all presets but those of a paper that takes more for itself need of their rows."""


def shortened(name):
    """A preset with one seed and as few rows as it can do with."""
    if name.startswith("rpa_"):
        grid = load_grid(name, FEWER_ROWS.get(name, ()))
    else:
        grid = load_grid(name)
        grid = replace(grid, data=replace(grid.data, train=min(grid.data.train, ENOUGH_ROWS)))
    return replace(grid, seeds=grid.seeds[:1])


@pytest.fixture
def looked_at_once(known, monkeypatch):
    """Rows that presets share are made once, and prompts that they share are read once for one tokenizer."""
    load, copied = beforehand.load_splits, beforehand._first_copy

    def splits(data):
        if repr(data) not in known:
            known[repr(data)] = load(data)
        return known[repr(data)]

    def first_copy(cell, splits, before):
        key = digest([cell.model, cell.data, settings_of(cell).evaluation.max_new_tokens])
        if key not in known:
            known[key] = known["before"] = copied(cell, splits, before or known.get("before"))
        return known[key]

    monkeypatch.setattr(beforehand, "load_splits", splits)
    monkeypatch.setattr(beforehand, "_first_copy", first_copy)


PRESETS = sorted(name for name in presets() if not name.startswith("kitchen"))


@pytest.mark.slow
@pytest.mark.usefixtures("looked_at_once")
@pytest.mark.parametrize("chosen", [first_with_each_part, pytest.param(list, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", PRESETS)
def test_nothing_is_missing_for_any_preset(name, chosen):
    beforehand.refuse_unready(chosen(cells(shortened(name))))


def lines(cells):
    with pytest.raises(beforehand.Problems) as raised:
        beforehand.refuse_unready(cells)
    return str(raised.value).splitlines()


@pytest.mark.slow
def test_all_that_is_wrong_is_said_at_once_a_line_each_with_the_grids_key(own):
    grid = own(
        defenses=["none", "refusal_loss", "ewc"],
        attacks=[{"sft": {"optim": {"optim": "galore_adamw"}}}],
        judges={"mine": {"classifier": {"path": "./no/such", "harmful_label": "x"}}},
        evaluation={**SHORT, "harm_judges": ["refusal", "mine"]},
        without=["refusal"],
    )
    problems = lines(cells(grid))
    for start in ("judges.mine: ", "attacks.sft.optim.optim: galore_adamw cannot be created here"):
        assert [line.startswith(start) for line in problems].count(True) == 1, problems
    assert len(problems) == 2


@pytest.mark.slow
def test_what_two_defenses_lack_is_two_lines(own):
    problems = lines(cells(own(defenses=["none", "refusal_loss", "ewc"], without=["refusal"])))
    assert [line.partition(":")[0] for line in problems] == ["defenses.refusal_loss", "defenses.ewc"]


@pytest.mark.slow
def test_an_attack_that_trains_nothing_is_rehearsed_too(own):
    attack = {"best_of_n": {"reward": {"judge": "mine"}, "num_prompts": 5}}
    judges = {"mine": {"refusal": {"further_sentences": 2}}}
    (line,) = lines(cells(own(attacks=[attack], judges=judges)))
    assert line.startswith("attacks.best_of_n")
    assert "num_prompts is 5 but the evaluation has 4" in line


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["kl_anchor", "lisa", "vaccine"])
def test_batches_that_a_defenses_loss_does_not_let_be_split_are_refused(defense, own, sft):
    attack = sft(optim={"max_tokens_per_batch": 64})
    (line,) = lines(cells(own(attacks=[attack], defenses=["none", defense])))
    assert line.startswith("attacks.sft.optim.max_tokens_per_batch: only for SFT and policy gradients")


@pytest.mark.slow
def test_bounded_activations_are_refused_for_passes_of_a_defenses_own(own, sft):
    attack = sft(optim={"gradient_checkpointing": "auto"})
    (line,) = lines(cells(own(attacks=[attack], defenses=["none", "refusal_loss", "vaccine"])))
    assert line.startswith("attacks.sft.optim.gradient_checkpointing: `auto` is only for one forward")


def test_a_second_stage_is_rehearsed_on_what_the_first_one_leaves(own, neutral):
    neutral["reward_neutralization"]["retention_judge"] = "reference"
    (line,) = lines(cells(own(defenses=[[neutral, "vaccine_alignment"]], without=["refusal"])))
    assert line.startswith("defenses.vaccine_alignment: no harmful row of the defense split has a refusal")


def test_a_judge_that_nobody_wrote_is_named_with_the_key_that_calls_it(own):
    with pytest.raises(HoldfastError) as refused:
        cells(own(attacks=["grpo"]))
    assert str(refused.value).startswith("attacks.grpo.reward.judge (which calls 'classifier' by default): ")
    assert "classifier.path: field required" in str(refused.value)
    with pytest.raises(HoldfastError, match=r"^evaluation\.harm_judges: 'oracle' \(the default\)"):
        cells(own(evaluation={}))


def test_a_judge_of_ones_own_is_named_by_the_grids_key(own):
    with pytest.raises(HoldfastError, match=r"^judges\.harm\.classifier\.path: field required"):
        cells(own(judges={"harm": "classifier"}, evaluation={**SHORT, "harm_judges": ["harm"]}))


@pytest.mark.slow
def test_a_hardened_model_is_rehearsed_once_for_all_attacks_and_seeds(own, sft, monkeypatch):
    defenses = []

    def watched(defense, model, context):
        defenses.append(defense)
        return model

    monkeypatch.setattr("holdfast.experiment.rehearsal.hardened", watched)
    attacks = [sft(), sft(optim={"learning_rate": 1e-4}), {"dpo": {}}]
    grid = own(attacks=attacks, defenses=["none", "repnoise", ["repnoise", "refusal_loss"]], seeds=[0, 1])
    beforehand.refuse_unready(cells(grid))
    assert len(defenses) == 1
