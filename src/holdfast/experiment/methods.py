"""Resolve methods by name and settings: every setting written in full and checked, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from holdfast.attacks import ATTACKS
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.files.fingerprints import of_settings
from holdfast.files.hub import pinned
from holdfast.judges import JUDGES
from holdfast.methods.settings import plain, typed
from holdfast.methods.tables import Table, near
from holdfast.records import HoldfastError, Method

Kind = Literal["attack", "adaptive", "offline", "online", "judge"]
TABLES: dict[Kind, Table] = {
    "attack": ATTACKS,
    "adaptive": ADAPTIVE,
    "offline": OFFLINE,
    "online": ONLINE,
    "judge": JUDGES,
}
KEYS: dict[Kind, str] = {
    "attack": "attacks",
    "adaptive": "attacks",
    "offline": "defenses",
    "online": "defenses",
    "judge": "judges",
}
"""The grid's key for each kind of method."""


def divide(defense: Sequence[Method]) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """A stack of defenses as resolved (offline, online) ones, each kind in its order.

    Raises:
        HoldfastError: a defense is unknown, or has wrong settings.
    """
    known = {**OFFLINE, **ONLINE}
    for method in defense:
        if method.name not in known:
            raise HoldfastError(
                f"unknown defense {method.name!r}{near(method.name, known)}; known: none, {', '.join(sorted(known))}"
            )
    stages = tuple(resolve(method, "offline") for method in defense if _is_offline(method.name))
    constraints = tuple(resolve(method, "online") for method in defense if not _is_offline(method.name))
    return stages, constraints


def _is_offline(name: str) -> bool:
    """Whether a defense is an offline one; a built-in name means the built-in defense, even if packages add the same
    name."""
    if name in OFFLINE.built_in or name in ONLINE.built_in:
        return name in OFFLINE.built_in
    if name in OFFLINE and name in ONLINE:
        packages = " and ".join(dict.fromkeys((OFFLINE[name].package, ONLINE[name].package)))
        raise HoldfastError(
            f"defense {name!r}: is an offline and an online one, of the package {packages}; one of them needs "
            "another name"
        )
    return name in OFFLINE


def adaptive(attack: Sequence[Method]) -> list[Method]:
    """The adaptive attackers of an attack, resolved.

    Raises:
        HoldfastError: one is unknown, or has wrong settings.
    """
    for method in attack[1:]:
        if method.name not in ADAPTIVE:
            raise HoldfastError(
                f"{attack[0].title}: unknown adaptive attacker {method.name!r}{near(method.name, ADAPTIVE)}; known: "
                f"{', '.join(sorted(ADAPTIVE))} (write a list of the attack and its adaptive attackers)"
            )
    return [resolve(method, "adaptive") for method in attack[1:]]


def settings_class(name: str, kind: Kind) -> Any:
    """The settings dataclass of a method or judge."""
    return TABLES[kind].load(name)


def configured(method: Method, kind: Kind, where: str = "") -> Any:
    """A method's or judge's settings as an instance of its dataclass; `where` is their place in error messages."""
    return typed(settings_class(method.name, kind), method.settings, f"{where or KEYS[kind]}.{method.name}")


def resolve(method: Method, kind: Kind, where: str = "") -> Method:
    """The method with every setting written in full, and with fingerprints of the folders that it names."""
    own = configured(method, kind, where)
    settings = plain(own)
    outside = own.outside if kind == "judge" else {}
    return replace(method, settings=settings, fingerprints={**of_settings(settings), **outside})


def at_commit(method: Method) -> Method:
    """The method with each `revision` of a Hub id as the commit in its fingerprints: a branch may have moved on."""
    return replace(method, settings=_at_commit(method.settings, method.fingerprints))


def _at_commit(value: Any, fingerprints: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_at_commit(item, fingerprints) for item in value]
    if not isinstance(value, Mapping):
        return value
    settings = {key: _at_commit(item, fingerprints) for key, item in value.items()}
    name = value.get("path") or value.get("backbone")
    commit = pinned(fingerprints.get(name, "")) if isinstance(name, str) else None
    return {**settings, "revision": commit} if commit is not None and "revision" in value else settings
