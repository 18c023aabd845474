"""Resolve the judges that a cell calls by name; errors name the key that calls the judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.methods import KEYS, Kind, resolve
from holdfast.methods.tables import judge_keys
from holdfast.records import HoldfastError, Method

SANDBOX_ONLY = ("oracle", "keyword")
"""Judges that need the sandbox's ground truth."""

DEFAULT = Measurement().help_judge
"""The judge of harm and helpfulness where a grid names none."""

Called = dict[str, str]
"""The key that calls a judge first, by the judge's name, with a remark if the name is a default."""


def called(evaluation: Mapping[str, Any], methods: Iterable[tuple[Kind, Method]], written: Sequence[Method]) -> Called:
    """The judges that are called, each with the key that calls it.

    Args:
        evaluation: the cell's evaluation settings, as plain values.
        methods: the cell's, resolved, each with its kind.
        written: the same methods as written in the grid; settings that are missing there are defaults.
    """
    by_kind: Called = {}
    for key, name in judge_keys(evaluation, "evaluation"):
        by_kind.setdefault(name, key)
    as_written = {method.name: method.settings for method in written}
    for kind, method in methods:
        own = f"{KEYS[kind]}.{method.name}"
        for key, name in judge_keys(method.settings, own):
            by_default = not _holds(as_written.get(method.name, {}), key.removeprefix(f"{own}.").split("."))
            by_kind.setdefault(name, f"{key} (which calls {name!r} by default)" if by_default else key)
    return by_kind


def judges_of(calls: Called, known: Mapping[str, Method], *, own_data: bool) -> dict[str, Method]:
    """The judges by name, resolved: those of the grid's `judges`, and built-in ones by their own names.

    Raises:
        HoldfastError: a judge is unknown, has wrong or missing settings, or only works in the sandbox and the data is
            the user's own; names the key that calls it.
    """
    judges = {}
    for name, caller in calls.items():
        if name in known:
            judges[name] = resolve(known[name], "judge", f"judges.{name}")
        else:
            judges[name] = _built_in(name, caller)
        if own_data and judges[name].name in SANDBOX_ONLY:
            by_default = " (the default)" if caller.startswith("evaluation.") and name == DEFAULT else ""
            raise HoldfastError(
                f"{caller}: {name!r}{by_default} only works on the sandbox's data, and the data is your own; "
                "use `classifier`, `refusal` or `reference`"
            )
    return judges


def _built_in(name: str, caller: str) -> Method:
    try:
        return resolve(Method(name=name), "judge")
    except HoldfastError as error:
        reason = str(error)
    if reason.startswith(("unknown", "judge ")):  # there is none, or its row is broken
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
