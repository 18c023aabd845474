"""Combinations that make no sense, refused when a grid is expanded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.experiment.methods import Kind, configured, settings_class
from holdfast.methods.tables import judge_names
from holdfast.records import HoldfastError, Method
from holdfast.training.contracts import LearnsFrom, learns_from, trains


class Misfit(HoldfastError):
    """A method that has nothing to act on in the attack that it stands with."""


def refuse_misfits(
    attacker: Sequence[Method], constraints: Sequence[Method], judges: Mapping[str, Method], reporting: Method
) -> None:
    """Refuse what cannot go together.

    Args:
        attacker: the attack and what goes round it, resolved; empty for none.
        constraints: the online defenses, resolved.
        judges: those that the cell calls by name, resolved.
        reporting: the judge that reports harmfulness.

    Raises:
        HoldfastError: an attacker is paid by the judge that reports, or a constraint acts by it; a constraint stands in
            a stack twice, or behind one that it has to go before.
        Misfit: a constraint or an adaptive attacker stands with an attack that trains nothing, or with one that does
            not train on what it acts on, or without any.
    """
    _refuse_one_judge(attacker, judges, reporting)
    _refuse_judged_by(constraints, judges, reporting)
    _refuse_order(constraints)
    if not attacker:
        if constraints:
            raise Misfit(f"{constraints[0].name} acts while somebody trains the model; give it an attack")
        return
    _refuse_untrained(attacker, constraints)
    _refuse_unlearnt(attacker[0], attacker[1:], "adaptive")
    _refuse_unlearnt(attacker[0], constraints, "online")
    for method in attacker[1:]:
        _refuse_unlearnt_first(method, constraints)


def _refuse_order(constraints: Sequence[Method]) -> None:
    names = [method.name for method in constraints]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise HoldfastError(f"{twice} stands twice in one stack of defenses; give it once, with one set of settings")
    for method in constraints[1:]:
        if configured(method, "online").replaces_loss:
            raise HoldfastError(
                f"{method.title} puts a loss in the place of the attack's; name it before {constraints[0].title}"
            )


def _refuse_untrained(attacker: Sequence[Method], constraints: Sequence[Method]) -> None:
    if trains(settings_class(attacker[0].name, "attack")):
        return
    name = attacker[0].title
    if constraints:
        raise Misfit(
            f"{constraints[0].title} acts while a service trains the customer's model, and {name} trains "
            "nothing: it samples from the model as it is; leave one of the two out"
        )
    if attacker[1:]:
        raise Misfit(f"{attacker[1].title} needs an attack that trains, and {name} does not train")


def _refuse_unlearnt(attack: Method, methods: Sequence[Method], kind: Kind) -> None:
    """Refuse methods that act on something else than the attack trains on; those that act on anything say `None`."""
    learns = learns_from(settings_class(attack.name, "attack"))
    for method in methods:
        _refuse_needs(method, kind, attack, learns)


def _refuse_unlearnt_first(method: Method, constraints: Sequence[Method]) -> None:
    """Refuse constraints that have nothing to act on in what an adaptive attacker trains before the attack itself."""
    first = configured(method, "adaptive").first
    for constraint in constraints:
        _refuse_needs(constraint, "online", method, first)


def _refuse_needs(method: Method, kind: Kind, attack: Method, learns: LearnsFrom | None) -> None:
    needs = configured(method, kind).needs
    if needs and learns and needs != learns:
        raise Misfit(
            f"{method.title}: as set it acts on the {needs} that an attack trains on, and {attack.title} trains on "
            f"{learns}; leave one of the two out"
        )


def _refuse_judged_by(constraints: Sequence[Method], judges: Mapping[str, Method], reporting: Method) -> None:
    for method in constraints:
        for name in judge_names(method.settings):
            if _same(judges[name], reporting):
                raise HoldfastError(
                    f"{method.title}: {name!r} is the judge that reports harmfulness, so the report would be of its "
                    "blind spots; give the defense or `harm_judges` another"
                )


def _refuse_one_judge(attacker: Sequence[Method], judges: Mapping[str, Method], reporting: Method) -> None:
    # An honest customer's reward is for a harmless task: what is reported of harm is of other prompts.
    honest = bool(attacker and attacker[0].settings.get("task"))
    paid = attacker[1:] if honest else attacker
    paid_by = [(name, method.title) for method in paid for name in judge_names(method.settings)]
    for name, title in paid_by:
        if _same(judges[name], reporting):
            raise HoldfastError(
                f"{title}: the attacker is paid by {name!r}, the judge that reports harmfulness; "
                "a model tuned to a judge fools that judge, so give `reward.judge` or `harm_judges` another"
            )


def _same(judge: Method, other: Method) -> bool:
    return (judge.name, judge.settings) == (other.name, other.settings)
