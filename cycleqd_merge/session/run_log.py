"""A run's log file: what this package logs while the run is in progress."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cycleqd_merge.redaction import RedactingFormatter

_LOGGING: set[int] = set()
"""Threads whose runs keep a log: a comparison runs several at the same time."""


class _LogFile(logging.FileHandler):
    """A log file that ends where the disk is full: the journal reports that."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print no traceback."""

    def close(self) -> None:
        """Close the file, whether or not its last lines can be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append this package's log records to `path`, except those of threads that work on other runs."""
    handler = _LogFile(path, encoding="utf-8")
    own = threading.get_ident()
    handler.addFilter(lambda record: record.thread == own or record.thread not in _LOGGING)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("cycleqd_merge")  # never the root logger: that belongs to the program
    package.addHandler(handler)
    _LOGGING.add(own)
    try:
        yield
    finally:
        _LOGGING.discard(own)
        package.removeHandler(handler)
        handler.close()
