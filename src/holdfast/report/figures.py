"""Vega-Lite specifications -> bytes of PNG, SVG and PDF files, and the script that draws them on a page."""

from __future__ import annotations

import functools
from typing import Any

import vl_convert

FORMATS = ("png", "svg", "pdf")
_CONFIG = {
    "background": "white",
    "font": "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e5e7eb", "domainColor": "#9ca3af", "tickColor": "#9ca3af"},
}


def draw(spec: dict[str, Any], form: str) -> bytes:
    """One figure as a file of a format in `FORMATS`; nothing is fetched from the network."""
    options: dict[str, Any] = {"config": _CONFIG, "allowed_base_urls": []}
    if form == "svg":
        return vl_convert.vegalite_to_svg(spec, **options).encode()
    if form == "pdf":
        return vl_convert.vegalite_to_pdf(spec, **options)
    return vl_convert.vegalite_to_png(spec, scale=2, **options)


@functools.cache
def script() -> str:
    """Vega-Embed with its dependencies as one script that can be placed inside `<script>`."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")
