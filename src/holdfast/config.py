"""Parse configuration files and overrides into a `Grid`; no other module parses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from holdfast import worlds
from holdfast.control.tasks_and_arms import ARMS, Arm, Control, Task
from holdfast.data.dataset import Data
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.grid import Grid
from holdfast.experiment.misplaced import refuse_misplaced
from holdfast.experiment.model_seeds import SEEDS, one_per_seed, seeds_of, with_seeds
from holdfast.files.documents import folder_name, text_of
from holdfast.files.gguf import PACKAGE
from holdfast.files.packaged import CONTROL_PRESETS, preset, presets
from holdfast.files.plain_yaml import settings_at_top, yaml_value
from holdfast.kitchen.build import require_built
from holdfast.kitchen.world import KITCHEN, Find, with_world
from holdfast.methods.ranges import SettingsError, shown
from holdfast.methods.settings import AnySettings, one_text, typed
from holdfast.methods.tables import near
from holdfast.network.pretrained import Pretrained
from holdfast.network.templates import DATE
from holdfast.records import HoldfastError, Method
from holdfast.sandbox.build import Sandbox
from holdfast.search.search_settings import Search

KEYS = (
    *("name", "description", "models", "defenses", "attacks", "seeds", "data", "judges", "evaluation"),
    *("misfits", "control", "copies", "search", "world"),
)
AXES = ("models", "defenses", "attacks", "seeds")


def load_grid(path: str | Path, overrides: Sequence[str] = (), *, find: Find = require_built) -> Grid:
    """A grid from a YAML file, or from a built-in preset by its name, with `key=value` overrides.

    `find` says where the parts of a kitchen are that the grid asks for (`holdfast.kitchen.build` makes them first).

    Raises:
        HoldfastError: the file is missing or not YAML, a key is unknown or a value wrong; says where.
    """
    return parse_grid(_values(path, overrides), str(path), find=find)


def load_search(path: str | Path, overrides: Sequence[str] = (), *, find: Find = require_built) -> tuple[Grid, Search]:
    """A grid and its search settings from one file; see `load_grid`, which ignores the latter.

    Raises:
        HoldfastError: as `load_grid`.
    """
    values = _values(path, overrides)
    return parse_grid(values, str(path), find=find), typed(Search, values.get("search") or {}, f"{path}: search")


def load_control(path: str | Path, overrides: Sequence[str] = ()) -> Control:
    """A run of control tasks from a YAML file or one of its own presets; see `load_grid`.

    Raises:
        HoldfastError: as `load_grid`.
    """
    return parse_control(_values(path, overrides, CONTROL_PRESETS), str(path))


def _values(path: str | Path, overrides: Sequence[str], folder: str = "presets") -> dict[str, Any]:
    place = preset(str(path), folder) or Path(path)
    values = settings_at_top(yaml_value(_text(place, folder), str(path)), str(path))
    of_world = [override for override in overrides if override.partition("=")[0].strip() == "world"]
    for override in of_world:
        values = overridden(dict(values), override)
    values = worlds.fitted(values, str(path))
    for override in overrides:  # the user's own go before the world's settings
        values = values if override in of_world else overridden(dict(values), override)
    return dict(values)


def parse_grid(values: Mapping[str, Any], where: str, *, find: Find = require_built) -> Grid:
    """A grid from plain values; `where` names their source in errors, `find` says where a kitchen's parts are.

    Raises:
        HoldfastError: a key is unknown, a value wrong, or there is no model; says where.
    """
    values = _singular(values)
    refuse_misplaced(values, KEYS, where)
    if "models" in values:
        values["models"] = one_per_seed(values["models"], where, world=values.get("world"))
    values = with_world(worlds.with_real(values, where), where, find)
    if "models" not in values:
        raise HoldfastError(f"{where}: no model; write `model: sandbox` or `model: {{path: FOLDER}}`")
    empty = next((axis for axis in AXES if values.get(axis) == []), None)
    if empty is not None:
        raise HoldfastError(f"{where}: {empty} is an empty list; remove it or name one")
    judges = values.get("judges") or {}
    if not isinstance(judges, Mapping):
        raise HoldfastError(f"{where}: judges: expected `name: judge` lines, not {judges!r}")
    return _grid(
        where,
        name=folder_name(values.get("name", Path(where).stem), where),
        description=one_text(values.get("description", ""), f"{where}: description"),
        misfits=values.get("misfits", "refuse"),
        control=values.get("control", True),
        copies=tuple(one_text(to, f"{where}: copies") for to in _list(values.get("copies") or [])),
        models=tuple(parse_model(model, f"{where}: models") for model in _list(values["models"])),
        defenses=tuple(parse_defense(d, f"{where}: defenses") for d in _list(values.get("defenses", ["none"]))),
        attacks=tuple(parse_attack(a, f"{where}: attacks") for a in _list(values.get("attacks", ["none"]))),
        seeds=seeds_of(values.get("seeds", [0]), where),
        data=typed(Data, values.get("data") or {}, f"{where}: data"),
        judges={name: parse_method(judge, f"{where}: judges.{name}") for name, judge in judges.items()},
        evaluation=typed(Measurement, values.get("evaluation") or {}, f"{where}: evaluation"),
    )


def _grid(where: str, **values: Any) -> Grid:
    try:
        return Grid(**values)
    except SettingsError as error:
        raise HoldfastError(f"{where}: {error.message}") from None


def parse_control(values: Mapping[str, Any], where: str) -> Control:
    """A run of control tasks from plain values; `where` names their source in errors.

    Raises:
        HoldfastError: a key is unknown, a value wrong, or there are no tasks or arms; says where.
    """
    values = {"name": Path(where).stem, "arms": list(ARMS)[:2], "seeds": [0], **_singular(values)}
    values["name"] = folder_name(values["name"], where)
    tasks = values.get("tasks")
    if not isinstance(tasks, Mapping) or not tasks:
        raise HoldfastError(f"{where}: tasks: expected `ENVIRONMENT: {{steps: 10000}}` lines, such as Reacher-v5")
    parsed_tasks = {str(name): _placed(Task, task or {}, f"{where}: tasks.{name}") for name, task in tasks.items()}
    arms = tuple(parse_arm(arm, f"{where}: arms") for arm in _list(values["arms"]))
    if not arms:
        raise HoldfastError(f"{where}: arms: empty; name at least one, such as {next(iter(ARMS))}")
    rest = {key: value for key, value in values.items() if key not in ("tasks", "arms")}
    rest["seeds"] = seeds_of(values["seeds"], where)
    return _placed(Control, {**rest, "tasks": {}, "arms": []}, where, tasks=parsed_tasks, arms=arms)


def parse_arm(value: Any, where: str) -> Arm:
    """`plain` or `{dai: {noise: before}}`, with an optional `label` next to the name.

    Raises:
        HoldfastError: there is no such arm, or it has no such setting.
    """
    method = parse_method(value, where)
    if method.name not in ARMS:
        raise HoldfastError(f"{where}: no arm {method.name!r}{near(method.name, ARMS)}; known: {', '.join(ARMS)}")
    for key in method.settings:
        if key in ("name", "label") or key not in ARMS[method.name].settings:
            known = ", ".join(ARMS[method.name].settings) or "none"
            raise HoldfastError(f"{where}.{method.name}: unknown key {key!r}; known: {known}")
    values = {**method.settings, "name": method.name, "label": method.label or method.name}
    return _placed(Arm, values, f"{where}.{method.name}")


def _placed(cls: type[AnySettings], values: Mapping[str, Any], where: str, **parsed: Any) -> AnySettings:
    """Settings from `values`, with fields that are already parsed in `parsed`; errors name the place `where`."""
    try:
        settings = typed(cls, values, where)
        return replace(settings, **parsed) if parsed else settings  # type: ignore[type-var]
    except HoldfastError as error:
        message = error.message if isinstance(error, SettingsError) else str(error)
        raise HoldfastError(f"{where}: {message.removeprefix(where).lstrip('.: ')}") from None


def data_options(
    harmful: str | None,
    harmful_format: str,
    benign: str | None,
    benign_format: str,
    *,
    role: str | None = None,
    refusal: str | None = None,
) -> dict[str, Any]:
    """The `data` part of a grid from the command line's options; empty for the sandbox's own.

    `role` is set on every row of `harmful`; `refusal` is given to those that have none.

    Raises:
        HoldfastError: an option applies to rows, and none are given.
    """
    data: dict[str, Any] = {}
    more = {"role": role, "refusal": refusal}
    if harmful is not None:
        given = {name: value for name, value in more.items() if value is not None}
        data["harmful"] = {"path": harmful, "format": harmful_format, **given}
    formats = {"--harmful-format": harmful_format, "--benign-format": benign_format}
    idle = {"--harmful-role": role, "--refusal": refusal, **{k: v for k, v in formats.items() if v != "columns"}}
    for name, value in idle.items():
        needed, rows = ("--benign", benign) if name == "--benign-format" else ("--harmful", harmful)
        if rows is None and value is not None:
            raise HoldfastError(f"{name}: there are no rows to which it applies; give {needed}")
    if benign is not None:
        data["benign"] = {"path": benign, "format": benign_format}
    return data


def grid_options(model: str, prompt_format: str | None, data: dict[str, Any], **axes: Any) -> dict[str, Any]:
    """A grid's plain values from the command line's options.

    Overrides such as `models.undefended=FOLDER` and `models.chat_template_kwargs.enable_thinking=false` apply to them.

    Raises:
        HoldfastError: the model has its own chat template and a `prompt_format` is given.
    """
    more: dict[str, Any] = {"undefended": None, "chat_template_kwargs": {}, "date": DATE}
    named: Any = model if model in ("sandbox", KITCHEN) else {"path": model, **more}
    if prompt_format is not None:
        if isinstance(named, str):
            raise HoldfastError(f"--prompt-format: the {model}'s models have their own chat template")
        named["prompt_format"] = prompt_format.replace("\\n", "\n")
    world = {"world": KITCHEN} if model == KITCHEN and not data else {}
    return {"models": [named], "data": data, **world, **axes}


def parse_model(value: Any, where: str) -> Sandbox | Pretrained:
    """`sandbox`, `{sandbox: {architecture: qwen3}}`, a path or id, or `{path: ..., prompt_format: ...}`.

    `seeds` beside `sandbox` are one model each, see `one_per_seed`.

    `{package: NAME, ...}` is the path `package:NAME`: the GGUF file inside an installed Python package.
    """
    if value == "sandbox":
        return Sandbox()
    if isinstance(value, str):
        return Pretrained(path=value)
    if isinstance(value, Mapping) and set(value) == {"sandbox"}:
        return typed(Sandbox, value["sandbox"] or {}, f"{where}.sandbox")
    if isinstance(value, Mapping) and "package" in value:
        value = _of_package(value, where)
    if isinstance(value, Mapping) and isinstance(value.get("date"), date):  # YAML reads an unquoted date as this
        value = {**value, "date": value["date"].isoformat()}
    return typed(Pretrained, value, where)


def _of_package(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A model by the name of an installed package as one by its path."""
    name = value["package"]
    if "path" in value:
        raise HoldfastError(f"{where}: both `package` and `path` are given; keep one of them")
    if not isinstance(name, str) or not name.strip():
        raise HoldfastError(f"{where}: package: must be the name of an installed Python package, not {shown(name)}")
    return {"path": f"{PACKAGE}{name}", **{key: item for key, item in value.items() if key != "package"}}


