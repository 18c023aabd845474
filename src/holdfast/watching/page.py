"""The report's page with a banner that says how far the run is; without any record a page of the banner alone."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from holdfast.records import HoldfastError
from holdfast.report.text import visible
from holdfast.watching.building import Built
from holdfast.watching.reading import Piece, Progress
from holdfast.watching.wording import clock, doing, headline, sparkline, tally

_BODY = re.compile(r"<body\b[^>]*>")
_TITLE = re.compile(r"<title>")
_RECORDS = re.compile(r'<meta name="records" content="[^"]*">')
"""The mark of a page that shows the newest records, and need not be written again. A page with a banner loses it."""
_POLICY = "default-src 'none';"
MOST = 12
"""Running pieces and failures in the banner; the others are counted."""


def body_of(progress: Progress) -> str:
    """The part of the banner that is fetched again and again, as HTML."""
    running = [*progress.making, *progress.having("running")]
    failed = progress.having("failed")
    done = len(progress.having("ended", "failed"))
    return _template("progress.html.j2").render(
        progress=progress,
        headline=headline(progress).replace("`", ""),
        tally=tally(progress),
        done=done,
        total=len(progress.cells),
        running=[(piece, doing(piece, progress.now), _curve(piece)) for piece in running[:MOST]],
        more_running=max(len(running) - MOST, 0),
        failed=failed[:MOST],
        more_failed=max(len(failed) - MOST, 0),
        read_at=clock(progress.now, progress.now),
    )


def page_of(built: Built | None, progress: Progress, *, title: str, live: bool, stale: bool = False) -> str:
    """A whole page.

    Args:
        built: the report, or `None` if there is none yet.
        progress: how far the run is.
        title: of a page without a report.
        live: whether the page asks its own server for news; if not, nothing in the banner changes by itself.
        stale: whether the run has finished and the report of all of it cannot be made, so that this is an earlier one.

    Raises:
        HoldfastError: the report's page has no place for the banner.
    """
    page = _template("waiting.html.j2").render(title=title) if built is None else built.page
    unfinished = not progress.over
    banner = _template("banner.html.j2").render(
        body=Markup(body_of(progress)),
        style=_asset("banner.css"),
        unfinished=unfinished,
        stale=stale,
        shown=0 if built is None else built.shown,
        read_at="" if built is None else clock(built.read_at, progress.now),
        ended=bool(progress.having("ended", "failed")),
        live=live,
    )
    begins = _BODY.search(page)
    if begins is None or "</body>" not in page or (live and _POLICY not in page):
        raise HoldfastError("the report's page has no place for the banner of `holdfast watch`")
    page = _RECORDS.sub("", page[: begins.end()], count=1) + banner + page[begins.end() :]
    if live:
        page = page.replace(_POLICY, f"{_POLICY} connect-src 'self';", 1)
        version = "" if built is None else built.version
        about = json.dumps({"version": version, "stale": stale}).replace("<", "\\u003c")
        before, _, after = page.rpartition("</body>")
        page = f"{before}<script>const watched = {about};\n{_asset('banner.js')}</script></body>{after}"
    mark = "unfinished: " if unfinished else "not the whole run: " if stale else ""
    return _TITLE.sub(f"<title>{mark}", page, count=1)


def _curve(piece: Piece) -> str:
    return sparkline(piece.harms, 40)


@cache
def _asset(name: str) -> Markup:
    return Markup(files("holdfast.watching").joinpath("templates", name).read_text("utf-8"))


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("holdfast.watching"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _shown(value: object) -> object:
    """Text of others with control characters made visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
