"""Methods by name and settings, resolved: every setting spelled out and checked, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from holdfast.attacks import ATTACKS
from holdfast.attacks import GROUP as ATTACK_GROUP
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.attacks.adaptive import GROUP as ADAPTIVE_GROUP
from holdfast.defenses.offline import GROUP as OFFLINE_GROUP
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import GROUP as ONLINE_GROUP
from holdfast.defenses.online import ONLINE
from holdfast.experiment.fingerprints import of_settings
from holdfast.judges import GROUP as JUDGE_GROUP
from holdfast.judges import JUDGES
from holdfast.records import HoldfastError, Method
from holdfast.settings import plain, typed
from holdfast.tables import find, near, rows

Kind = Literal["attack", "adaptive", "offline", "online", "judge"]
KEYS: dict[Kind, str] = {
    **{"attack": "attacks", "adaptive": "attacks", "offline": "defenses", "online": "defenses", "judge": "judges"}
}
"""The grid's key that a method stands under."""


def divide(defense: Sequence[Method]) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """A stack of defenses as resolved (offline, online) ones, each kind in its order."""
    known = {**rows(OFFLINE, OFFLINE_GROUP), **rows(ONLINE, ONLINE_GROUP)}
    for method in defense:
        if method.name not in known:
            raise HoldfastError(
                f"unknown defense {method.name!r}{near(method.name, known)}; known: none, {', '.join(sorted(known))}"
            )
    offline = rows(OFFLINE, OFFLINE_GROUP)
    stages = tuple(resolve(method, "offline") for method in defense if method.name in offline)
    constraints = tuple(resolve(method, "online") for method in defense if method.name not in offline)
    return stages, constraints


def adaptive(attack: Sequence[Method]) -> list[Method]:
    """What goes round an attack, resolved."""
    known = rows(ADAPTIVE, ADAPTIVE_GROUP)
    for method in attack[1:]:
        if method.name not in known:
            raise HoldfastError(
                f"{attack[0].title}: unknown adaptive attacker {method.name!r}{near(method.name, known)}; known: "
                f"{', '.join(sorted(known))} (an attack is a list of itself and of those)"
            )
    return [resolve(method, "adaptive") for method in attack[1:]]


def settings_class(name: str, kind: Kind) -> Any:
    """The settings dataclass of a method or judge."""
    tables: dict[str, Any] = {
        "attack": (ATTACKS, ATTACK_GROUP),
        "adaptive": (ADAPTIVE, ADAPTIVE_GROUP),
        "offline": (OFFLINE, OFFLINE_GROUP),
        "online": (ONLINE, ONLINE_GROUP),
        "judge": (JUDGES, JUDGE_GROUP),
    }
    table, group = tables[kind]
    return find(table, group, name)


def configured(method: Method, kind: Kind, where: str = "") -> Any:
    """A method's or judge's settings as an instance of its dataclass; `where` says in errors what they are under."""
    return typed(settings_class(method.name, kind), method.settings, f"{where or KEYS[kind]}.{method.name}")


def resolve(method: Method, kind: Kind, where: str = "") -> Method:
    """The method with every setting spelled out, and told from others by what is in the folders that it names."""
    settings = plain(configured(method, kind, where))
    return replace(method, settings=settings, fingerprints=of_settings(settings))
