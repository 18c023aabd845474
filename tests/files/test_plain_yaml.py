"""A YAML text that cannot be used is refused where it is read, with its place."""

import pytest

from holdfast.files.plain_yaml import yaml_value
from holdfast.records import HoldfastError


@pytest.mark.parametrize("value", ["!!timestamp abc", "!!bool abc", "!!int ''", "!!float ''"])
def test_a_value_that_does_not_fit_its_tag_is_an_error_that_names_the_file(value):
    with pytest.raises(HoldfastError, match=r"^grid.yaml: a value does not fit its tag"):
        yaml_value(f"seeds: {value}", "grid.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: *x}",
        "a: &x [1, *x]",
        "\n".join(f"a{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else '1'] * 9)}]" for i in range(9)),
    ],
    ids=["mapping in itself", "list in itself", "nine times nine times ..."],
)
def test_aliases_that_stand_for_too_much_are_refused(text):
    with pytest.raises(HoldfastError, match=r"^grid.yaml: has more than 100,000 values; an alias"):
        yaml_value(text, "grid.yaml")


@pytest.mark.parametrize("text", ['label: "\\ud800"', '"\\ud800": 1', '[a, {b: ["\\udfffx"]}]'])
def test_half_a_character_is_refused_since_no_report_could_be_written_with_it(text):
    with pytest.raises(HoldfastError, match=r"^grid.yaml: a text holds an unpaired surrogate"):
        yaml_value(text, "grid.yaml")


def test_an_alias_of_settings_is_read():
    assert yaml_value("a: &x {b: 1}\nc: *x", "grid.yaml") == {"a": {"b": 1}, "c": {"b": 1}}
