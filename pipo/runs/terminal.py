"""Log handler for a terminal that may be showing a live bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class TerminalHandler(logging.StreamHandler):
    """Writes to what standard error is now, not to what it was when logging was set up.

    While a bar is shown, rich stands in for standard error and prints above the bar; a line that went past it
    would leave half a bar behind.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.setStream(sys.stderr)
        super().emit(record)


@contextmanager
def warnings_on_terminal() -> Iterator[None]:
    """Show warnings as the command line does, unless whoever calls has set up logging already."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = TerminalHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
