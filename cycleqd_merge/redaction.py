"""Credentials and values of variables in texts for people: messages, logs and tracebacks show `${NAME}` instead."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

SHORTEST = 8
"""Length of the shortest value that is searched for; shorter ones occur in ordinary texts."""
_CREDENTIAL = re.compile(
    r"AWS_.*|.*(PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|WEBHOOK|CONNECTION_STRING).*|.*TOKENS?|(.*_)?KEYS?"
    r"|(.*_)?\w*(API|ACCESS|PRIVATE|SIGNING)_?KEYS?|(.*_)?(PAT|PWD|(SSH|PG|DB)?PASS|JWT|COOKIE|AUTH|BEARER|SAS)"
    r"|DATABASE_URL|CYCLEQD_MYSQL_URL",
    re.IGNORECASE,
)
_QUALIFIED = re.compile(r"(.*?(TOKEN|(API|ACCESS|PRIVATE|SIGNING)_?KEY|_PAT|_JWT))_\w+", re.IGNORECASE)
"""Names with something after the kind, such as HF_TOKEN_WRITE."""
_NO_QUALIFIER = re.compile(r".*_(BUDGET|COUNT|DIR|FILE|ID|LENGTH|LIMIT|MODE|NAME|PATH|SIZE|TYPE)", re.IGNORECASE)
TOKEN_FORMS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"\b(gh[opsu]_[A-Za-z0-9]{36}|github_pat_\w{22,})",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
"""Patterns of common credentials, by what they are."""
_TOKEN = re.compile("|".join(TOKEN_FORMS.values()))
_NO_CREDENTIAL = frozenset({"PWD", "OLDPWD", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"})
_LIMIT = re.compile(r"(MAX|MIN|NUM|N)_.*TOKENS", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/?#@:\"']*):([^\s/?#\"']+)@")
_noted: set[str] = set()


def is_credential(name: str, value: str = "") -> bool:
    """Whether an environment variable may hold a credential: by its name, or by a URL with a password or a common form
    of token in its value."""
    stem = re.sub(r"_?\d+$", "", name)
    if not _NO_QUALIFIER.fullmatch(stem) and (qualified := _QUALIFIED.fullmatch(stem)) is not None:
        stem = qualified[1]
    named = bool(_CREDENTIAL.fullmatch(stem)) and name not in _NO_CREDENTIAL and not _LIMIT.fullmatch(name)
    return named or _URL_PASSWORD.search(value) is not None or _TOKEN.search(value) is not None


def credentials(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Values of environment variables that may be credentials, by name; of a URL with a password, the password too."""
    found: dict[str, str] = {}
    for name, value in (os.environ if environment is None else environment).items():
        if not is_credential(name, value):
            continue
        found[name] = value.strip()  # files with secrets often end with a line break
        if (url := _URL_PASSWORD.search(value)) is not None:
            found[f"{name} (its password)"] = url[2]
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def note_variable(name: str) -> None:
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
