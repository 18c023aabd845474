"""What page.js makes of the data of a page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def page_charts(html: str) -> dict[str, dict[str, Any]]:
    """The specifications of a page's charts by place, each with its rows where it names them: what page.js makes."""
    scripts = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', html, re.DOTALL)
    values = {place: json.loads(text) for place, text in scripts}
    return {
        place: _filled(values[value["spec"]], {name: table_rows(table) for name, table in value["data"].items()})
        for place, value in values.items()
        if place.startswith("chart-")
    }


def table_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    def cell(column: Any, row: int) -> Any:
        if isinstance(column, list):
            return column[row]
        return column["of"][column["at"][row]] if "of" in column else column["all"]

    return [{name: cell(column, row) for name, column in table["columns"].items()} for row in range(table["n"])]


def _filled(spec: Any, rows: Mapping[str, Any]) -> Any:
    if isinstance(spec, list):
        return [_filled(item, rows) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: {"values": rows[item["name"]]} if key == "data" else _filled(item, rows) for key, item in spec.items()}