def parse_defense(value: Any, where: str) -> tuple[Method, ...]:
    """`none`, one method, or a list of methods to stack."""
    if value in (None, "none"):
        return ()
    return tuple(parse_method(method, where) for method in _list(value))


def parse_attack(value: Any, where: str) -> tuple[Method, ...]:
    """`none`, one method, or a list of an attack and its adaptive attackers."""
    return () if value in (None, "none") else tuple(parse_method(method, where) for method in _list(value))


def parse_method(value: Any, where: str) -> Method:
    """A name, or `{name: {setting: value}}`, with an optional `label` next to the name.

    Raises:
        HoldfastError: it is neither.
    """
    if isinstance(value, str):
        return Method(name=value)
    if isinstance(value, Mapping):
        names = [key for key in value if key != "label"]
        if len(names) == 1 and isinstance(value[names[0]], Mapping | None):
            label = one_text(value.get("label", ""), f"{where}: label")
            return Method(name=str(names[0]), settings=dict(value[names[0]] or {}), label=label)
    raise HoldfastError(f"{where}: expected a name or `name: {{setting: value}}`, not {value!r}")


def overridden(values: dict[str, Any], override: str) -> dict[str, Any]:
    """Plain values with one `dotted.key=value` set; the value is read as YAML, a name in a list finds its entry.

    Raises:
        HoldfastError: it has no `=` or no key, its value is not YAML, or no entry or key has that name.
    """
    key, mark, text = override.partition("=")
    if not mark or not key.strip():
        raise HoldfastError(f"override {override!r}: expected key=value, for example seeds=[0,1,2]")
    head, *rest = key.strip().split(".")
    axis = next(iter(_singular({head: None})))
    if [axis, *rest] == ["models", SEEDS]:
        given = _singular(values)
        models = given.get(axis) or [{}]  # in a grid that names a world only, the world's
        return {**given, axis: with_seeds(models, yaml_value(text, f"override {override!r}"))}
    return _set(_singular(values), [axis, *rest], yaml_value(text, f"override {override!r}"), override)


