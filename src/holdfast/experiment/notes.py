"""Log messages of worker processes, which are forwarded to the display."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any


class LogForwarder(logging.Handler):
    """Forwards log messages to the display."""

    def __init__(self, report: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report one line as `note`."""
        self.report({"note": record.getMessage()})
