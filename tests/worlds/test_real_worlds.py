"""Presets of a paper, planned on its own models and data sets without the network, and what a world's file may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.config import load_grid, parse_grid, presets
from holdfast.experiment.grid import Grid, cells
from holdfast.experiment.methods import TABLES, configured
from holdfast.experiment.misplaced import KINDS
from holdfast.files import hub
from holdfast.records import HoldfastError, Method
from holdfast.worlds import KITCHEN, fitted, real_worlds, with_real, world_file

RPA = sorted(name for name in presets() if name.startswith("rpa_"))
RL_PAPERS = sorted(name for name in presets() if name.startswith(("tokenbuncher_", "reward_neutralization_")))
SANDBOX_ONLY = {"oracle", "keyword"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits of branches are unknown: no request, and none out of a cache of this machine."""
    monkeypatch.setattr(hub, "_commit", lambda *_: None)


def planned(name: str, *overrides: str) -> Grid:
    return load_grid(name, ["world=rosati2024", *overrides])


def method_of(grid: Grid, axis: str, name: str) -> list[Method]:
    return [method for stack in getattr(grid, axis) for method in stack if method.name == name]


@pytest.mark.slow
@pytest.mark.parametrize("name", RPA)
def test_a_preset_is_planned_on_the_papers_models_and_rows(name: str) -> None:
    grid = planned(name)
    each = cells(grid)
    assert len(each) == len({cell.key for cell in each})
    assert {cell.model_name for cell in each} <= {"Llama-2-7b-chat-hf", "Llama-2-7b-hf"}
    assert all(cell.model["fingerprint"].rpartition("@")[2] == cell.model["settings"]["revision"] for cell in each)
    fingerprints = each[0].data["fingerprints"]
    assert fingerprints["harmful"] == "PKU-Alignment/BeaverTails@8401fe609d288129cc684a9b3be6a93e41cfe678"
    assert not {judge.name for cell in each for judge in cell.judges.values()} & SANDBOX_ONLY


@pytest.mark.slow
@pytest.mark.parametrize("name", RL_PAPERS)
def test_a_preset_of_an_rl_paper_is_planned_on_tokenbuncher_s_models_and_rows(name: str) -> None:
    grid = load_grid(name, ["world=feng2025"])
    each = cells(grid)
    assert {cell.model_name for cell in each} == {"Qwen2.5-3B-Instruct"}
    assert not {judge.name for cell in each for judge in cell.judges.values()} & SANDBOX_ONLY
    letters = [judge.settings["choices"] for judge in grid.judges.values() if judge.name == "multiple_choice"]
    assert all(choices == ["A", "B", "C", "D"] for choices in letters)
    assert each[0].data["fingerprints"]["tasks.exam"].startswith("cais/wmdp@8b85378e")
    for method in method_of(grid, "attacks", "grpo"):
        policy, optim = method.settings["policy"], method.settings["optim"]
        assert (optim["learning_rate"], policy["group_size"]) == (1e-6, 4), method


@pytest.mark.parametrize("world", real_worlds())
def test_all_that_a_file_of_ids_names_has_a_licence(world: str) -> None:
    known = world_file(world)
    assert known["description"]
    assert known["paper"]
    assert all(source["licence"] for source in known["sources"].values())
    named = set(_ids({key: known[key] for key in ("models", "harmful", "data", "judges", "evaluation")}))
    assert named <= set(known["sources"]), "no licence"
    assert len(known["sources"]) >= len(named)
    pinned = [*known["models"].values(), *known["harmful"].values()]
    assert all(hub.COMMIT.fullmatch(place["revision"]) for place in pinned)


def test_what_two_files_of_ids_name_has_one_licence() -> None:
    stated: dict[str, set[str]] = {}
    for world in real_worlds():
        for name, source in world_file(world)["sources"].items():
            stated.setdefault(name, set()).add(source["licence"])
    assert len(stated) >= 2
    assert {name: licences for name, licences in stated.items() if len(licences) > 1} == {}


def _ids(value: Any) -> Iterator[str]:
    for key, item in value.items():
        if key == "path":
            yield item
        elif isinstance(item, dict):
            yield from _ids(item)


@pytest.mark.parametrize("world", [KITCHEN, *real_worlds()])
def test_every_method_of_a_world_is_known_and_has_valid_settings(world: str) -> None:
    kinds = [kind for several in KINDS.values() for kind in several]
    for name, settings in world_file(world)["methods"].items():
        kind = next(kind for kind in kinds if name in TABLES[kind])
        configured(Method(name=name, settings=settings or {}), kind)
    for name, settings in world_file(world)["trained"].items():
        configured(Method(name=name, settings=settings), "judge")


