"""The HTML page: a jinja2 template with every expression escaped, and the formats of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from holdfast.experiment.moving import as_percent

NOTHING = "–"
SHOW = "show"
"""The name in a template's context of what is applied to every string."""


def render(
    context: Mapping[str, Any],
    show: Callable[[str], str],
    *,
    package: str = "holdfast.report",
    template: str = "page.html.j2",
) -> str:
    """A package's template filled in; `show` is applied to every string of the context before it is escaped.

    Only `markupsafe.Markup` values are not escaped. Raises jinja2.UndefinedError for a name that is missing.
    """
    return _template(package, template).render({**context, SHOW: show})


@cache
def _template(package: str, name: str) -> jinja2.Template:
    """A template of a package: compiled once, which takes longer than to fill it in."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (rate, percent, number, count, duration, power, plural, place, chance, times, money)
    environment.filters.update({each.__name__: each for each in filters})
    return environment.get_template(name)


@jinja2.pass_context
def _shown(context: jinja2.runtime.Context, value: Any) -> Any:
    return context[SHOW](value) if isinstance(value, str) and not isinstance(value, Markup) else value


def asset(name: str) -> Markup:
    """A style sheet or script next to the template, for unescaped use in the page."""
    return Markup(files("holdfast.report").joinpath("templates", name).read_text("utf-8"))


def rate(value: float | None) -> str:
    """A number in [0, 1], or any score, with two decimals, none from 1,000 on."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.1e}"


def chance(p: float) -> str:
    """A p value: `= .03`, `< .001`, `= 1`."""
    if p < 0.001:
        return "< .001"
    return f"= {p:.3f}".rstrip("0").rstrip(".").replace("0.", ".")


def times(ratio: float) -> str:
    """A ratio: `0.8`, `12`, `130`, `∞`."""
    return "∞" if math.isinf(ratio) else f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:,.0f}"


def money(amount: float | None) -> str:
    """An amount in any currency with two significant digits: `0.0000012` as `1.2e-06`, `3.4`, `1,200`."""
    if amount is None or not math.isfinite(amount):
        return NOTHING
    return f"{amount:.2g}" if abs(amount) < 99.5 else f"{float(f'{amount:.2g}'):,.0f}"


def percent(share: float | None) -> str:
    """A share in percent, with a nonzero digit unless it is 0: `100 %`, `0.3 %`."""
    return NOTHING if share is None or not math.isfinite(share) else as_percent(share)


def number(value: float | None) -> str:
    """Steps and budgets: without decimals if whole, else with one."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def place(value: float | None, unit: str, censored: object = False) -> str:
    """A place on an attack's curve: a step as its number, `N = 16` for answers per prompt; with `≥` if censored."""
    if unit == "step" or value is None:
        return f"{'≥ ' if censored else ''}{number(value)}"
    if value == 0 and not censored:
        return "before the attack"
    return f"{unit} {'≥' if censored else '='} {number(value)}"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NOTHING if value is None else f"{value:,.0f}"


def power(value: float | None) -> str:
    """A very large number: `1.23e+12`."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.2e}"


def duration(seconds: float | None) -> str:
    """Seconds in readable form: `8.4 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def plural(amount: int, noun: str) -> str:
    """`1 cell`, `2 cells`; also `2 replies` and `2 misses`."""
    many = f"{noun[:-1]}ies" if noun[-2:-1] not in "aeiou" and noun.endswith("y") else noun
    many = many if many != noun else f"{noun}{'es' if noun.endswith(('s', 'x')) else 's'}"
    return f"{amount:,} {noun if amount == 1 else many}"