def _set(node: Any, path: list[str], value: Any, override: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        known = [_names(item) for item in node]
        if not any(head in names for names in known):
            every = [name for names in known for name in names]
            raise HoldfastError(f"override {override!r}: no key or entry {head!r} here{near(head, every)}")
        return [
            _set({head: {}} if item == head else item, path, value, override) if head in names else item
            for item, names in zip(node, known, strict=True)
        ]
    if node is None or isinstance(node, Mapping):
        below = dict(node or {})
        return {**below, head: _set(below.get(head), rest, value, override)}
    raise HoldfastError(f"override {override!r}: {head!r} has no settings, its value is {node!r}")


def _names(item: Any) -> list[str]:
    """Names by which a list's entry can be addressed: its name, its keys, or those of the methods in a stack."""
    if isinstance(item, list):
        return [name for inner in item for name in _names(inner)]
    return [str(key) for key in item] if isinstance(item, Mapping) else [str(item)]


def _singular(values: Mapping[str, Any]) -> dict[str, Any]:
    """`model`, `defense`, `attack` and `seed` for lists of one; each of these keys holds a list then."""
    merged: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{key}s" if f"{key}s" in KEYS else str(key)
        if name in merged:
            raise HoldfastError(f"both `{name[:-1]}` and `{name}` are given; keep one of them")
        merged[name] = _list(value) if name in AXES else value
    return merged


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(path: Path, folder: str = "presets") -> str:
    try:
        return text_of(path)
    except FileNotFoundError:
        known = presets(folder)
        raise HoldfastError(
            f"{path}: no such file and no preset of that name{near(str(path), known)}; presets: {', '.join(known)}"
        ) from None
