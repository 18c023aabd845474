"""Rows of installed packages that are wrong: one line each, which names the package and the row."""

import itertools
from importlib.metadata import Distribution

import pytest

from holdfast import api
from holdfast.attacks import ATTACKS
from holdfast.commands.listing import show_list
from holdfast.config import parse_grid
from holdfast.data import FORMATS
from holdfast.defenses.online import ONLINE
from holdfast.experiment.grid import cells
from holdfast.methods import tables
from holdfast.records import HoldfastError

DEFENSE = '''
from dataclasses import dataclass
from typing import ClassVar
from holdfast.training.contracts import AdaptiveAttacker, OfflineDefense, OnlineDefense, SamplingAttack


@dataclass(frozen=True, kw_only=True)
class Mine(OnlineDefense):
    """Settings."""

    coef: float = 0.1
    COEFFICIENT: ClassVar = "coef"
    {body}

    def constrain(self, plan, context):
        return plan


@dataclass(frozen=True, kw_only=True)
class RMU(SamplingAttack):
    """Settings of an attack that has the name of a defense's."""

    def curve(self, model, suite, context, *, keep):
        return iter(())


@dataclass(frozen=True, kw_only=True)
class Stage(OfflineDefense):
    """Settings."""

    def harden(self, model, context):
        return model
'''
ONLINE_GROUP, OFFLINE_GROUP = "holdfast.defenses.online", "holdfast.defenses.offline"
numbers = itertools.count()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(rows, body, code)`: a package with a module of its own and rows `{group: {name: class}}`."""

    def into(rows, *, body="", code=DEFENSE, package="wiz-pack"):
        module = f"outside_rows_{next(numbers)}"
        (tmp_path / f"{module}.py").write_text(code.replace("{body}", body))
        about = tmp_path / f"{package.replace('-', '_')}-0.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        lines = [
            f"[{group}]\n" + "".join(f"{n} = {module}:{c}\n" for n, c in row.items()) for group, row in rows.items()
        ]
        (about / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        tables.added.cache_clear()
        assert Distribution.from_name(package).entry_points
        return module

    yield into
    tables.added.cache_clear()
    tables._loaded.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("PRESETS: ClassVar = ['strong']", r"PRESETS is \['strong'\]; it maps names to values"),
        ("PRESETS: ClassVar = {'strong': 3}", r"PRESETS\['strong'\] is 3; it maps names to values"),
        ("PRESETS: ClassVar = {1: {'coef': 1}}", r"PRESETS is \{1: \{'coef': 1\}\}; it maps names to values"),
        ("PRESETS: dict = None", r"PRESETS is one of its settings; write `PRESETS: ClassVar\[\.\.\.\] = \.\.\.`"),
        ("words: str = 3", "its defaults.words: input should be a valid string, not 3"),
        ("KNOBS: ClassVar = ['coef']", r"KNOBS is \['coef'\]; it maps names to values"),
        ("EXAMPLE: ClassVar = None", "EXAMPLE is None; it maps names to values"),
        ("COEFFICIENT: ClassVar = 3", "COEFFICIENT names 3, which is not one of its settings"),
        ("mode: str = 'a'; COEFFICIENT: ClassVar = 'mode'", "COEFFICIENT names 'mode', which is 'a' and no number"),
        ("odd: 'Wizard' = 3", "cannot be used: NameError: name 'Wizard' is not defined"),
        ("odd: OnlineDefense = None", "cannot be used: PydanticSchemaGenerationError: Unable to generate"),
        ("needs = 'anwsers'", "`needs` is 'anwsers'; give one of None, answers, preferences, rewards"),
        ("def needs(self): return None", "`needs` is <bound method"),
        ("def replaces_loss(self): return False", "`replaces_loss` is <bound method"),
        ("needs = property(lambda self: 1 / 0)", "cannot be used: ZeroDivisionError: division by zero"),
        ("SETS_DTYPE: ClassVar = 'yes'", "SETS_DTYPE is 'yes'; give one of False, True"),
        ("ON_WEIGHTS: ClassVar = 'mixes'", "ON_WEIGHTS is 'mixes'; give one of None, compares, rewrites"),
        ("caution = 3", "`caution` is 3; give a line of text, or None"),
        ("def __post_init__(self): raise RuntimeError('no GPU')", "cannot be used: RuntimeError: no GPU"),
    ],
)
def test_a_row_that_breaks_the_contract_is_one_line_of_package_and_row(install, body, reason):
    module = install({ONLINE_GROUP: {"mine": "Mine"}}, body=body)
    with pytest.raises(HoldfastError) as error:
        ONLINE.load("mine")
    assert str(error.value).startswith(f"defense 'mine' ({module}:Mine, of the package wiz-pack): ")
    error.match(reason)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no GPU\\nhere')", "raises RuntimeError when imported: no GPU here"),
        ("wizard", "raises NameError when imported: name 'wizard' is not defined"),
        ("def (:", "raises SyntaxError when imported: invalid syntax"),
        ("raise SystemExit(3)", "raises SystemExit when imported: 3"),
        ("import wizardry", "cannot be imported: No module named 'wizardry'"),
    ],
)
def test_whatever_importing_a_row_raises_is_one_line_and_the_others_are_listed(install, capsys, code, reason):
    module = install({ONLINE_GROUP: {"mine": "Mine"}, "holdfast.formats": {"rows": "SCHEMA"}}, code=code)
    for table, name, kind in ((ONLINE, "mine", "defense"), (FORMATS, "rows", "format")):
        with pytest.raises(HoldfastError) as error:
            table.load(name)
        assert str(error.value).startswith(f"{kind} {name!r} ({module}:")
        assert f", of the package wiz-pack): {reason}" in str(error.value)
    show_list(None)
    listed = capsys.readouterr().out
    assert "beavertails" in listed
    assert reason in " ".join(listed.split())


def test_a_row_whose_name_means_something_else_or_that_names_no_class_is_refused(install):
    names = dict.fromkeys(("none", "no", "two words", "a.b", "a,b", "x(y)", "../x", "1st", "äh"), "Mine")
    install({ONLINE_GROUP: names})
    for name in names:
        with pytest.raises(HoldfastError, match=r"wiz-pack\): .*(give the entry point another name|rename the entry)"):
            ONLINE.load(name)
        assert "cannot be used" in ONLINE[name].summary


def test_a_row_may_name_a_class_within_a_class_but_not_only_a_module(install, monkeypatch):
    module = install(
        {ONLINE_GROUP: {"mine": "Mine", "inner": "Outer.Mine"}}, code=f"{DEFENSE}\nclass Outer: Mine = Mine"
    )
    assert ONLINE.load("inner") is ONLINE.load("mine")
    monkeypatch.setitem(tables.added(ONLINE_GROUP), "mine", tables.Row(module, ""))
    with pytest.raises(HoldfastError, match=f"names a module only; write `{module}:NAME`"):
        ONLINE.load("mine")


def test_a_row_that_a_built_in_one_hides_is_listed_as_not_used(install, capsys):
    install({ONLINE_GROUP: {"lisa": "Mine"}, "holdfast.formats": {"columns": "Mine"}})
    assert ONLINE.load("lisa").__module__ == "holdfast.defenses.online.lisa"
    show_list(None)
    listed = capsys.readouterr().out
    for what in ("defense 'lisa'", "format 'columns'"):
        assert f"  {what} of the package wiz-pack is not used: Holdfast has one of this name" in listed


def test_a_schema_of_other_parts_is_refused_and_one_without_a_docstring_is_listed_by_its_columns(install, capsys):
    code = "from holdfast.data import Schema\nA = Schema(3, ('a',))\nB = Schema(print, 'prompt')\n"
    install(
        {"holdfast.formats": {"a": "A", "b": "B", "c": "C"}}, code=code + "C = Schema(lambda row: [], ('one', 'two'))"
    )
    with pytest.raises(HoldfastError, match="its `read` is 3; give a function from a row to its examples"):
        FORMATS.load("a")
    with pytest.raises(HoldfastError, match="its `columns` are 'prompt'; give a tuple of names"):
        FORMATS.load("b")
    show_list("formats")
    assert "columns one, two" in capsys.readouterr().out


def test_a_broken_judge_is_no_judge_without_settings(install):
    install({"holdfast.judges": {"mine": "Mine"}})
    values = {"name": "g", "models": ["sandbox"], "evaluation": {"harm_judges": ["mine"]}}
    with pytest.raises(HoldfastError, match=r"^evaluation.harm_judges: judge 'mine' \(.*wiz-pack\): does not derive"):
        cells(parse_grid(values, "test"))


def test_two_packages_that_add_one_row_are_both_named_and_neither_is_taken(install):
    install({ONLINE_GROUP: {"mine": "Mine"}})
    install({ONLINE_GROUP: {"mine": "Mine"}}, package="witch-pack")
    with pytest.raises(HoldfastError, match=r"^defense 'mine': the packages w\w+-pack, w\w+-pack each add one; uninst"):
        ONLINE.load("mine")


def test_a_built_in_defense_cannot_be_taken_over_from_the_table_of_the_other_kind(install):
    install({OFFLINE_GROUP: {"refusal_loss": "Stage"}, ONLINE_GROUP: {"rmu": "Mine"}})
    values = {"name": "g", "models": ["sandbox"], "defenses": [["rmu", "refusal_loss"]], "attacks": ["sft"]}
    cell = cells(parse_grid(values, "test"))[0]
    assert [stage.name for stage in cell.stages] == ["rmu"]
    assert "alpha" in cell.constraints[0].settings


def test_a_defense_of_both_kinds_by_one_name_is_refused(install):
    install({OFFLINE_GROUP: {"mine": "Stage"}, ONLINE_GROUP: {"mine": "Mine"}})
    values = {"name": "g", "models": ["sandbox"], "defenses": ["mine"], "attacks": ["sft"]}
    with pytest.raises(
        HoldfastError, match=r"^defense 'mine': is an offline and an online one, of the package wiz-pack;"
    ):
        cells(parse_grid(values, "test"))


def test_a_built_in_class_cannot_be_taken_over_in_the_api(install):
    install({"holdfast.attacks": {"mine": "RMU"}})
    assert ATTACKS.load("mine").__name__ == "RMU"
    assert api.RMU.__module__ == "holdfast.defenses.offline.rmu"
