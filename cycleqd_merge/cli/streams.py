"""Standard output and error that never end a command: a closed pipe, a dead terminal, an encoding without a character.

What cannot be written is dropped, and the command continues: a search that takes days is worth more than its display. A
loss other than to a closed pipe, which is how `head` ends, is reported at the end.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_NO_READER = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF)
"""Nobody reads any more: a closed pipe or connection, a terminal that was hung up, a closed descriptor."""
_USABLE = re.compile(r"[1-9][0-9]{1,3}")
"""A terminal's size. Nothing is shown in fewer columns, and rich accepts digits of which it can make no number."""
_SIMILAR = {"░": ":", "▒": "+", "▓": "%", "█": "#", "·": ".", "│": "|", "…": "~"}


class Dropping(io.FileIO):
    """An output descriptor that drops what cannot be written; `failure` is the last reason."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.number = number
        self.failure: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write or drop at least a part of `data`; returns the number of its bytes."""
        view = memoryview(data)  # type: ignore[arg-type]
        while self.failure is None or self.failure.errno not in _NO_READER:
            try:
                written = super().write(view)
            except OSError as error:
                self.failure = error
                return view.nbytes
            if written is not None:
                return written
            with suppress(OSError, ValueError):  # a terminal that another program made non-blocking
                select.select([], [self.fileno()], [])
        return view.nbytes


def make_dependable() -> list[Dropping]:
    """Replace this process's own stdout and stderr by streams that never raise an error; returns their descriptors.

    Streams that were replaced already, as in a notebook or a test, are left alone. The new ones stay until the process
    ends: libraries print while it does.
    """
    _open_closed_descriptors()
    for size in ("COLUMNS", "LINES"):
        if not _USABLE.fullmatch(os.environ.get(size, "80")):
            del os.environ[size]
    codecs.register_error("spelled", _spelled)
    raw: list[Dropping] = []
    sys.stdout = _dependable(sys.stdout, sys.__stdout__, 1, raw)
    sys.stderr = _dependable(sys.stderr, sys.__stderr__, 2, raw)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    return raw


def loss_of_output(descriptors: Sequence[Dropping]) -> OSError | None:
    """Why output to stdout was dropped although somebody may want to read it, such as a full disk; None if none was."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    failures = [each.failure for each in descriptors if each.number == 1 and each.failure is not None]
    return next((failure for failure in failures if failure.errno not in _NO_READER), None)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """For characters that an encoding lacks: similar ASCII characters in drawings, escapes elsewhere."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_SIMILAR.get(each) or ascii(each)[1:-1] for each in missing), error.end


def _dependable(stream: Any, own: Any, descriptor: int, replaced: list[Dropping]) -> Any:
    """stream: sys.stdout or sys.stderr, None if its descriptor was closed. own: the one that Python opened."""
    if stream is not own:
        return stream
    raw = Dropping(descriptor)
    replaced.append(raw)
    encoding = "utf-8" if stream is None else stream.encoding
    wrapped = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "spelled", line_buffering=descriptor == 2 or raw.isatty()
    )
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.flush()
    return wrapped


def _open_closed_descriptors() -> None:
    """Open the null device in place of closed standard descriptors: another file would get their numbers.

    A library that prints would then write into a journal.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
