"""Hooks of mkdocs: pages generated from the code, the measurements and the project's files; labels of table cells."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src"), str(ROOT / "benchmarks")]

import house  # noqa: E402
import pages  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

COPIED = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md", "benchmarks/README.md": "benchmarks.md"}


def on_config(config: Any) -> Any:
    """Add the pages of methods to the navigation, one group per kind."""
    groups = [{kind: names} for kind, names in pages.navigation().items()]
    config["nav"] = [*config["nav"][:2], {"Methods": ["methods.md", *groups]}, *config["nav"][2:]]
    config["nav"][-1]["Develop"] += [{"Benchmarks": "benchmarks.md"}, {"Security": "security.md"}]
    config["nav"][-1]["Develop"].append({"Changelog": "changelog.md"})
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Give every cell its column's title, which the style shows on screens that are too narrow for a table."""
    return re.sub(r"<table>.*?</table>", lambda match: _labelled(match[0]), html, flags=re.DOTALL)


def _labelled(table: str) -> str:
    titles = [re.sub(r"<[^>]*>", "", title).strip() for title in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)]
    rows = iter(re.split(r"(?=<tr>)", table))
    return "".join(_with_titles(row, titles) for row in rows)


def _with_titles(row: str, titles: list[str]) -> str:
    left = iter(titles)
    return re.sub(r"<td(?=[ >])", lambda _: f'<td data-title="{next(left, "")}"', row)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the pictures."""
    made = {**pages.all_pages(), "assets/house.svg": house.drawing()}
    for source, name in COPIED.items():
        made[name] = (ROOT / source).read_text(encoding="utf-8")
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files
