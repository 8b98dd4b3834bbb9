"""mergekit logs through the functions of `logging`, which add a handler to a root logger that has none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
_users = 0


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Run code of mergekit without leaving a handler on the root logger; warnings still reach stderr.

    Until the last thread leaves, a root logger without handlers has `logging.lastResort`, which Python uses anyway.
    """
    global _users
    root, handler = logging.getLogger(), logging.lastResort
    if handler is None:
        yield
        return
    with _LOCK:
        kept = _users > 0 or not root.handlers
        if kept:
            _users += 1
            root.addHandler(handler)
    try:
        yield
    finally:
        with _LOCK:
            if kept:
                _users -= 1
                if not _users:
                    root.removeHandler(handler)
