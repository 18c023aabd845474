"""What is shown of a method is what its docstrings and its class say."""

import re
import subprocess
import sys

import pytest

from holdfast.commands.methods import kinds
from holdfast.methods.describe import describe, group_of, meaning, plainly
from holdfast.methods.docstrings import BLOCKS, documentation, mentioning, parse

METHODS = [(kind, name) for kind, table in kinds().items() for name in table.built_in]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda text: text)
def test_every_built_in_method_says_idea_equation_source_and_all_its_settings(kind, name):
    method = describe(kinds()[kind], name)
    assert [block for block in BLOCKS if not method.documentation.blocks.get(block)] == []
    assert [setting.name for setting in method.settings if not setting.meaning] == []


def test_a_docstring_is_read_block_by_block_with_notes_behind():
    read = parse(
        "Title.\n\nIdea: one\ntwo.\nEquations, by `form`; `R` is a mean:\n    `a`: `L = 1`\n"
        "Sources: TB (arXiv 2508.20697), and arXiv\n2402.03300.\n"
        "Differs from the papers in: three.\n\nA note.\n\nAnother."
    )
    assert read.title == "Title."
    assert read.blocks["idea"] == "one\ntwo."
    assert "`R` is a mean" in read.blocks["equation"]
    assert "L = 1" in read.blocks["equation"]
    assert read.papers == ("2508.20697", "2402.03300")
    assert read.blocks["differs"] == "three."
    assert read.text == "A note.\n\nAnother."


def test_a_class_of_a_shared_module_says_what_it_itself_differs_in():
    family = "holdfast.attacks.policy_gradient:"
    assert "dynamic sampling" in documentation(f"{family}DAPO").blocks["differs"]
    assert "deviation" not in documentation(f"{family}PPO").blocks["differs"]


def test_a_class_of_a_shared_module_has_a_source_of_its_own():
    family = "holdfast.attacks.policy_gradient:"
    assert documentation(f"{family}RLOO").papers != documentation(f"{family}DAPO").papers
    assert documentation(f"{family}RLOO").blocks["idea"] == documentation(f"{family}DAPO").blocks["idea"]


def test_what_cannot_be_read_says_nothing():
    assert documentation("no_such_package.module:Class").blocks == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The `beta` counts. Others not.", "The `beta` counts."),
        ("Set `beta=0` for none. `alpha` too.", "Set `beta=0` for none."),
        ("- `alpha` is one;\n- `beta` is\n  two.", "`beta` is two."),
        ("`betas` and beta.", ""),
        (
            "With `beta` more.\n\n- `beta`: The weight.\n  At `alpha` 0 none.\n- `alpha`: No.\n",
            "The weight. At `alpha` 0 none.",
        ),
        ("| `beta`: how much | 1 | 2 |", "`beta` is how much"),
    ],
)
def test_what_a_setting_means_is_the_sentence_that_mentions_it(text, said):
    assert mentioning("beta", text) == said


def test_the_item_that_defines_a_setting_comes_before_sentences_of_other_classes_that_mention_it():
    settings = {one.name: one.meaning for one in describe(kinds()["offline defense"], "token_buncher").settings}
    assert settings["noise_squared"].startswith("Whether the weight of the noiser's random tokens is lambda squared")
    assert settings["policy.critic"].startswith("The network that predicts rewards")


def test_ranges_defaults_and_types_are_those_of_the_class():
    settings = {setting.name: setting for setting in describe(kinds()["online defense"], "refusal_loss").settings}
    assert settings["alpha"].default == "100"
    assert settings["alpha"].range == "at least 0"
    assert (settings["form"].kind, settings["form"].range) == ("choice", "additive, convex, tokens")
    assert (settings["max_length"].kind, settings["max_length"].range) == ("whole number or null", "1 or more")


def test_a_group_has_the_defaults_of_the_method_and_is_listed_once():
    settings = {setting.name: setting for setting in describe(kinds()["offline defense"], "tar").settings}
    assert settings["optim.max_steps"].default == "100"
    assert "inner.max_steps" not in settings
    assert "max_steps: 64" in settings["inner"].default
    assert "as those of" in settings["inner"].meaning or "those of `optim`" in settings["inner"].meaning


def test_a_setting_that_nothing_explains_has_no_meaning():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Bare:
        """Settings."""

        strange: int = 1

    assert meaning(Bare, "strange") == ""
    assert group_of(Bare | None) is Bare


def test_values_read_as_in_yaml():
    assert plainly({"a": [1e-5, True, None], "b": ""}) == "{a: [1e-05, true, null], b: ''}"


@pytest.mark.slow
def test_reading_docstrings_imports_no_torch():
    code = "import sys; from holdfast.methods.docstrings import documentation as read\n"
    code += "read('holdfast.attacks.sft:SFT').papers[0]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", ["grpo", "guided"])
def test_items_of_a_list_in_a_docstring_stay_apart(name):
    table = next(table for table in kinds().values() if name in table)
    assert [one.name for one in describe(table, name).settings if re.search(r"[.;] - [`A-Z]", one.meaning)] == []


def test_a_list_of_terms_is_explained_with_its_words_that_count_beside_others_alone():
    shown = {setting.name: setting.meaning for setting in describe(kinds()["judge"], "terms").settings}
    assert "A word after `+`" in shown["path"]
