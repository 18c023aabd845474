"""Tables of methods and what installed packages add to them."""

import importlib
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint

import pytest

import holdfast.tables
from holdfast import api, attacks, judges
from holdfast.attacks import ATTACKS
from holdfast.defenses import offline, online
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.records import HoldfastError
from holdfast.tables import Row, find, near, rows

TABLES = {
    attacks.GROUP: attacks.ATTACKS,
    online.GROUP: online.ONLINE,
    offline.GROUP: offline.OFFLINE,
    judges.GROUP: judges.JUDGES,
}
TABLE = {"sft": Row("holdfast.attacks.sft:SFT", "built in")}


@pytest.fixture
def _outside(monkeypatch):
    """Two rows of an outside package, one of which wants a built-in name."""

    def points(*, group):
        return [EntryPoint(name, "fractions:Fraction", group) for name in ("sft", "mine")]

    monkeypatch.setattr(holdfast.tables, "entry_points", points)
    holdfast.tables.added.cache_clear()
    yield
    holdfast.tables.added.cache_clear()


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, table in TABLES.items() for name in table])
def test_every_row_leads_to_a_frozen_settings_class_with_documentation(group, name):
    found = find(TABLES[group], group, name)
    assert is_dataclass(found)
    assert found.__dataclass_params__.frozen
    assert found.__doc__
    assert rows(TABLES[group], group)[name].summary


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(HoldfastError, match=r"unknown attack 'grop' \(did you mean 'grpo'\?\); known: grpo, sft"):
        find({**TABLE, "grpo": Row("a:b", "")}, attacks.GROUP, "grop")


def test_an_unknown_name_says_what_kind_of_thing_was_asked_for():
    for group, kind in ((online.GROUP, "defense"), (offline.GROUP, "defense"), (judges.GROUP, "judge")):
        with pytest.raises(HoldfastError, match=f"^unknown {kind} 'qqqqqq'; known:"):
            find(TABLES[group], group, "qqqqqq")


@pytest.mark.usefixtures("_outside")
def test_an_outside_package_adds_rows():
    assert set(rows(TABLE, attacks.GROUP)) == {"sft", "mine"}
    assert find(TABLE, attacks.GROUP, "mine").__name__ == "Fraction"


@pytest.mark.usefixtures("_outside")
def test_an_outside_package_cannot_take_over_a_built_in_name():
    assert rows(TABLE, attacks.GROUP)["sft"].summary == "built in"
    assert find(TABLE, attacks.GROUP, "sft").__name__ == "SFT"


def test_nothing_near_is_no_suggestion():
    assert near("qqq", ["sft", "grpo"]) == ""
    assert near("grp", ["sft", "grpo"]) == " (did you mean 'grpo'?)"


@pytest.mark.parametrize("table", [ATTACKS, OFFLINE, ONLINE], ids=["attacks", "offline", "online"])
def test_every_method_can_be_had_from_the_api_by_the_name_of_its_settings(table):
    for row in table.values():
        module, _, name = row.target.partition(":")
        assert name in api.__all__
        assert getattr(api, name) is getattr(importlib.import_module(module), name)
