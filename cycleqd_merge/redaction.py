"""Credentials and values of variables in texts for people: messages, logs and tracebacks show `${NAME}` instead."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

SHORTEST = 8
"""Length of the shortest value that is searched for; shorter ones occur in ordinary texts."""
_CREDENTIAL = re.compile(
    r"AWS_.*|.*(PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL).*|.*TOKENS?|(.*_)?(API|ACCESS|PRIVATE)?KEYS?"
    r"|(.*_)?(PAT|PWD|PASS|JWT|COOKIE)|DATABASE_URL|CYCLEQD_MYSQL_URL",
    re.IGNORECASE,
)
_NO_CREDENTIAL = frozenset({"PWD", "OLDPWD", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"})
_LIMIT = re.compile(r"(MAX|MIN|NUM|N)_.*TOKENS", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/?#@:\"']*):([^\s/?#\"']+)@")
_noted: set[str] = set()


def is_credential(name: str, value: str = "") -> bool:
    """Whether an environment variable may hold a credential, by its name, or by a URL with a password in its value."""
    stem = re.sub(r"_?\d+$", "", name)
    named = bool(_CREDENTIAL.fullmatch(stem)) and name not in _NO_CREDENTIAL and not _LIMIT.fullmatch(name)
    return named or _URL_PASSWORD.search(value) is not None


def credentials(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Values of environment variables that may be credentials, by name; of a URL with a password, the password too."""
    found: dict[str, str] = {}
    for name, value in (os.environ if environment is None else environment).items():
        if not is_credential(name, value):
            continue
        found[name] = value
        if (url := _URL_PASSWORD.search(value)) is not None:
            found[f"{name} (its password)"] = url[2]
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def note(name: str) -> None:
    """Let `redacted` replace the value of this environment variable: a recipe uses it."""
    _noted.add(name)


def redacted(text: str) -> str:
    """The text with `${NAME}` for the values of credentials and noted variables, and no passwords in URLs."""
    values = {value: name for name, value in credentials().items()}
    values |= {value: name for name in _noted if len(value := os.environ.get(name, "")) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        if value in text:
            text = text.replace(value, f"${{{values[value].partition(' ')[0]}}}")
    return _URL_PASSWORD.sub(r"\1:***@", text)


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without values of variables."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a redacted text."""
        return redacted(super().format(record))
