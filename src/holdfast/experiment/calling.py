"""The judges that a cell calls by name: resolved, and what is wrong with one told by the key that calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.experiment.methods import KEYS, Kind, resolve
from holdfast.methods.tables import judge_keys
from holdfast.records import HoldfastError, Method

SANDBOX_ONLY = ("oracle", "keyword")
"""Judges that know the sandbox's truth."""

Called = dict[str, str]
"""The key that calls a judge first, by the judge's name; with a word where nobody had written the name there."""


def called(evaluation: Mapping[str, Any], methods: Iterable[tuple[Kind, Method]], written: Sequence[Method]) -> Called:
    """Which judges are called, from where.

    Args:
        evaluation: how the cell is measured, as plain values.
        methods: the cell's, resolved, each with its kind.
        written: the same methods as the grid has them; what they leave out are defaults.
    """
    by_kind: Called = {}
    for key, name in judge_keys(evaluation, "evaluation"):
        by_kind.setdefault(name, key)
    given = {method.name: method.settings for method in written}
    for kind, method in methods:
        own = f"{KEYS[kind]}.{method.name}"
        for key, name in judge_keys(method.settings, own):
            by_default = not _holds(given.get(method.name, {}), key.removeprefix(f"{own}.").split("."))
            by_kind.setdefault(name, f"{key} (which calls {name!r} unless told otherwise)" if by_default else key)
    return by_kind


def judges_of(calls: Called, known: Mapping[str, Method], *, own_data: bool) -> dict[str, Method]:
    """The judges by name, resolved: those that the grid's `judges` hold, and built-in ones by their own names.

    Raises:
        HoldfastError: a judge is unknown, wrongly set or needs settings that it was not given, or knows the sandbox
            only while the data is the user's own; names the key that calls it.
    """
    judges = {}
    for name, caller in calls.items():
        if name in known:
            judges[name] = resolve(known[name], "judge", f"judges.{name}")
        else:
            judges[name] = _built_in(name, caller)
        if own_data and judges[name].name in SANDBOX_ONLY:
            unless_told = " (there unless another is named)" if caller.startswith("evaluation.") else ""
            raise HoldfastError(
                f"{caller}: {name!r}{unless_told} knows the sandbox's truth only, and the data is your own; "
                "use `classifier`, `refusal` or `reference`"
            )
    return judges


def _built_in(name: str, caller: str) -> Method:
    try:
        return resolve(Method(name=name), "judge")
    except HoldfastError as error:
        reason = str(error)
    if reason.startswith("unknown"):
        raise HoldfastError(f"{caller}: {reason}")
    raise HoldfastError(
        f"{caller}: the judge {name!r} needs settings ({reason.removeprefix('judges.')}); write them under "
        f"`judges`, for example `judges: {{harm: {{{name}: {{path: FOLDER}}}}}}`, and call `harm`"
    )


def _holds(settings: Mapping[str, Any], path: Sequence[str]) -> bool:
    head, *rest = path
    if not isinstance(settings, Mapping) or head not in settings:
        return False
    return not rest or _holds(settings[head], rest)
