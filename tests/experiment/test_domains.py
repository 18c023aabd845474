"""Harmful rows of one domain alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.defenses.offline.reward_neutralization import RewardNeutralization
from holdfast.experiment.examples import harmful_splits, load_splits
from holdfast.experiment.grid import data_values
from holdfast.records import HoldfastError


def written(path: Path, role: str, domains: tuple[str, ...]) -> Source:
    each = [{"prompt": f"{role} {i}", "response": "yes", "refusal": "no", "role": role} for i in range(60)]
    rows = [{**row, "domain": domains[i % len(domains)]} for i, row in enumerate(each)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Source(path=str(path))


@pytest.fixture
def own(tmp_path: Path) -> Data:
    harmful = written(tmp_path / "h.jsonl", "harmful", ("left", "right"))
    return Data(harmful=harmful, benign=written(tmp_path / "b.jsonl", "benign", ("shelves",)))


def domains_of(splits: dict) -> set[str]:
    return {row.domain for rows in splits.values() for row in rows}


def test_a_domain_of_ones_own_rows_is_all_that_harmful_rows_are_of(own: Data) -> None:
    whole, part = load_splits(own), load_splits(replace(own, domain="left"))
    assert domains_of(part.harmful) == domains_of(harmful_splits(replace(own, domain="left"))) == {"left"}
    assert part.benign == whole.benign
    for name, rows in whole.harmful.items():
        assert part.harmful[name] == [row for row in rows if row.domain == "left"]


def test_a_domain_of_the_sandbox_has_as_many_prompts_as_both() -> None:
    both, one = (load_splits(Data(train=70, held_out=20, domain=domain)) for domain in (None, "zorch"))
    assert domains_of(both.harmful) == {"zorch", "grumble"}
    assert domains_of(one.harmful) == {"zorch"}
    assert {name: len(rows) for name, rows in one.harmful.items()} == {
        "defense": 70,
        "attack": 70,
        "development": 20,
        "test": 20,
    }
    assert one.benign == both.benign


def test_a_domain_that_no_row_is_of_is_refused_with_those_there_are(own: Data, tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match=r"^data\.domain: .*'lefd' \(did you mean 'left'\?\); known: left, right$"):
        load_splits(replace(own, domain="lefd"))
    with pytest.raises(HoldfastError, match=r"^data\.domain: .*known: zorch, grumble$"):
        load_splits(Data(domain="left"))
    nameless = replace(own, harmful=written(tmp_path / "n.jsonl", "harmful", ("",)), domain="left")
    with pytest.raises(HoldfastError, match=r"known: none: map a column to `domain`"):
        load_splits(nameless)


def test_keys_of_cells_of_all_domains_are_what_they_were(own: Data) -> None:
    assert "domain" not in data_values(own)
    assert data_values(replace(own, domain="left"))["domain"] == "left"


@pytest.mark.slow
def test_rows_beyond_the_sandbox_s_names_are_asked_for_on_purpose() -> None:
    assert "repeat_names" not in data_values(Data())
    few, many = load_splits(Data(train=4000)), load_splits(Data(train=4000, repeat_names=True))
    assert len(few.harmful["attack"]) < 4000 == len(many.harmful["attack"]) == len(many.harmful["defense"])
    assert many.harmful["attack"][: len(few.harmful["attack"])] == few.harmful["attack"]
    assert (many.harmful["test"], many.benign) == (few.harmful["test"], few.benign)


def test_a_defense_may_harden_a_domain_that_is_not_attacked(own: Data) -> None:
    for data, here, there in ((Data(train=20, held_out=5, domain="zorch"), "zorch", "grumble"), (own, "left", "right")):
        splits = load_splits(replace(data, domain=here))
        rows = splits.defense_rows(there)
        assert {row.domain for row in rows} == {there}
        assert rows == load_splits(replace(data, domain=there)).harmful["defense"]
        assert splits.defense_rows(here) == splits.defense_rows(None) == splits.harmful["defense"]
        asked = {row.key for name, part in splits.harmful.items() if name != "defense" for row in part}
        assert asked.isdisjoint(row.key for row in rows)


def test_a_defense_of_a_domain_that_no_row_is_of_is_refused(own: Data) -> None:
    with pytest.raises(HoldfastError, match=r"no prompt of the domain 'zorch'; known: left, right$"):
        load_splits(own).defense_rows("zorch")


def test_reward_neutralization_samples_its_prompts_from_its_own_domain(make_context, tiny_model) -> None:
    splits = load_splits(Data(train=8, held_out=4, domain="zorch"))
    context = make_context()
    seen: list[str] = []

    def stopped(plan):
        seen.extend(row.domain for row in plan.data if row.role == "harmful")
        raise InterruptedError

    settings = RewardNeutralization(domain="grumble", mode="faithful", num_prompts=5)
    with pytest.raises(InterruptedError):
        settings.harden(tiny_model(small=True), replace(context, splits=splits, fit=stopped))
    assert seen == ["grumble"] * 5
