"""YAML as plain values; duplicate keys, of which a plain reader keeps the last, are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from holdfast.records import HoldfastError

MOST_VALUES = 100_000
"""The largest number of values in a text. Aliases (`*name`) count each time; one inside its own value has no end."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-4` is a number, as in YAML 1.2."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} occurs twice in one place; keep one of them"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def yaml_value(text: str, where: str) -> Any:
    """The value of a YAML text; `where` names its source in errors.

    Raises:
        HoldfastError: it is not YAML, a key occurs twice, it is nested too deeply, a value cannot be read or is not
            valid Unicode, or there are more than `MOST_VALUES`.
    """
    try:
        value = _Loader(text).get_single_data()
    except RecursionError:
        raise HoldfastError(f"{where}: nested too deeply to be read") from None
    except ValueError as error:  # a number with thousands of digits, or an invalid date
        raise HoldfastError(f"{where}: a value cannot be read ({error})") from error
    except (AttributeError, LookupError) as error:  # the library's errors of `!!timestamp abc` and `!!bool abc`
        raise HoldfastError(f"{where}: a value does not fit its tag (`!!...`); remove the tag") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise HoldfastError(f"{where}{line}: {problem}") from error
    _refuse_unusable(value, where)
    return value


def _refuse_unusable(value: Any, where: str) -> None:
    """Refuse what could not be written again: half a character (`"\\ud800"`), and aliases that stand for too much."""
    left, count = [value], 0
    while left:
        item = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise HoldfastError(f"{where}: has more than {MOST_VALUES:,} values; an alias (`*name`) repeats too much")
        if isinstance(item, str) and not _is_unicode(item):
            raise HoldfastError(f"{where}: a text holds an unpaired surrogate (\\ud800 to \\udfff); remove it")
        if isinstance(item, Mapping):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            left += item


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def settings_at_top(value: Any, where: str) -> Mapping[str, Any]:
    """The value of a file of settings; `where` names the file in errors.

    Raises:
        HoldfastError: it is not a mapping, as of an empty file or one of comments only.
    """
    if value is None:
        raise HoldfastError(
            f"{where}: has no settings, since it is empty or has comments only; read those, or write `key: value` lines"
        )
    if not isinstance(value, Mapping):
        raise HoldfastError(f"{where}: expected `key: value` lines at the top of the file")
    return value


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return str(text).strip().removesuffix("...").strip()
