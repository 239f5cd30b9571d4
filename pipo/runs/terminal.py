"""Log handler for a terminal that may be showing a live bar."""

from __future__ import annotations

import logging
import sys


class TerminalHandler(logging.StreamHandler):
    """Writes to what standard error is now, not to what it was when logging was set up.

    While a bar is shown, rich stands in for standard error and prints above the bar; a line that went past it
    would leave half a bar behind.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.setStream(sys.stderr)
        super().emit(record)