def test_what_a_preset_asks_stays_and_what_the_model_needs_is_the_worlds() -> None:
    sweep = planned("rpa_table_9")
    assert [lisa.settings["proximal_weight"] for lisa in method_of(sweep, "defenses", "lisa")] == [1, 2, 5, 10, 25, 50]
    small, large = method_of(sweep, "attacks", "sft")
    assert (small.settings["num_samples"], large.settings["num_samples"]) == (1000, 10000)
    assert [sft.settings["optim"]["max_steps"] for sft in (small, large)] == [125, 1250]
    assert {sft.settings["optim"]["learning_rate"] for sft in (small, large)} == {3e-5}
    noisy = next(tar for tar in method_of(planned("rpa_table_4"), "defenses", "tar") if tar.label)
    assert noisy.settings == {"repnoise_at": "inner_eval"}  # without the sandbox's sizes


def test_larger_batches_of_the_sandbox_are_as_many_rows_in_smaller_ones() -> None:
    own, real = load_grid("rpa_table_6"), planned("rpa_table_6")
    for grid, size in ((own, 16), (real, 8)):
        optims = [sft.settings["optim"] for sft in method_of(grid, "attacks", "sft")]
        assert {optim["per_device_train_batch_size"] for optim in optims} == {size}
        assert [optim["max_steps"] * size for optim in optims] == [2496, 4992, 10000]


def test_perplexity_is_of_a_model_that_the_world_has() -> None:
    assert load_grid("rpa_table_7").evaluation.metrics.perplexity.path == "base"
    assert planned("rpa_table_7").evaluation.metrics.perplexity.path == "openai-community/gpt2"
    kitchen = fitted({"world": "kitchen", "models": ["sandbox"], "evaluation": {"metrics": {"pairs": True}}}, "x")
    assert kitchen["evaluation"]["metrics"] == {"pairs": True}


def test_the_users_own_settings_go_before_the_worlds_in_any_order() -> None:
    for overrides in (["world=rosati2024", "attacks.sft.optim.max_steps=3"], ["attacks.sft.optim.max_steps=3"]):
        grid = load_grid("rpa_table_1", [*overrides, "world=rosati2024"])
        (sft,) = method_of(grid, "attacks", "sft")
        assert (sft.settings["optim"]["max_steps"], sft.settings["optim"]["learning_rate"]) == (3, 3e-5)
    assert planned("rpa_table_1", "evaluation.num_prompts=7").evaluation.num_prompts == 7


def test_the_other_rows_of_a_paper_are_named_after_a_colon() -> None:
    harmful = load_grid("rpa_table_1", ["world=rosati2024:safe_rlhf"]).data.harmful
    assert harmful is not None
    assert (harmful.path, harmful.format) == ("PKU-Alignment/PKU-SafeRLHF", "pku_safe_rlhf")


def test_grids_that_are_not_the_sandboxs_keep_their_settings() -> None:
    own = {"world": "kitchen", "attacks": [{"sft": {"optim": {"learning_rate": 1.0}}}]}
    assert fitted(own, "x") == own
    assert fitted({"models": ["sandbox"]}, "x") == {"models": ["sandbox"]}


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("rosati2025", r"^x: world: is 'rosati2025' \(did you mean 'rosati2024'\?\); give `kitchen`, `fen"),
        ("rosati2024:hh", r"^x: world: rosati2024 has no rows 'hh'; known: beavertails, safe_rlhf$"),
        ("kitchen:hh", r"^x: world: kitchen has no rows 'hh'; known: none$"),
    ],
)
def test_a_world_or_rows_that_there_are_not_are_refused(world: str, said: str) -> None:
    with pytest.raises(HoldfastError, match=said):
        parse_grid({"name": "x", "world": world}, "x")


def test_a_model_that_a_real_world_has_not_is_refused() -> None:
    with pytest.raises(HoldfastError, match=r"^x: models\.sandbox: .*remove 'size'$"):
        parse_grid({"name": "x", "world": "rosati2024", "models": [{"sandbox": {"size": "small"}}]}, "x")


@pytest.mark.parametrize("world", [KITCHEN, "rosati2024"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attacks", [{"sft": 3}]),
        ("attacks", [{"sft": {"optim": 3}}]),
        ("attacks", [{"sft": {"optim": {"max_steps": 10, "per_device_train_batch_size": "a"}}}]),
        ("evaluation", "a"),
        ("evaluation", {"metrics": 3}),
        ("judges", 3),
        ("judges", {"a": {}}),
        ("judges", {"a": [1]}),
    ],
)
def test_what_is_no_grids_value_is_left_for_the_parser_to_refuse(world: str, key: str, value: Any) -> None:
    assert fitted({"models": ["sandbox"], "world": world, key: value}, "g.yaml")[key] == value


@pytest.mark.parametrize("sandbox", [{"part": "x"}, {"part": [1]}, 3, {"size": "large"}])
def test_a_model_of_the_sandbox_that_no_real_world_has_is_named(sandbox: Any) -> None:
    with pytest.raises(HoldfastError, match=r"g\.yaml: models\.sandbox"):
        with_real({"models": [{"sandbox": sandbox}], "world": "rosati2024"}, "g.yaml")


def test_rows_that_are_no_settings_are_left_for_the_parser_to_refuse() -> None:
    assert with_real({"data": 3, "world": "rosati2024"}, "g.yaml")["data"] == 3
