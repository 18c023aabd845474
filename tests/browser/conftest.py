"""One browser for all tests, and the report of one invented run that they look at."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MINUTE = 60_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The distribution's Chromium: nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=3 * MINUTE)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of twenty invented cells: five defenses, two attacks, two seeds."""
    path = Path(__file__).parents[2] / "benchmarks" / "report_size.py"
    spec = importlib.util.spec_from_file_location("report_size_benchmark", path)
    assert spec
    assert spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    run = benchmark.write_run(tmp_path_factory.mktemp("seen") / "run", benchmark.SHAPES[20])
    return write_report([run], run / "report.html", title="Invented")


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """`opened(path, hash="", width=..., scheme=...)`: a page in a window of its own.

    At the end of the test, messages on the console, errors and requests other than for files are failures.
    """
    contexts, trouble = [], []

    def opened(path: Path, hash_: str = "", *, width: int = 1280, scheme: str = "light", **more: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **more)
        context.set_default_timeout(MINUTE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or trouble.append(request.url))
        page.goto(path.as_uri() + hash_)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []
