"""Texts in the cache, each with its SHA-256: one that a crash or a disk has damaged is not believed.

They have other names than the entries of version 0.1, which had no checksum and are not read.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from cycleqd_merge.files import write_atomically

log = logging.getLogger(__name__)


def read_entry(path: Path) -> str | None:
    """The text that `write_entry` stored under `path`; None if there is none, or it is damaged."""
    place = _place(path)
    try:
        stated, _, content = place.read_bytes().partition(b"\n")
        if stated == _sum(content):
            return content.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.debug("%s: %s", place, error)
    report_damage(place)
    return None


def write_entry(path: Path, text: str) -> None:
    """Store a text; it is on disk when this returns.

    Raises:
        InfrastructureError, OSError: it cannot be written, see `new_file`.
    """
    content = text.encode()
    write_atomically(_place(path), _sum(content) + b"\n" + content)


def report_damage(place: Path) -> None:
    """Log that something in the cache is damaged and is rebuilt."""
    log.warning("%s: damaged, rebuilding it: a crash or a failing disk may be the cause", place)


def _place(path: Path) -> Path:
    return path.with_name(f"{path.name}.entry")


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
