"""Values of variables in a run's identity: recorded as `${NAME}` with a digest, which only the run's own salt gives.

The salt is a file of the run directory that is never published: nobody else can try out values.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cycleqd_merge.config.validation_errors import Location
from cycleqd_merge.config.variables import leaf, with_leaf
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.files import write_atomically
from cycleqd_merge.journal.log import Event

log = logging.getLogger(__name__)
SALT_FILE = "variables.salt"
_KEY = "variables"


def with_concealed_values(start: Event, written: Event, folder: Path) -> Event:
    """The identity of a new run in `folder`, with `${NAME}` and digests instead of the values of variables.

    start: the identity with the values. written: the same with `${NAME}`.
    """
    places = list(_different(start, written))
    if not places:
        return start
    salt = _salt(folder) or _new_salt(folder)
    return {**written, _KEY: [{"key": list(at), "digest": _digest(leaf(start, at), salt)} for at in places]}


def as_recorded(now: Event, written: Event, recorded: Event, folder: Path) -> Event:
    """An identity as a recorded one has it: with `${NAME}` where that has a digest of the value that `now` has.

    now: with the values of variables. written: the same with `${NAME}`. folder: the recorded run's, with its salt.
    Without it, values are not compared.
    """
    digests: dict[Location, str] = {tuple(each["key"]): each["digest"] for each in recorded.get(_KEY, [])}
    salt = _salt(folder) if digests else None
    if digests and salt is None:
        names = ", ".join(".".join(map(str, at)) for at in digests)
        log.warning("%s: has no %s: values of variables are not compared: %s", folder, SALT_FILE, names)
    for at in dict.fromkeys((*digests, *_different(now, written))):
        value, known = leaf(now, at), leaf(recorded, at)
        if at not in digests:  # from before variables were recorded by digest
            now = now if value == known else with_leaf(now, at, leaf(written, at))
        elif value is not None and (salt is None or hmac.compare_digest(_digest(value, salt), digests[at])):
            now = with_leaf(now, at, known)
        elif value is not None:
            now = with_leaf(now, at, f"a different value for {known}")
    return {**now, _KEY: recorded[_KEY]} if _KEY in recorded else now


def _different(start: Any, written: Any, at: Location = ()) -> Iterator[Location]:
    """Locations of the values that differ."""
    if isinstance(start, dict) and isinstance(written, dict) and start.keys() == written.keys():
        for key in start:
            yield from _different(start[key], written[key], (*at, key))
    elif isinstance(start, list) and isinstance(written, list) and len(start) == len(written):
        for place, pair in enumerate(zip(start, written, strict=True)):
            yield from _different(*pair, (*at, place))
    elif start != written:
        yield at


def _digest(value: Any, salt: bytes) -> str:
    return hmac.new(salt, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:32]


def _salt(folder: Path) -> bytes | None:
    """The salt of a run; None if its folder has none."""
    path = folder / SALT_FILE
    try:
        return path.read_bytes() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None


def _new_salt(folder: Path) -> bytes:
    salt = secrets.token_hex(32).encode() + b"\n"
    write_atomically(folder / SALT_FILE, salt, mode=0o600)
    return salt
