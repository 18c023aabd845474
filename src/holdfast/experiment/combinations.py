"""Refuse invalid combinations of methods when a grid is expanded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.experiment.methods import Kind, configured, settings_class
from holdfast.methods.tables import judge_names
from holdfast.records import HoldfastError, Method
from holdfast.training.contracts import LearnsFrom, learns_from, trains


class Misfit(HoldfastError):
    """A method that has nothing to act on in the attack that it is combined with."""


def refuse_misfits(
    attacker: Sequence[Method], constraints: Sequence[Method], judges: Mapping[str, Method], reporting: Method
) -> None:
    """Refuse methods that cannot be combined.

    Args:
        attacker: the attack and its adaptive attackers, resolved; empty for none.
        constraints: the online defenses, resolved.
        judges: those that the cell calls by name, resolved.
        reporting: the judge that reports harmfulness.

    Raises:
        HoldfastError: an attacker's reward or a constraint uses the reporting judge; a constraint is in a stack twice,
            or after one that it must precede; an adaptive attacker would combine rewritten weights with another
            checkpoint's.
        Misfit: a constraint or an adaptive attacker is combined with an attack that does not train, or that does not
            train on what it acts on, or with no attack.
    """
    _refuse_one_judge(attacker, judges, reporting)
    _refuse_judged_by(constraints, judges, reporting)
    _refuse_order(constraints)
    if not attacker:
        if constraints:
            raise Misfit(f"{constraints[0].name} acts during training; combine it with an attack")
        return
    _refuse_untrained(attacker, constraints)
    _refuse_rewritten(attacker[1:])
    _refuse_unlearnt(attacker[0], attacker[1:], "adaptive")
    _refuse_unlearnt(attacker[0], constraints, "online")
    for method in attacker[1:]:
        _refuse_unlearnt_first(method, constraints)


def _refuse_order(constraints: Sequence[Method]) -> None:
    names = [method.name for method in constraints]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise HoldfastError(f"{twice} is twice in one stack of defenses; give it once, with one set of settings")
    for method in constraints[1:]:
        if configured(method, "online").replaces_loss:
            raise HoldfastError(f"{method.title} replaces the attack's loss; name it before {constraints[0].title}")


def _refuse_untrained(attacker: Sequence[Method], constraints: Sequence[Method]) -> None:
    if trains(settings_class(attacker[0].name, "attack")):
        return
    name = attacker[0].title
    if constraints:
        raise Misfit(
            f"{constraints[0].title} acts while a service trains the customer's model, and {name} does not train: it "
            "samples from the unchanged model; remove one of the two"
        )
    if attacker[1:]:
        raise Misfit(f"{attacker[1].title} needs an attack that trains, and {name} does not train; remove one")


def _refuse_rewritten(adaptive: Sequence[Method]) -> None:
    """Refuse the comparison of rewritten weights with another checkpoint's; of a list the last attacker acts first."""
    on_weights = [settings_class(method.name, "adaptive").ON_WEIGHTS for method in adaptive]
    for place, method in enumerate(adaptive):
        if on_weights[place] == "compares" and "rewrites" in on_weights[place + 1 :]:
            rewriting = adaptive[on_weights.index("rewrites", place + 1)]
            raise HoldfastError(
                f"{method.title} combines the weights with another checkpoint's, and {rewriting.title} has rewritten "
                f"them before, so that they do not fit; name {rewriting.title} first: what stands last acts first"
            )


def _refuse_unlearnt(attack: Method, methods: Sequence[Method], kind: Kind) -> None:
    """Refuse methods that act on something other than what the attack trains on; `None` means that any attack fits."""
    learns = learns_from(settings_class(attack.name, "attack"))
    for method in methods:
        _refuse_needs(method, kind, attack, learns)


def _refuse_unlearnt_first(method: Method, constraints: Sequence[Method]) -> None:
    """Refuse constraints that have nothing to act on in the training of an adaptive attacker before the attack."""
    first = configured(method, "adaptive").first
    for constraint in constraints:
        _refuse_needs(constraint, "online", method, first)


def _refuse_needs(method: Method, kind: Kind, attack: Method, learns: LearnsFrom | None) -> None:
    needs = configured(method, kind).needs
    if needs and learns and needs != learns:
        raise Misfit(
            f"{method.title}: with these settings it acts on the {needs} that an attack trains on, and {attack.title} "
            f"trains on {learns}; remove one of the two"
        )


def _refuse_judged_by(constraints: Sequence[Method], judges: Mapping[str, Method], reporting: Method) -> None:
    for method in constraints:
        for name in judge_names(method.settings):
            if _same(judges[name], reporting):
                raise HoldfastError(
                    f"{method.title}: {name!r} is the judge that reports harmfulness, so the report would share its "
                    "errors; give the defense or `harm_judges` another"
                )


def _refuse_one_judge(attacker: Sequence[Method], judges: Mapping[str, Method], reporting: Method) -> None:
    # An honest customer's reward is for a harmless task; harm is reported on other prompts.
    honest = bool(attacker and attacker[0].settings.get("task"))
    paid = attacker[1:] if honest else attacker
    paid_by = [(name, method.title) for method in paid for name in judge_names(method.settings)]
    for name, title in paid_by:
        if _same(judges[name], reporting):
            raise HoldfastError(
                f"{title}: the attacker's reward is {name!r}, the judge that reports harmfulness; "
                "a model tuned to a judge deceives that judge, so give `reward.judge` or `harm_judges` another"
            )


def _same(judge: Method, other: Method) -> bool:
    return (judge.name, judge.settings) == (other.name, other.settings)
